"""A training loop by hand: draws tasks, computes their gradient, and lets Adam step."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from tests.bench.by_hand.gradients import Gradient, HandTask, gradient_of
from tests.bench.by_hand.nets import Weights, forward_of
from tests.bench.by_hand.tasks import drawer_of


class Setting(NamedTuple):
    """What a good loop would try: torch's threads, memory that glibc keeps, and channels last."""

    threads: int = 1
    kept: bool = False
    channels_last: bool = False

    def apply(self) -> None:
        """Take effect in this process, whatever it had before."""
        torch.set_num_threads(self.threads)
        if sys.platform == "linux":
            trim_threshold, mmap_max = -1, -4
            libc = ctypes.CDLL(None)
            libc.mallopt(mmap_max, 0 if self.kept else 65536)  # 0 is what MALLOC_MMAP_MAX_=0 says
            libc.mallopt(trim_threshold, (1 << 31) - 1 if self.kept else 128 * 1024)

    def says(self) -> str:
        words = [f"{self.threads} thread{'s' if self.threads > 1 else ''}"]
        words += ["kept memory"] if self.kept else []
        return ", ".join(words + (["channels last"] if self.channels_last else []))


def settings(device: torch.device, images: bool, cores: int) -> list[Setting]:
    """All that are tried. On a GPU the CPU's memory and threads decide nothing."""
    layouts = (False, True) if images else (False,)
    if device.type == "cuda":
        return [Setting(1, False, last) for last in layouts]
    return [Setting(n, kept, last) for n in range(1, min(cores, 2) + 1) for kept in (False, True) for last in layouts]


class Loop:
    """Second-order MAML, ProtoNet or a sequence model of a recipe, by hand. ``theta`` are its first weights."""

    def __init__(self, recipe: Any, theta: dict[str, Weights], device: torch.device, setting: Setting) -> None:
        setting.apply()
        self.layout = torch.channels_last if setting.channels_last else torch.contiguous_format
        self.count, self.device = recipe.tasks_per_step, device
        self.weights = {name: self.place(leaf.clone()).requires_grad_() for name, leaf in theta["model"].items()}
        moments = {name: leaf.clone().to(device) for name, leaf in theta.get("running", {}).items()}
        self.forward = forward_of(recipe.net)
        self.gradient: Gradient = gradient_of(recipe, self.forward, moments or None)
        self.draw = drawer_of(recipe, device)
        self.adam = torch.optim.Adam(self.weights.values(), lr=1e-3, fused=True)

    def place(self, tensor: Tensor) -> Tensor:
        tensor = tensor.to(self.device)
        return tensor.contiguous(memory_format=self.layout) if tensor.dim() == 4 else tensor

    def compute(self, tasks: Sequence[HandTask]) -> dict[str, Tensor]:
        """The mean gradient of tasks, by leaf."""
        self.adam.zero_grad()
        self.gradient(self.weights, [tuple(map(self.place, task)) for task in tasks])
        return {name: leaf.grad for name, leaf in self.weights.items() if leaf.grad is not None}

    def step(self) -> None:
        """One outer step."""
        self.compute(self.draw(self.count))
        self.adam.step()
