"""The median rule: a child that is behind most earlier ones at the same step is stopped (Vizier, Golovin et al. 2017).

The rule sees one validation of this child and the finished curves of the children before it. A sweep that was killed
and resumed therefore decides as one that was not.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

from pipeline.sweeps.children import Child, Judge

FIRST_SHARE = 1 / 3
"""The share of a child's steps before which it is left alone: early validations say little."""
OTHERS = 4
"""As many earlier children must have been validated at the same step."""


def behind(step: int, steps: int, score: float, earlier: Sequence[Child], judge: Judge) -> str:
    """Why a child is stopped at a validation; empty where it goes on.

    Args:
        step: of the validation, of ``steps`` in all.
        score: of the child at this step.
        earlier: children with lower numbers.
    """
    others = [dict(one.curve)[step] for one in earlier if step in dict(one.curve)]
    others = [other for other in others if math.isfinite(other)]
    if not FIRST_SHARE * steps <= step < steps or len(others) < OTHERS:
        return ""
    median = statistics.median(others)
    worse = score < median if judge.higher_is_better else score > median
    if not worse:
        return ""
    return f"{judge.metric} {score:.4g} at step {step}, median of {len(others)} earlier children {median:.4g}"
