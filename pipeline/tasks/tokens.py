"""Pairs of sequences of unequal length as padded rows of tokens."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import torch

from pipeline.core.failures import ConfigError
from pipeline.core.source import TaskShapes, require_support
from pipeline.core.types import END, PADDING, Pairs


def padded_sources(sources: Sequence[Iterable[int]], rows: int, length: int) -> torch.Tensor:
    """[rows, length] int64: tokens, then padding; a source that is too long is cut."""
    return torch.from_numpy(_padded(sources, rows, length))


def padded_pairs(
    sources: Sequence[Iterable[int]], targets: Sequence[Iterable[int]], rows: int, lengths: tuple[int, int]
) -> Pairs:
    """Pairs as rows: each target ends with ``END``; rows without a pair, up to ``rows``, are padding.

    Args:
        sources, targets: the tokens of each sequence. One that is too long is cut. A target that is cut has no ``END``,
            so that no answer is equal to it.
        rows: N.
        lengths: S and T.
    """
    ended = [[*target, END] for target in targets]
    return Pairs(padded_sources(sources, rows, lengths[0]), torch.from_numpy(_padded(ended, rows, lengths[1])))


def require_languages(shapes: TaskShapes) -> None:
    """Raise ``ConfigError`` where a task has more than one way, or no support set."""
    require_support(shapes)
    for phase, shape in (("train", shapes.train), ("eval", shapes.eval)):
        if shape.ways != 1:
            raise ConfigError(f"task.{phase}.ways: {shape.ways}, but a language has no classes; set it to 1")


def _padded(sequences: Sequence[Iterable[int]], rows: int, length: int) -> np.ndarray:
    padded = np.full((rows, length), PADDING, np.int64)
    for row, sequence in enumerate(sequences):
        tokens = [*sequence][:length]
        padded[row, : len(tokens)] = tokens
    return padded
