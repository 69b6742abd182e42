"""Theta and its outer update: the mean over the tree, clipping per group, the optimizer's step and the fold."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pipeline.core.algorithm import Algorithm
from pipeline.core.failures import InternalError
from pipeline.core.flat import Layout
from pipeline.core.types import Contribution
from pipeline.engine.outer.optimizer import MOST_STEPS, Outer, build_optimizer, build_scheduler, check_schedule, kept_by
from pipeline.engine.outer.reduce import tree_sum


class Store:
    """The one place where theta changes."""

    def __init__(
        self, algorithm: Algorithm[Any, Any], layout: Layout, theta: Tensor, outer: Mapping[str, Outer], steps: int
    ) -> None:
        # Fixed at construction.
        self.algorithm, self.layout = algorithm, layout
        self.outer = dict(outer)
        self.clip = {group: config.clip for group, config in outer.items()}
        # Changes every outer step. Each group's parameter is a view of theta, so the optimizer writes into theta.
        self.version = 0
        self.theta = theta.detach().clone()
        self.parameters = {group: self.theta[layout.groups[group]] for group in outer}
        self.optimizers = {group: build_optimizer(outer[group], self.parameters[group]) for group in outer}
        self.schedulers = {group: build_scheduler(outer[group], self.optimizers[group], steps) for group in outer}

    def step(self, step: int, contributions: Sequence[Contribution]) -> dict[str, float]:
        """Outer step number ``step``; returns each group's gradient norm (before clipping) and learning rate.

        Idempotent: a step that was taken already changes nothing and returns {}.
        """
        if step <= self.version:
            return {}
        if step != self.version + 1:
            raise InternalError(f"outer step {step} cannot follow step {self.version}")
        used = sorted((one for one in contributions if one.weight > 0), key=lambda one: one.chunk)
        weight = tree_sum({one.chunk: torch.tensor(one.weight, dtype=torch.float64) for one in used}).item()
        total = tree_sum({one.chunk: torch.from_numpy(one.gradient) for one in used})
        stepped = {group for one in used for group in one.groups}
        facts: dict[str, float] = {}
        for group in (group for group in self.parameters if group in stepped):
            facts |= self._step_group(group, total[self.layout.groups[group]] / weight)
        self._fold(used)
        self.version = step
        return facts

    def _step_group(self, group: str, mean: Tensor) -> dict[str, float]:
        norm = torch.linalg.vector_norm(mean).item()
        limit = self.clip[group]
        self.parameters[group].grad = mean * (limit / norm) if limit is not None and norm > limit else mean
        rate = self.optimizers[group].param_groups[0]["lr"]
        self.optimizers[group].step()
        self.schedulers[group].step()
        return {f"grad_norm/{group}": norm, f"lr/{group}": float(rate)}

    def _fold(self, used: Sequence[Contribution]) -> None:
        records = [
            {name: torch.from_numpy(value) for name, value in record.items()} for one in used for record in one.records
        ]
        state = self.algorithm.fold(self.layout.unpack(self.theta), records)
        for leaf in self.layout.leaves:
            if leaf.group in state:
                self.theta[leaf.start : leaf.stop] = state[leaf.group][leaf.name].reshape(-1)

    def vector(self) -> np.ndarray:
        """A copy of theta."""
        return self.theta.numpy().copy()

    def state(self) -> tuple[dict[str, Tensor], dict[str, str]]:
        """Everything a resume needs: named tensors, and JSON texts."""
        tensors = {
            f"theta/{group}/{name}": leaf.clone()
            for group, leaves in self.layout.unpack(self.theta).items()
            for name, leaf in leaves.items()
        }
        for group, optimizer in self.optimizers.items():
            for key, value in optimizer.state[self.parameters[group]].items():
                tensors[f"optimizer/{group}/{key}"] = value.clone()
        texts = {f"scheduler/{group}": json.dumps(one.state_dict()) for group, one in self.schedulers.items()}
        rates = {f"rate/{group}": json.dumps(one.param_groups[0]["lr"]) for group, one in self.optimizers.items()}
        return tensors, texts | rates

    def check(self, tensors: Mapping[str, Tensor], texts: Mapping[str, str]) -> None:
        """Raises ``ValueError`` where this is not the state of a store of the same recipe; says which part is not."""
        expected = {f"theta/{leaf.group}/{leaf.name}": (leaf.shape, self.theta.dtype) for leaf in self.layout.leaves}
        for group, parameter in self.parameters.items():
            if any(name.startswith(f"optimizer/{group}/") for name in tensors):  # no state before a step
                expected |= {
                    f"optimizer/{group}/{key}": (tuple(parameter.shape) if value.dim() else (), value.dtype)
                    for key, value in kept_by(self.outer[group], self.theta.dtype).items()
                }
                steps = tensors.get(f"optimizer/{group}/step")
                if steps is not None and steps.dim() == 0 and not 1 <= float(steps) <= MOST_STEPS:
                    raise ValueError(f"optimizer/{group}/step counts no steps")
            check_schedule(self.schedulers[group], texts, group)
        found = {name: (tuple(tensor.shape), tensor.dtype) for name, tensor in tensors.items()}
        for name in sorted({*expected, *found}):
            if expected.get(name) != found.get(name):
                raise ValueError(f"{name} is {_described(found.get(name))}, expected {_described(expected.get(name))}")

    def restore(self, version: int, tensors: Mapping[str, Tensor], texts: Mapping[str, str]) -> None:
        """The inverse of ``state``, for a store built from the same recipe, once ``check`` has passed it."""
        self.version = version
        for leaf in self.layout.leaves:
            self.theta[leaf.start : leaf.stop] = tensors[f"theta/{leaf.group}/{leaf.name}"].reshape(-1)
        for group, optimizer in self.optimizers.items():
            prefix = f"optimizer/{group}/"
            optimizer.state[self.parameters[group]] = {
                key.removeprefix(prefix): value.clone() for key, value in tensors.items() if key.startswith(prefix)
            }
            ours = self.schedulers[group].state_dict()
            theirs = json.loads(texts[f"scheduler/{group}"])
            self.schedulers[group].load_state_dict({key: theirs.get(key, ours[key]) for key in ours})
            optimizer.param_groups[0]["lr"] = json.loads(texts[f"rate/{group}"])


def _described(part: tuple[tuple[int, ...], torch.dtype] | None) -> str:
    return "missing" if part is None else f"{part[1]} {part[0]}"
