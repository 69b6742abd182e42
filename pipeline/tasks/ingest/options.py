"""What a person may choose for a folder of images, or for a table."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal


@dataclass(frozen=True)
class Options:
    """``size`` is the side of the square every image is resized to, whatever its proportions.

    ``split`` are the shares of train, val and test classes (0.64, 0.16 and 0.20 where nothing is said), drawn by
    ``seed``; ``skip_unreadable`` leaves out what cannot be read instead of refusing the folder, and
    ``min_images`` the classes with fewer.
    """

    size: int = 84
    mode: Literal["grey", "rgb"] = "rgb"
    split: tuple[float, ...] | None = None
    seed: int = 0
    skip_unreadable: bool = False
    min_images: int = 1


@dataclass(frozen=True)
class TableOptions:
    """What a person may choose for a table.

    ``label`` is the column of labels, ``leave_out`` the columns that are no features; ``split`` and ``seed`` are as for
    images, ``min_rows`` leaves out classes with fewer, and ``like`` is an ingested table whose standardisation is kept.
    """

    label: str = "label"
    leave_out: tuple[str, ...] = ()
    split: tuple[float, ...] | None = None
    seed: int = 0
    min_rows: int = 1
    like: Path | None = None
