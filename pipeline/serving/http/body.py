"""Reads the body of a request: JSON of a limited size with known keys."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterable, Mapping, Sequence
from typing import Any

from pydantic_core import from_json

from pipeline.serving.http.limits import Refused

SMALL = 1 << 16
"""Bytes that are parsed at once; parsing more would keep other requests waiting."""


async def read_object(headers: Mapping[str, str], stream: AsyncIterable[bytes], most: int) -> dict[str, Any]:
    """The JSON object that a request's body is.

    Raises:
        Refused: 415, it is no JSON; 413, it has more than ``most`` bytes; 400, it is damaged or no object.
    """
    media = headers.get("content-type", "").partition(";")[0].strip().lower()
    if media != "application/json":
        raise Refused(415, f"Content-Type: {media or 'none'}; expected application/json")
    if (encoding := headers.get("content-encoding", "identity").lower()) != "identity":
        raise Refused(415, f"Content-Encoding: {encoding}; send the body as it is")
    too_large = Refused(413, f"body: more than {most} bytes; send fewer or smaller rows")
    length = headers.get("content-length", "")
    if length.isdigit() and int(length) > most:
        raise too_large
    data = bytearray()
    async for part in stream:
        data += part
        if len(data) > most:
            raise too_large
    read = _parse(bytes(data)) if len(data) < SMALL else await asyncio.to_thread(_parse, bytes(data))
    if not isinstance(read, dict):
        raise Refused(400, f'body: a JSON {type(read).__name__}, expected an object such as {{"session": …}}')
    return read


def _parse(data: bytes) -> Any:
    try:
        return from_json(data, allow_inf_nan=False)
    except ValueError as error:
        # The parser calls the constant what it is not: a value.
        nan = " (NaN and Infinity are no JSON)" if re.search(rb"NaN|Infinity", data) else ""
        raise Refused(400, f"body: is no valid JSON{nan}: {' '.join(str(error).split())}") from None


def fields(body: Mapping[str, Any], needed: Sequence[str], others: Sequence[str] = ()) -> list[Any]:
    """The values of these keys, ``None`` for each of the others that is not there.

    Raises:
        Refused: 422, a key is missing or unknown.
    """
    known = (*needed, *others)
    for key in body:
        if key not in known:
            raise Refused(422, f"{key[:80]!r}: no key of this request; expected {', '.join(known) or 'none'}")
    for key in needed:
        if key not in body:
            raise Refused(422, f"{key}: is missing; expected the keys {', '.join(needed)}")
    return [body.get(key) for key in known]
