"""A real run on Ray that takes steps when it is told to: sampling, transport, update, checkpoint and journal are on."""

from __future__ import annotations

import importlib.util
import json
import statistics
from collections.abc import Callable, Collection
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

from pipeline.build import BuildCoordinator, build_components, plan_of
from pipeline.config import Recipe
from pipeline.engine import loop
from pipeline.engine.loop import Enough
from pipeline.engine.scheduling.scheduler import Scheduler
from pipeline.engine.scheduling.timeouts import Timeouts
from tests.bench.prepared import BuildPrepared
from tests.quiet_runs import BuildQuietCoordinator


class Told:
    """A listener that lets the run go on for as many steps as it is told to. The first of them is not measured."""

    def __init__(self, script: Any, taken: Callable[[], Any]) -> None:
        self.script, self.make = script, taken
        self.count = self.done = 0
        self.taken: Any = None
        self.measured: set[int] = set()

    def start(self, steps: int, done: int) -> None:
        self.script.ready()
        self._wait()

    def step(self, step: int, loss: float, metrics: dict[str, float], tasks_per_s: float) -> None:
        if self.taken is None:
            self.taken = self.make()
            return
        self.measured.add(step)
        self.done += 1
        if self.done == self.count:
            self.script.answer(**self.taken.answer(self.count))
            self._wait()

    def validated(self, *validation: object) -> None: ...

    def note(self, text: str) -> None: ...

    def _wait(self) -> None:
        self.count, self.done, self.taken = self.script.steps(), 0, None
        if not self.count:
            raise Enough


def serve(script: Any, recipe: Recipe, workers: int, folder: Path, taken: Callable[[], Any]) -> None:
    """Run on so many workers of a Ray of this process's own; MLflow takes part where it is installed."""
    from pipeline.runtime.cluster import Workers
    from pipeline.runtime.executor import RayExecutor

    run = Path(mkdtemp(dir=folder)) / "run"
    text, tracked = recipe.model_dump_json(), importlib.util.find_spec("mlflow") is not None
    build = BuildCoordinator(text, str(run), "", False) if tracked else BuildQuietCoordinator(text, str(run))
    executor = RayExecutor(
        BuildPrepared(text), build, Workers(workers, recipe.workers.gpus), "local", Scheduler(Timeouts())
    )
    told = Told(script, taken)
    script.facts = lambda: {"stages": stages(run / "journal.jsonl", told.measured), "mlflow": tracked}
    try:
        loop.train(executor, plan_of(recipe, build_components(recipe)), told)
    except Enough:
        executor.close("KILLED", {})


def stages(journal: Path, measured: Collection[int]) -> dict[str, float]:
    """Median shares of a step's time by part, and the step's seconds, of the later half of the measured steps.

    What a step took is journaled with the next one. A step that was not measured waited for the others' turns.
    """
    entries = [json.loads(line) for line in journal.read_text().splitlines()]
    timed = [one["metrics"] for one in entries if one["kind"] == "train" and one["step"] - 1 in measured]
    names = sorted({name for one in timed for name in one if name.startswith("time/")})
    later = timed[len(timed) // 2 :]
    return {name.removeprefix("time/"): statistics.median(one.get(name, 0.0) for one in later) for name in names}
