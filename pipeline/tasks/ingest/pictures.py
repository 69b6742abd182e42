"""Decodes one picture: upright, square, small and with 8 bits."""

from __future__ import annotations

import io
import struct
import warnings
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import BinaryIO, Literal

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from pipeline.tasks.classfile import Pixels
from pipeline.tasks.ingest.links import open_file

FORMATS = ("PNG", "JPEG", "BMP", "GIF", "TIFF", "WEBP")
SUFFIXES = (".png", ".jpg", ".jpeg", ".jfif", ".bmp", ".gif", ".tif", ".tiff", ".webp")
MAX_PIXELS, MAX_BYTES, MAX_SIDE = 64_000_000, 1 << 28, 1024
LARGE = 32_000_000
"""The pixels above which a picture is reduced while it is decoded, to bound memory."""
DEPTHS = (8, 10, 12, 14, 16)

# What Pillow's decoders raise on malformed bytes.
UNREADABLE = (
    *(OSError, ValueError, SyntaxError, EOFError, TypeError, LookupError, OverflowError, MemoryError),
    *(struct.error, zlib.error, Image.DecompressionBombError),
)


def read(path: Path) -> bytes:
    with open_file(path) as file:
        data = file.read(MAX_BYTES + 1)
    if len(data) > MAX_BYTES:
        raise ValueError(f"larger than {MAX_BYTES >> 20} MiB")
    return data


def grey_bits(paths: Iterable[Path]) -> int:
    """How many bits the grey levels of all 16-bit pictures use, since cameras store 10 or 12 bits in 16; 16 without
    pictures."""
    highest = 0
    for path in paths:
        try:
            with open_file(path) as file, _opened(file) as image:
                if image.mode.startswith("I;16"):
                    highest = max(highest, int(np.asarray(image).max()))
        except UNREADABLE:
            continue  # its error is reported when it is decoded
    return next(bits for bits in DEPTHS if highest < 1 << bits) if highest else 16


def decode(data: bytes, size: int, mode: Literal["grey", "rgb"], bits: int) -> tuple[Pixels, str]:
    """[size, size] or [size, size, 3], and the mode the image had. Grey levels of 16 bits use the lowest ``bits``."""
    with _opened(io.BytesIO(data)) as image:
        return pixels_of(image, size, mode, bits), image.mode


def pixels_of(image: Image.Image, size: int, mode: Literal["grey", "rgb"], bits: int) -> Pixels:
    """``decode`` for an opened image. Raises what a decoder raises, and ``ValueError`` for values it would lose."""
    target, found = "RGB" if mode == "rgb" else "L", image.mode
    deep = ";16" in str(getattr(image, "tile", ""))  # how a decoder reads its file
    if found in ("I", "F"):
        raise ValueError(f"32 bits a pixel (mode {found}), expected 8 or 16")
    small = _smaller(image, size, target) if image.width * image.height > LARGE else image
    upright = ImageOps.exif_transpose(small)
    if found.startswith("I;16"):  # Pillow would clip 16 bits to 8
        levels = np.asarray(upright)
        if levels.max() >= 1 << bits:
            raise ValueError(f"grey levels up to {levels.max()}, those of the training pictures are below {1 << bits}")
        upright = Image.fromarray((levels >> (bits - 8)).astype(np.uint8))
    elif deep and 0 < max(band[1] for band in np.atleast_2d(np.array(upright.convert("RGB").getextrema()))) < 64:
        raise ValueError("16 bits a colour, of which the upper ones are 0; scale its colours to 16 bits, or to 8")
    if upright.has_transparency_data:
        white = Image.new("RGBA", upright.size, "white")
        upright = Image.alpha_composite(white, upright.convert("RGBA"))
    return np.asarray(upright.convert(target).resize((size, size), Image.Resampling.LANCZOS))


def _smaller(image: Image.Image, size: int, target: str) -> Image.Image:
    """Reduce a large picture by a whole factor, and keep it at least four times as large as its final size if
    possible."""
    exif = image.info.get("exif")
    image.draft(target, (4 * size, 4 * size))  # JPEG alone: decoded at an eighth, a quarter or a half
    image.load()
    factor = max(1, min(image.size) // (4 * size))
    if image.mode.startswith("I;16"):
        return Image.fromarray(np.asarray(image)[::factor, ::factor])
    plain = image
    if image.mode in ("1", "P"):
        plain = image.convert("RGBA" if image.has_transparency_data else "RGB")
    small = plain.reduce(factor)
    small.info = {**image.info, **({"exif": exif} if exif else {})}
    return small


def _opened(source: BinaryIO) -> Image.Image:
    """The header alone is read. Raises ``ValueError`` where there are too many pixels."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # the limit above is lower
        image = Image.open(source, formats=FORMATS)
    if image.width * image.height > MAX_PIXELS:
        raise ValueError(f"{image.width}×{image.height} pixels, the limit is {MAX_PIXELS // 10**6} million")
    return image


def reason(error: BaseException) -> str:
    if isinstance(error, UnidentifiedImageError):
        return f"not a {', '.join(FORMATS[:-1])} or {FORMATS[-1]} image"
    why = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return " ".join(why.split()) or type(error).__name__
