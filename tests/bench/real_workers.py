"""The model of ``simulate`` against real workers on Ray, whose chunks sleep, so that they need no core each."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch

from pipeline.core.flat import Layout
from pipeline.core.types import Contribution
from pipeline.engine.chunks import chunks_of
from pipeline.engine.interfaces import Block, Opened, Report, Status
from pipeline.engine.outer.optimizer import Outer
from pipeline.engine.outer.reduce import block_sum
from pipeline.engine.outer.store import Store
from pipeline.engine.scheduling.scheduler import Scheduler
from pipeline.engine.scheduling.timeouts import Timeouts
from tests.bench.network import Cluster, Costs

CHUNKS, CHUNK_S, STEPS, COUNTS, SIZES = 16, 0.02, 16, (1, 2, 4), (500_000, 2_000_000)
"""Vectors of 2 and 8 MB: what is much smaller does not travel through Ray's store."""


@dataclass(frozen=True)
class Sleeper:
    """A worker whose chunks take ``CHUNK_S`` and give a vector of ``floats``."""

    floats: int

    fingerprint: ClassVar[dict[str, str]] = {}

    def __call__(self) -> Sleeper:
        return self

    def learn_block(self, theta: np.ndarray, block: Block) -> tuple[Contribution, tuple[Report, ...]]:
        def learned(number: int) -> Contribution:
            time.sleep(CHUNK_S)
            return Contribution(number, ("model",), np.full(self.floats, 1e-3, np.float32), 1.0, [])

        reports = tuple(Report(chunk.step, chunk.number, 1, 1.0, {"mse": 1.0}, (), {}, 1) for chunk in block.chunks)
        return block_sum(block.number, (learned(chunk.number) for chunk in block.chunks)), reports

    def draw_ahead(self) -> None: ...


class Still:
    """An algorithm without state groups, which is all that a store asks of it."""

    def fold(self, theta: Any, records: Any) -> dict[str, Any]:
        return {}


@dataclass(frozen=True)
class BuildStore:
    """A coordinator that writes nothing: the reduction, the optimizer and theta."""

    floats: int

    def __call__(self) -> StoreAlone:
        return StoreAlone(self.floats)


class StoreAlone:
    def __init__(self, floats: int) -> None:
        layout = Layout.of({"model": {"w": torch.zeros(floats)}}, torch.float32)
        self.store = Store(Still(), layout, torch.zeros(floats), {"model": Outer()}, STEPS)  # type: ignore[arg-type]

    def open(self, numerics: Mapping[str, str]) -> Opened:
        return Opened(0, self.vector())

    def commit(self, step: int, contributions: Sequence[Contribution], *facts: Any) -> dict[str, float]:
        self.store.step(step, contributions)
        return {}

    def vector(self) -> np.ndarray:
        return self.store.vector()

    def close(self, status: Status, files: Any) -> None: ...


def seconds(workers: int, floats: int) -> tuple[float, float]:
    """Least seconds of a real step with single chunks, and with blocks."""
    from pipeline.runtime.cluster import Workers
    from pipeline.runtime.executor import RayExecutor

    scheduler = Scheduler(Timeouts(copy_factor=1e9))
    executor = RayExecutor(Sleeper(floats), BuildStore(floats), Workers(workers, 0.0), "local", scheduler)
    found: dict[bool, list[float]] = {True: [], False: []}
    try:
        theta = executor.open().theta
        while len(scheduler.workers) < workers:
            executor.take(executor.transport.poll(0.1))
        for step in range(1, STEPS + 1):
            blocks = step % 2 == 0
            if not blocks:
                scheduler.lease_times.median["learn"] = None  # as if it had never seen a chunk
            start = time.perf_counter()
            wanted = chunks_of(0, step, CHUNKS * workers, 1, purpose="train", split="train")
            handles = {reports[0].chunk: handle for handle, reports in executor.learn(theta, wanted)}
            theta = executor.apply(step, handles, {}, ()).theta  # type: ignore[union-attr]
            found[blocks].append(time.perf_counter() - start)
    finally:
        executor.close("FINISHED", {})
    return min(found[False]), min(found[True])


def table(costs: Costs) -> str:
    """Seconds of a step, real and of the model, with single chunks and in blocks."""
    from tests.bench import simulate

    lines = ["| parameters | workers | chunks | real | model | error |", "|---|---|---|---|---|---|"]
    for floats in SIZES:
        for workers in COUNTS:
            cluster = Cluster(workers, 4 * floats, CHUNK_S, spread=0.0, costs=costs)
            for blocks, real in zip((False, True), seconds(workers, floats), strict=True):
                model = simulate.step(cluster, "", blocks, True, CHUNKS).seconds
                lines.append(
                    f"| {floats / 1e6:g} M | {workers} | {'in blocks' if blocks else 'one by one'} "
                    f"| {real * 1e3:.0f} ms | {model * 1e3:.0f} ms | {model / real - 1:+.0%} |"
                )
    return "\n".join(lines)
