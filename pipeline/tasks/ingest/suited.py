"""Which size and colours suit the pictures of a folder, out of what some of their files say of themselves."""

from __future__ import annotations

import statistics
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, NamedTuple

from PIL import Image

from pipeline.tasks.ingest.links import leads_out, open_file
from pipeline.tasks.ingest.pictures import FORMATS, SUFFIXES, UNREADABLE

LEAST, MOST, LOOKED_AT = 16, 84, 200
"""The sides that four halvings and a minute of training allow, and how many pictures are looked at."""
GREY = ("1", "L", "LA", "I;16", "I;16B", "I;16L")


class Suited(NamedTuple):
    """The side in pixels, and the mode of ingest."""

    size: int
    mode: Literal["grey", "rgb"]


def suited(folder: Path) -> Suited:
    """The median of the shorter sides, within 16 to 84 pixels; grey where no picture has colours."""
    found = list(_headers(folder))
    sides = [min(size) for size, _ in found]
    size = int(statistics.median(sides)) if sides else MOST
    grey = bool(found) and all(mode in GREY for _, mode in found)
    return Suited(max(LEAST, min(MOST, size)), "grey" if grey else "rgb")


def _headers(folder: Path) -> Iterator[tuple[tuple[int, int], str]]:
    root = folder.resolve()
    files = [
        path for path in sorted(folder.rglob("*")) if path.suffix.lower() in SUFFIXES and not leads_out(path, root)
    ]
    for path in files[:: max(1, len(files) // LOOKED_AT)]:
        try:
            with warnings.catch_warnings(), open_file(path) as file:
                warnings.simplefilter("ignore", Image.DecompressionBombWarning)
                with Image.open(file, formats=FORMATS) as image:
                    yield image.size, image.mode
        except UNREADABLE:
            continue  # ingest reports it
