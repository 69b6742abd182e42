"""How pictures become inputs: one function for ingest and for serving."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image

from pipeline.core.failures import DataError
from pipeline.tasks.area import average, shares
from pipeline.tasks.classes import channels_first
from pipeline.tasks.classfile import Pixels
from pipeline.tasks.ingest.pictures import LARGE, MAX_SIDE, UNREADABLE, decode, pixels_of, read, reason

KIND = "pictures"
FIXED = {"kind": KIND, "background": "white", "scale": 255}
"""What all pictures share: transparent pixels become white, and inputs are the pixels divided by 255."""
DEEP = (np.dtype(np.uint8), np.dtype(np.uint16))
"""What the pixels of a raw array are."""


@dataclass(frozen=True)
class PicturePreparation:
    """Pictures made upright, square, small and of 8 bits.

    Attributes:
        size: Their side in pixels.
        mode: ``grey`` or ``rgb``.
        bits: The bits that the grey levels of 16-bit pictures use.
        inverted: Whether dark ink on a white page became bright.
        side: The side of inputs, to which pictures are averaged by area; by default ``size``.
    """

    size: int
    mode: Literal["grey", "rgb"]
    bits: int = 16
    inverted: bool = False
    side: int | None = None

    def decode(self, data: bytes) -> tuple[Pixels, str]:
        """A picture's file as pixels [size, size] or [size, size, 3], and the mode that the picture had."""
        pixels, found = decode(data, self.size, self.mode, self.bits)
        return self._ink(pixels), found

    def convert(self, image: Image.Image) -> Pixels:
        """``decode`` for an image in memory, which is left as it is."""
        # Reducing a large file while it is decoded would change the caller's image.
        own = image.copy() if image.width * image.height > LARGE else image
        return self._ink(pixels_of(own, self.size, self.mode, self.bits))

    def saved(self) -> dict[str, Any]:
        """All of it, as JSON has it."""
        return FIXED | asdict(self)

    @classmethod
    def restored(cls, saved: Mapping[str, Any]) -> PicturePreparation:
        """What ``saved`` gave.

        Raises:
            ValueError, TypeError: it is something else, or of a newer version.
        """
        made = cls(**{name: value for name, value in saved.items() if name not in FIXED})
        sides = [side for side in (made.size, made.side) if side is not None]
        whole = all(type(number) is int for number in (*sides, made.bits))
        if not whole or not all(1 <= side <= MAX_SIDE for side in sides) or not 8 <= made.bits <= 16:
            raise ValueError(f"pictures of size {made.size!r}, side {made.side!r} and {made.bits!r} bits")
        if made.mode not in ("grey", "rgb") or type(made.inverted) is not bool or made.saved() != dict(saved):
            raise ValueError(f"an unknown preparation {dict(saved)}; it may be of a newer version")
        return made

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """[C, H, W]."""
        side = self.side or self.size
        return (3 if self.mode == "rgb" else 1), side, side

    def takes(self, values: Any) -> bool:
        """Whether these are pictures: paths, files' bytes, PIL images, or arrays of uint8 or uint16."""
        if isinstance(values, list | tuple):
            return any(_is_picture(one) for one in values)
        return _is_picture(values)

    def prepare(self, values: Any, name: str) -> np.ndarray:
        """N pictures as float32 [N, C, H, W] in [0, 1]. They may be of any sizes.

        Raises:
            DataError: one of them is no picture, or cannot be read.
        """
        pixels = [self._pixels(one, f"{name}[{at}]") for at, one in enumerate(_each(values, name, self.input_shape))]
        if not pixels:
            raise DataError(f"{name}: no pictures; give one or more")
        inputs = channels_first(np.stack(pixels), self.input_shape[0])
        if self.side is None:
            return inputs.astype(np.float32) / np.float32(255)
        share = shares(self.size, self.side)
        return average(inputs, share, share)

    def _pixels(self, one: Any, place: str) -> Pixels:
        try:
            if isinstance(one, str | Path):
                return self.decode(read(Path(one)))[0]
            if isinstance(one, bytes | bytearray):
                return self.decode(bytes(one))[0]
            return self.convert(one if isinstance(one, Image.Image) else _image(one, self.input_shape))
        except UNREADABLE as error:
            shown = f" {str(one)!r}" if isinstance(one, str | Path) else ""
            raise DataError(f"{place}:{shown} {reason(error)}") from None

    def _ink(self, pixels: Pixels) -> Pixels:
        return 255 - pixels if self.inverted else pixels


def _is_picture(one: Any) -> bool:
    return isinstance(one, str | Path | bytes | bytearray | Image.Image) or _dtype(one) in DEEP


def _dtype(one: Any) -> np.dtype[Any] | None:
    if isinstance(one, torch.Tensor):
        return np.dtype(np.uint8) if one.dtype == torch.uint8 else None
    return one.dtype if isinstance(one, np.ndarray) else None


def _each(values: Any, name: str, shape: tuple[int, ...]) -> Iterator[Any]:
    """The pictures of a list or of one array [N, H, W], [N, H, W, channels] or [N, *shape]."""
    if isinstance(values, list | tuple):
        yield from values
        return
    if isinstance(values, str | Path | bytes | bytearray | Image.Image):
        raise DataError(f"{name}: one picture, expected a list of pictures")
    array = _array(values)
    if array.ndim == 2 or (array.ndim == 3 and array.shape[2] in (3, 4)):
        raise DataError(f"{name}: one picture of the shape {array.shape}, expected a list of pictures")
    if array.ndim not in (3, 4):
        raise DataError(f"{name}: shape {array.shape}, expected (N, H, W), (N, H, W, 3) or {('N', *shape)}")
    yield from array


def _array(values: Any) -> np.ndarray:
    return values.detach().cpu().numpy() if isinstance(values, torch.Tensor) else values


def _image(one: Any, shape: tuple[int, ...]) -> Image.Image:
    """An array [H, W], [H, W, 1 or 3 or 4] or [*shape] as an image. Raises ``ValueError`` for anything else."""
    if _dtype(one) not in DEEP:
        kind = f"an array of {one.dtype}" if hasattr(one, "dtype") else type(one).__name__
        raise ValueError(f"{kind}, expected a path, a picture's bytes, a PIL image, or an array of uint8 or uint16")
    array = _array(one)
    if array.shape == shape:
        array = np.moveaxis(array, 0, -1)
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[..., 0]
    colours = array.ndim == 3 and array.shape[2] in (3, 4) and array.dtype == np.uint8
    if not (array.ndim == 2 or colours) or not array.size:
        raise ValueError(f"shape {np.shape(one)} of {array.dtype}, expected (H, W), or (H, W, 3) or (H, W, 4) of uint8")
    return Image.fromarray(np.ascontiguousarray(array))
