"""Metrics of streams in parts: of each part at any time, and what a learner keeps of earlier parts.

R_ij is a metric of part j after i parts, and R_0j the one before the first. What is kept: Lopez-Paz & Ranzato, Gradient
Episodic Memory, arXiv 1706.08840, §2; Chaudhry et al., Riemannian Walk, arXiv 1801.10112, §3.1; Riemer et al., MER,
arXiv 1810.11910, §5.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from pipeline.core.losses import loss_of_metric
from pipeline.core.types import Params


def by_part(answers: Params, parts: int) -> dict[str, float]:
    """The means over the equal parts of a query set, as ``accuracy_1``, ``accuracy_2`` and so on.

    Args:
        answers: metrics [N] of each query, part by part.
        parts: how many there are.
    """
    return {
        f"{name}_{part}": float(mean)
        for name, each in answers.items()
        for part, mean in enumerate(each.reshape(parts, -1).double().mean(1).tolist(), 1)
    }


def kept_of_parts(metrics: Mapping[str, np.ndarray], name: str) -> dict[str, np.ndarray]:
    """What a learner keeps of P parts, at every point i, as metrics [tasks, P + 1].

    * ``NAME_backward_transfer``: the mean over the parts j ≤ i of R_ij - R_jj, as R_jj was when the part had just been
      learned. MER calls it backward transfer and interference.
    * ``NAME_forgetting``: the mean over the parts j < i of the best of R_1j … R_(i-1)j less R_ij. Of a metric of
      which less is better, it is R_ij less the best.
    * ``NAME_forward_transfer``: the mean over the parts 2 ≤ j ≤ i of R_(j-1)j - R_0j, which is learned of a part before
      it comes.

    A mean over no parts is 0.

    Args:
        metrics: ``NAME_1`` … ``NAME_P``, each [tasks, P + 1]: at the start and after each part.
        name: a metric of a known loss.
    """
    loss = loss_of_metric(name)
    assert loss is not None, "a source of streams is judged by its loss's metric"
    sign = 1.0 if loss.higher_is_better else -1.0
    parts = len(metrics[f"{name}_1"][0]) - 1
    after = np.stack([metrics[f"{name}_{part}"] for part in range(1, parts + 1)], 2)  # [tasks, P + 1, P]
    learned = np.diagonal(after[:, 1:], axis1=1, axis2=2)
    before = np.diagonal(after[:, :-1], axis1=1, axis2=2) - after[:, 0]
    found = {key: np.zeros(after.shape[:2]) for key in ("backward_transfer", "forgetting", "forward_transfer")}
    for i in range(1, parts + 1):
        found["backward_transfer"][:, i] = (after[:, i, :i] - learned[:, :i]).mean(1)
        if i > 1:
            best = (sign * after[:, 1:i, : i - 1]).max(1)
            found["forgetting"][:, i] = (best - sign * after[:, i, : i - 1]).mean(1)
            found["forward_transfer"][:, i] = before[:, 1:i].mean(1)
    return {f"{name}_{key}": values for key, values in found.items()}
