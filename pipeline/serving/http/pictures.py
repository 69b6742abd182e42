"""Pictures in a request's body: the bytes of image files, in base64."""

from __future__ import annotations

import base64
import binascii
import io
from typing import Any

from PIL import Image

from pipeline.core.failures import DataError
from pipeline.tasks.ingest.pictures import FORMATS, MAX_PIXELS, UNREADABLE, reason


def decoded(values: Any, name: str) -> Any:
    """A list of texts as the bytes of pictures, which the model prepares; anything else as it is.

    A text is never taken for the path of a file: that would be a file of the server's.

    Raises:
        DataError: a text is no base64 or no picture, or the pictures have too many pixels.
    """
    if isinstance(values, str):
        raise DataError(f"{name}: one text, expected a list")
    if not isinstance(values, list) or not any(isinstance(one, str) for one in values):
        return values
    pictures, pixels = [], 0
    for number, text in enumerate(values):
        picture = _bytes(text, f"{name}[{number}]")
        pixels += _pixels(picture, f"{name}[{number}]")
        if pixels > MAX_PIXELS:
            raise DataError(f"{name}: more than {MAX_PIXELS // 10**6} million pixels in one request; send smaller ones")
        pictures.append(picture)
    return pictures


def _bytes(text: Any, name: str) -> bytes:
    if not isinstance(text, str):
        raise DataError(f"{name}: {type(text).__name__} beside pictures; expected the bytes of a picture in base64")
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise DataError(f"{name}: {text[:20]!r} is no base64; expected the bytes of a picture in base64") from None


def _pixels(picture: bytes, name: str) -> int:
    """Reads the header alone: few bytes may hold a picture that takes minutes."""
    try:
        with Image.open(io.BytesIO(picture), formats=FORMATS) as image:
            return image.width * image.height
    except UNREADABLE as error:
        raise DataError(f"{name}: {reason(error)}") from None
