"""Metrics of streams in parts against tables by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pipeline.tasks.parts import by_part, kept_of_parts

TABLE = np.array([[0.1, 0.1, 0.1], [0.6, 0.2, 0.1], [0.8, 0.7, 0.3], [0.5, 0.4, 0.9]])
"""Row i, column j: the accuracy on part j after i parts. Part 1 is best after two parts, not when it was learned."""


def kept(table: np.ndarray, name: str) -> dict[str, list[float]]:
    metrics = {f"{name}_{part}": table[None, :, part - 1] for part in range(1, table.shape[1] + 1)}
    return {key.removeprefix(f"{name}_"): values[0].tolist() for key, values in kept_of_parts(metrics, name).items()}


def test_what_is_kept_of_parts_by_hand():
    found = kept(TABLE, "accuracy")
    assert found["backward_transfer"] == pytest.approx([0, 0, (0.8 - 0.6) / 2, (-0.1 - 0.3 + 0) / 3])
    # From the best of all earlier points: from R_jj, as backward transfer is, the last were 0.2.
    assert found["forgetting"] == pytest.approx([0, 0, 0.6 - 0.8, (0.3 + 0.3) / 2])
    assert found["forward_transfer"] == pytest.approx([0, 0, 0.1, (0.1 + 0.2) / 2])


def test_a_smaller_error_is_the_better_one():
    found, of_accuracy = kept(1 - TABLE, "mse"), kept(TABLE, "accuracy")
    assert found["forgetting"] == pytest.approx(of_accuracy["forgetting"])
    assert found["backward_transfer"] == pytest.approx([-value for value in of_accuracy["backward_transfer"]])


def test_retained_accuracy_is_learning_accuracy_and_backward_transfer():
    """MER's table: RA = LA + BTI."""
    assert TABLE[3].mean() == pytest.approx(np.diag(TABLE[1:]).mean() + kept(TABLE, "accuracy")["backward_transfer"][3])


def test_a_part_is_judged_by_its_own_queries():
    assert by_part({"accuracy": torch.tensor([1.0, 0, 1, 1, 0, 0])}, 3) == {
        "accuracy_1": 0.5,
        "accuracy_2": 1.0,
        "accuracy_3": 0.0,
    }
