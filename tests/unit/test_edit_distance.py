"""Levenshtein's distance: by hand, against rapidfuzz, and under vmap."""

from __future__ import annotations

import pytest
import torch

from pipeline.core.edit_distance import edit_distance


def rows(*texts: str, width: int = 8) -> torch.Tensor:
    return torch.tensor([[ord(letter) - 96 for letter in text] + [0] * (width - len(text)) for text in texts])


@pytest.mark.parametrize(
    ("answer", "target", "distance"),
    [
        ("", "", 0),
        ("abc", "abc", 0),
        ("", "abc", 3),
        ("abc", "", 3),
        ("abc", "abd", 1),
        ("abc", "abcd", 1),
        ("abcd", "abc", 1),
        ("ab", "ba", 2),
        ("bcdefg", "abcdef", 2),
        ("kitten", "sitting", 3),
        ("saturday", "sunday", 3),
        ("aaaaaaaa", "bbbbbbbb", 8),
    ],
)
def test_by_hand(answer, target, distance):
    assert edit_distance(rows(answer), rows(target)).tolist() == [distance]
    assert edit_distance(rows(target), rows(answer)).tolist() == [distance]


def test_a_row_ends_before_its_first_zero():
    """What a decoder writes after its end does not count."""
    assert edit_distance(torch.tensor([[1, 2, 0, 3, 3]]), torch.tensor([[1, 2, 0, 0, 4]])).tolist() == [0]


def test_widths_may_differ_and_more_padding_changes_nothing():
    narrow, wide = rows("abc", width=3), rows("abd", width=8)
    assert edit_distance(narrow, wide).tolist() == edit_distance(wide, narrow).tolist() == [1]


def random_rows(count: int, width: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(count + width)
    ids = torch.randint(1, 5, (count, width), generator=generator)
    lengths = torch.randint(0, width + 1, (count, 1), generator=generator)
    return torch.where(torch.arange(width) < lengths, ids, 0)


def test_1000_random_rows_as_rapidfuzz_has_them():
    levenshtein = pytest.importorskip("rapidfuzz.distance").Levenshtein
    answers, target = random_rows(1000, 12), random_rows(1000, 15)
    expected = [
        levenshtein.distance([id for id in one if id], [id for id in other if id])
        for one, other in zip(answers.tolist(), target.tolist(), strict=True)
    ]
    assert edit_distance(answers, target).tolist() == expected
    assert min(expected) == 0
    assert max(expected) > 8


def test_it_can_be_vectorised_over_tasks():
    answers, target = random_rows(60, 6).view(5, 12, 6), random_rows(60, 7).view(5, 12, 7)
    each = torch.stack([edit_distance(one, other) for one, other in zip(answers, target, strict=True)])
    assert torch.equal(torch.func.vmap(edit_distance)(answers, target), each)
    assert torch.equal(torch.func.vmap(edit_distance, in_dims=(0, None))(answers, target[0])[0], each[0])


def test_no_rows_and_no_columns():
    assert edit_distance(torch.zeros(0, 4, dtype=torch.int64), torch.zeros(0, 3, dtype=torch.int64)).shape == (0,)
    assert edit_distance(torch.zeros(2, 0, dtype=torch.int64), rows("ab", "")).tolist() == [2, 0]
