"""Three worker processes that serve run after run: starting one costs seconds of imports, and most runs are tiny."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipeline.build import BuildWorker
from pipeline.config import recipe_type
from pipeline.core.types import Contribution
from pipeline.engine.interfaces import Block, Report, ScoreReport
from pipeline.engine.scheduling.events import Event, Joined
from pipeline.engine.worker import Worker
from pipeline.runtime.transport import RayTransport


class ManyWorkers:
    """The workers of several recipes in one process, told apart by the seed of the tickets."""

    def __init__(self, workers: dict[int, Worker]) -> None:
        self.workers = workers
        self.fingerprint: dict[str, str] = {}
        for one in workers.values():
            self.fingerprint |= one.fingerprint
        assert all(one.fingerprint.items() <= self.fingerprint.items() for one in workers.values())

    def learn_block(self, theta: np.ndarray, block: Block) -> tuple[Contribution, tuple[Report, ...]]:
        return self.workers[block.tickets[0].seed].learn_block(theta, block)

    def score_block(self, theta: np.ndarray, block: Block) -> tuple[ScoreReport, ...]:
        return self.workers[block.tickets[0].seed].score_block(theta, block)

    def draw_ahead(self) -> None:
        for one in self.workers.values():
            one.draw_ahead()


@dataclass(frozen=True)
class BuildManyWorkers:
    """One worker for each recipe; their seeds differ, and their numerics where only some tell versions of libraries."""

    recipes: tuple[str, ...]

    def __call__(self) -> ManyWorkers:
        seeds = [recipe_type().model_validate_json(text).seed for text in self.recipes]
        return ManyWorkers({seed: BuildWorker(text)() for seed, text in zip(seeds, self.recipes, strict=True)})


class Seats:
    """The first ``count`` standing workers as the transport of one run, at whose end they stay."""

    def __init__(self, standing: RayTransport, count: int) -> None:
        self.standing, self.count = standing, count
        self.send, self.add, self.replace, self.poll = standing.send, standing.add, standing.replace, standing.poll
        self.stop, self.head = standing.stop, standing.head

    def first_numerics(self, patience: float, note: Any = None) -> tuple[dict[str, str], Sequence[Event]]:
        numerics, _ = self.standing.first_numerics(patience)
        return numerics, [Joined(worker) for worker in range(self.count)]

    def close(self) -> None: ...


def stand(transport: RayTransport) -> RayTransport:
    """The transport, once all of its workers have joined."""
    waiting: Any = transport.joining
    while waiting:
        transport.poll(1.0)
    return transport
