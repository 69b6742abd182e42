"""Levenshtein's distance of padded rows of tokens as tensor operations, which ``torch.func.vmap`` can transform."""

from __future__ import annotations

import torch
from torch import Tensor


def edit_distance(answers: Tensor, target: Tensor) -> Tensor:
    """The least number of insertions, deletions and replacements that make a row of answers its target.

    A row ends before its first 0, which is padding. The table of distances is filled row by row: an entry is the least
    of those above and above left, plus their costs, and of those to its left, which is a running minimum once the
    position is subtracted.

    Args:
        answers: [N, A] int64.
        target: [N, T] int64.

    Returns:
        [N] int64.
    """
    ours, theirs = _length(answers)[:, None], _length(target)[:, None]
    position = torch.arange(target.shape[1] + 1, device=target.device)
    row = last = position.expand(target.shape[0], -1)
    for column in range(answers.shape[1]):
        differs = (answers[:, column : column + 1] != target).to(torch.int64)
        above = torch.minimum(row[:, 1:] + 1, row[:, :-1] + differs)
        row = torch.cat([row[:, :1] + 1, above], 1)
        row = torch.cummin(row - position, 1).values + position
        last = torch.where(ours == column + 1, row, last)
    return last.gather(1, theirs)[:, 0]


def _length(rows: Tensor) -> Tensor:
    """How many ids stand before a row's first 0, [N]."""
    return (rows != 0).to(torch.int64).cumprod(1).sum(1)
