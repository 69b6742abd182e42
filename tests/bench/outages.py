"""What it costs a run that its MLflow server hangs, answers 500 or is gone for a while; and what MLflow has then."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from pipeline.config import Recipe, load
from pipeline.runs.sync import sync_run
from tests import mlflow_server
from tests.bench.coordinators import BuildTimedCoordinator, Spent, read_spent
from tests.bench.proxy import MODES, Mode, Proxy
from tests.bench.ratio import Ratio, blocks, ratio
from tests.bench.stepping import Rates, train
from tests.in_mlflow import check_metrics

RECIPE = "sinusoid_maml"
WARM_UP = 100
PACE_STEPS = 500
LENGTH = 2.5
"""Of a run, in outages: half of one before, and about one after, some of which a machine that gets faster may take."""
SLOWEST, MOST = 0.95, 0.01
"""Bounds: how fast a run must stay, and what share of a step may go into tracking."""


class Share(NamedTuple):
    """Where the time of some steps went, in seconds: see ``Spent``."""

    steps: int
    wall: float
    journal: float
    stolen: float
    published: float

    @property
    def tracking(self) -> float:
        """Of the steps' wall time, what tracking took on their critical path."""
        return (self.journal + self.stolen) / self.wall


class Outage(NamedTuple):
    """A run with one: its speed during the outage against before and after, and what went wrong with it."""

    mode: Mode
    speed: Ratio
    up: Share
    out: Share
    sent_later: bool
    wrong: list[str]

    def problems(self) -> list[str]:
        """A line for each thing that does not hold."""
        problems = list(self.wrong)
        if self.out.tracking > MOST:
            problems.append(f"{self.out.tracking:.2%} of a step went into tracking, at most {MOST:.0%} may")
        if self.speed.value < SLOWEST:
            problems.append(f"{self.speed.value:.3f} times as fast as with the server up, at least {SLOWEST} is due")
        return [f"{self.mode}: {one}" for one in problems]


class Schedule(Rates):
    """Watches a run, and takes its server away after ``seconds`` / 2 for ``seconds``."""

    def __init__(self, recipe: Recipe, proxy: Proxy, mode: Mode, seconds: float) -> None:
        super().__init__(recipe)
        self.proxy = proxy
        self.left: list[tuple[Mode, float]] = [("up", seconds / 2), (mode, seconds), ("up", float("inf"))]
        self.begins = [WARM_UP]
        """The first step of each stretch, counted from 0."""
        self._until = float("inf")

    def step(self, step: int, loss: float, metrics: dict[str, float], tasks_per_s: float) -> None:
        super().step(step, loss, metrics, tasks_per_s)
        if step == WARM_UP:
            self._until = time.monotonic() + self.left[0][1]
        elif time.monotonic() >= self._until:
            self.left.pop(0)
            mode, seconds = self.left[0]
            self.proxy.set(mode)
            self.begins.append(step)
            self._until = time.monotonic() + seconds
        if step == self.recipe.steps:
            self.proxy.set("up")

    def stretches(self) -> list[slice]:
        """Before, during and after."""
        return [slice(*ends) for ends in zip(self.begins, [*self.begins[1:], self.recipe.steps], strict=True)]


def outages(seconds: float, folder: Path, say: Callable[[str], None]) -> Iterator[Outage]:
    """A run for each mode of the proxy; ``up`` shows what the measurement itself is worth."""
    port = mlflow_server.free_port()
    server = mlflow_server.start(folder, port)
    proxy = Proxy(mlflow_server.free_port(), port)
    try:
        pace = _pace(folder / "pace", proxy)
        say(f"{pace:.1f} steps/s; {len(MODES)} runs of {LENGTH * seconds:g} s")
        for mode in MODES:
            yield outage(mode, seconds, int(LENGTH * seconds * pace), folder, proxy)
    finally:
        proxy.close()
        mlflow_server.stop(server)


def _recipe(steps: int, proxy: Proxy) -> Recipe:
    return load(RECIPE, [f"steps={steps}", "workers.count=2", "evaluation.tasks=1", f"tracking.uri={proxy.uri}"])


def _timed_run(recipe: Recipe, run: Path, listener: Rates) -> tuple[str | None, list[Spent]]:
    notes = run.with_suffix(".spent")
    unsent = train(recipe, BuildTimedCoordinator(recipe.model_dump_json(), str(run), str(notes)), listener)
    return unsent, read_spent(notes)


def _pace(run: Path, proxy: Proxy) -> float:
    recipe = _recipe(PACE_STEPS, proxy)
    rates = Rates(recipe)
    _timed_run(recipe, run, rates)
    return float(1 / np.mean(1 / rates.array()[WARM_UP:]))


def outage(mode: Mode, seconds: float, steps: int, folder: Path, proxy: Proxy) -> Outage:
    """A run of ``steps`` after its warming up, with one outage."""
    recipe, run = _recipe(steps + WARM_UP, proxy), folder / mode
    schedule = Schedule(recipe, proxy, mode, seconds)
    unsent, spent = _timed_run(recipe, run, schedule)
    if unsent is not None:
        sync_run(run)
    wrong = check_metrics(run, f"sqlite:///{folder}/mlflow.db")
    stretches = schedule.stretches()
    if len(stretches) < 3:
        wrong.append("the run was over before the outage was; nothing else may run on this machine")
    rates = schedule.array()
    out, up = stretches[1], [stretches[0], *stretches[2:]]
    speed = ratio([block for one in up for block in blocks(rates[one])], blocks(rates[out]))
    spent_up = [one for stretch in up for one in spent[stretch]]
    return Outage(mode, speed, share(spent_up, rates), share(spent[out], rates), unsent is not None, wrong)


def share(spent: Sequence[Spent], rates: np.ndarray) -> Share:
    """The sums over some steps of a run."""
    wall = sum(1 / rates[one.step - 1] for one in spent)
    parts = [sum(getattr(one, name) for one in spent) for name in ("journal", "stolen", "published")]
    return Share(len(spent), wall, *parts)


def outage_table(found: Sequence[Outage]) -> str:
    """As Markdown; µs are means over the steps of the outage."""
    head = (
        "| server | steps/s, up | steps/s, then | then / up (95%) | of totals | journal, µs | stolen, µs"
        " | tracking, of a step | the same, up | publisher's CPU, of all | rest sent | metrics |"
    )
    rows = [
        f"| {one.mode} | {one.speed.old:.1f} | {one.speed.new:.1f} | {one.speed.value:.3f}"
        f" ({one.speed.low:.3f}–{one.speed.high:.3f}) | {one.speed.total:.3f}"
        f" | {one.out.journal / one.out.steps * 1e6:.0f} | {one.out.stolen / one.out.steps * 1e6:.0f}"
        f" | {one.out.tracking:.2%} | {one.up.tracking:.2%} | {one.out.published / one.out.wall:.1%}"
        f" | {'by sync' if one.sent_later else 'by the run'} | {'see below' if one.wrong else 'each once'} |"
        for one in found
    ]
    return "\n".join([head, "|---|" + "---:|" * 9 + "---|---|", *rows])
