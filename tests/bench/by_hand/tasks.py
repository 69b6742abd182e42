"""Drawing a step's tasks as one would by hand: all at once, from a table in memory."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from pipeline.tasks import classfile
from tests.bench.by_hand.gradients import HandTask

Draw = Callable[[int], list[HandTask]]
"""So many tasks, as float32 on the device."""


def drawer_of(recipe: Any, device: torch.device) -> Draw:
    """Draws training tasks like a recipe's."""
    shape, source = recipe.task.train, recipe.source
    if source.name == "sinusoid":
        return Sinusoids(shape, device)
    if source.name == "images":
        return Pictures(source, shape, device)
    if source.name == "sequences":
        return Sequences(source, shape, device)
    raise ValueError(f"source.name: {source.name} is not drawn by hand; there are sinusoid, images and sequences")


class Sinusoids:
    """Amplitude in [0.1, 5], phase in [0, π], x in [-5, 5]."""

    def __init__(self, shape: Any, device: torch.device) -> None:
        self.shots, self.each, self.device = shape.shots, shape.shots + shape.queries, device
        self.rng = np.random.default_rng(0)

    def __call__(self, count: int) -> list[HandTask]:
        amplitude = self.rng.uniform(0.1, 5.0, (count, 1, 1))
        phase = self.rng.uniform(0.0, np.pi, (count, 1, 1))
        x = self.rng.uniform(-5.0, 5.0, (count, self.each, 1))
        x, y = (torch.from_numpy(values).float().to(self.device) for values in (x, amplitude * np.sin(x - phase)))
        s = self.shots
        return [(x[i, :s], y[i, :s], x[i, s:], y[i, s:]) for i in range(count)]


class Pictures:
    """Classes without repetition and pictures of each; a table holds all four quarter turns."""

    def __init__(self, source: Any, shape: Any, device: torch.device) -> None:
        self.table = torch.from_numpy(training_pictures(source)).to(device)
        self.as_classes = source.train_rotations == "classes"
        self.shape, self.device, self.rng = shape, device, np.random.default_rng(0)

    def rows(self, count: int, ways: int, each: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Quarter turns and classes [count, ways, 1], and pictures [count, ways, each]."""
        turns, classes, pictures = self.table.shape[:3]
        if self.as_classes:
            drawn = np.stack([self.rng.choice(turns * classes, ways, replace=False) for _ in range(count)])
            turn, chosen = drawn % turns, drawn // turns
        else:
            chosen = np.stack([self.rng.choice(classes, ways, replace=False) for _ in range(count)])
            turn = self.rng.integers(turns, size=(count, ways))
        picked = self.rng.random((count, ways, pictures)).argsort(-1)[..., :each]
        return turn[..., None], chosen[..., None], picked

    def __call__(self, count: int) -> list[HandTask]:
        ways, shots, queries = self.shape.ways, self.shape.shots, self.shape.queries
        x = as_floats(self.table[tuple(map(torch.from_numpy, self.rows(count, ways, shots + queries)))])
        slots = torch.arange(ways, device=self.device)
        y, asked = slots.repeat_interleave(shots), slots.repeat_interleave(queries)
        support, query = x[:, :, :shots].flatten(1, 2), x[:, :, shots:].flatten(1, 2)
        return [(support[i], y, query[i], asked) for i in range(count)]


class Sequences:
    """Each picture's class is drawn by itself; pictures are made smaller once, not in each step."""

    def __init__(self, source: Any, shape: Any, device: torch.device) -> None:
        self.pictures = Pictures(source, shape, device)
        turns, classes, each, *size = self.pictures.table.shape
        small = F.interpolate(as_floats(self.pictures.table.flatten(0, 2)), source.side, mode="area")
        self.table = small.unflatten(0, (turns, classes, each))
        self.shape, self.device = shape, device

    def __call__(self, count: int) -> list[HandTask]:
        ways, each, rng = self.shape.ways, self.shape.queries, self.pictures.rng
        turn, chosen, picked = self.pictures.rows(count, ways, each)
        y = rng.integers(ways, size=(count, ways * each))
        earlier = np.tril(y[:, :, None] == y[:, None, :], -1).sum(-1) % each
        rows = (np.take_along_axis(part[..., 0], y, 1) for part in (turn, chosen))
        here = np.arange(count)[:, None]
        x = self.table[(*map(torch.from_numpy, rows), torch.from_numpy(picked[here, y, earlier]))]
        labels = torch.from_numpy(y).to(self.device)
        return [(x[i], labels[i]) for i in range(count)]


def training_pictures(source: Any) -> np.ndarray:
    """[quarter turns, classes, pictures of each, C, H, W] in bytes; one turn where the recipe turns nothing."""
    file = classfile.read(Path(source.path))
    classes = file.splits[source.split]["train"]
    each = min(last - first for first, last in map(file.rows, classes))
    first = file.offsets[np.array(classes)]
    pixels = file.images[first[:, None] + np.arange(each)]
    pixels = pixels[:, :, None] if pixels.ndim == 4 else np.moveaxis(pixels, -1, 2)
    turns = 1 if source.train_rotations == "none" else 4
    return np.stack([np.rot90(pixels, turn, axes=(3, 4)) for turn in range(turns)])


def as_floats(pixels: Tensor) -> Tensor:
    return pixels.float().div_(255)
