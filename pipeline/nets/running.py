"""Running moments: what the normalisation mode of that name gathers while a method trains, a state group of theta."""

from __future__ import annotations

import torch

from pipeline.core.types import MetaParams, Params

MOMENTUM = 0.1
"""Share of the newest moments in the running ones, per outer step."""


def fold_moments(theta: MetaParams, records: list[Params]) -> MetaParams:
    """Move the running moments towards the mean of the used tasks' moments. Without a record they are unchanged."""
    if not records:
        return {}
    return {
        "running": {
            name: (1 - MOMENTUM) * old + MOMENTUM * torch.stack([record[name] for record in records]).mean(0)
            for name, old in theta["running"].items()
        }
    }
