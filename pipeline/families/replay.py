"""Learners of one stream that begin with random weights and repeat examples from a memory. Nothing is meta-learned.

Chaudhry et al.: On Tiny Episodic Memories in Continual Learning, arXiv 1902.10486.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar

import numpy as np
import torch
from annotated_types import Ge, Le

from pipeline.core.batches import in_order, part_ends, reservoir
from pipeline.core.bounds import MAX_COUNT, Count, Rate
from pipeline.core.effects import NotWith
from pipeline.core.losses import LossFunction
from pipeline.core.network import Network
from pipeline.core.types import Batch, Context, MayChange, Needs, Params, Phase, Task
from pipeline.families.gradient import BATCHES, GradientBased, Nothing
from pipeline.nets.normalisation import refuse_batches


@dataclass(frozen=True)
class ReplayConfig:
    """The steps on a stream, in every phase, and its memory.

    Attributes:
        inner_lr: Rate of a step.
        inner_batch: Consecutive examples of a step, a divisor of the stream's length.
        memory: Examples that the memory holds: a uniform sample of the stream so far. Without any it is plain online
            learning.
        replayed: Examples of a step that come from the memory, beside those of the stream.
    """

    inner_lr: Annotated[Rate, MayChange()] = 0.01
    inner_batch: Annotated[Count, MayChange()] = 1
    memory: Annotated[int, Ge(0), Le(MAX_COUNT), MayChange()] = 200
    replayed: Annotated[Count, MayChange(), NotWith(memory=(0,))] = 10


class Replayed(GradientBased):
    """Theta stays what ``init`` drew from the run's seed, and a run of one step is enough.

    A stream has as many equal parts as a task has ways.

    Raises:
        ConfigError: a normalisation that looks at a batch: early in a stream the memory repeats the step's own
            examples, whose batch has no variance.
    """

    meta_gradient = Nothing()
    frozen_groups = frozenset({"model"})
    drops_in_steps = True
    needs: ClassVar[Needs] = Needs(data=(Batch,), targets=("slots", "labels", "values"), head=True)

    def __init__(self, config: ReplayConfig, model: Network, loss: LossFunction) -> None:
        refuse_batches(model.mode, f"{type(self).__name__} learns a stream")
        super().__init__(config, model, loss)

    def extra_noise(self, rng: np.random.Generator, task: Task[Batch], phase: Phase) -> Params:
        """The rows of each step: those of the stream, then those of the memory.

        Raises:
            ConfigError: ``inner_batch`` does not divide the stream.
        """
        order = in_order(len(task.support.y), self.config.inner_batch)
        if not self.config.memory:
            return {BATCHES: order}
        again = reservoir(rng, order, self.config.memory, self.config.replayed)
        return {BATCHES: torch.cat([order, again], 1)}

    def steps(self, context: Context) -> int:
        return len(context.noise[BATCHES])

    def milestones(self, context: Context) -> Sequence[int]:
        """The ends of a stream's parts."""
        return part_ends(self.steps(context), context.ways)
