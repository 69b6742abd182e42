"""What a person may choose for a folder of images."""

from __future__ import annotations

from dataclasses import dataclass
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
