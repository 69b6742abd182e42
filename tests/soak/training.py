"""One run in a world of its own, kept going from outside: by itself, or with a fault every few seconds."""

from __future__ import annotations

import json
import random
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from pipeline.config import load
from pipeline.runs.sync import sync_run
from tests.soak.growth import Growth, Samples
from tests.soak.stalls import Fault, Stalls, Steps, stalls
from tests.soak.world import KINDS, World

BETWEEN_S = (2.0, 5.0)
PATIENCE_S = 5.0
"""That a fault waits for something to harm."""
PILOT_SHARE = 0.15
"""Of the time: a stretch without faults first, which says how long the whole run would take so. The run that is left
alone has these steps too, and is long enough for a look at its memory."""
ENDING_S = 10.0
"""About what the last evaluation and the last metrics take."""
START_SHARE = 0.5
"""Of the time until the first step, what the driver and its actors take; the rest is Ray's and MLflow's."""
STANDSTILL_S = 180.0
"""After which nobody believes any more that the run goes on."""
ENDLESS = 100_000
TICK_S = 0.1


class Trained(NamedTuple):
    """How a run went; ``rate`` is in steps a second, of a broken run while it was broken."""

    theta: str
    times: list[float]
    stalls: dict[str, Stalls]
    rate: float
    growth: dict[str, Growth]
    faults: list[Fault]
    messages: Counter[str]
    exits: Counter[int]


class Training:
    """A run and its world; steps and sizes are looked at while it goes."""

    def __init__(self, folder: Path, seed: int, steps: int, *, broken: bool) -> None:
        folder.mkdir(parents=True)
        self.world = World(folder, seed, unreliable=broken)
        self.steps, self.samples, self.broken = Steps(self.world.run), Samples(), broken
        self.begun = time.time()
        self.ask_for(steps)

    def ask_for(self, steps: int) -> None:
        """How many steps the next session of the driver is to reach."""
        self.wanted = steps
        tracking = f"tracking.uri=http://127.0.0.1:{self.world.port}"
        constant = "outer.model.schedule=constant"  # theta after n steps does not ask how many were wanted
        changes = [f"steps={steps}", "seed=11", "evaluation.tasks=50", tracking, constant]
        self.world.recipe.write_text(load("sinusoid_maml", changes).model_dump_json())

    def begin(self) -> None:
        """Until the first step is done."""
        self.world.start_server()
        self.world.start_driver()
        while not self.steps.times:
            self.go_on(TICK_S)

    def go_on(self, seconds: float) -> bool:
        """Let it run, and keep it running, for so long; whether it has ended before that."""
        until = time.monotonic() + seconds
        while not self.world.look_after_driver():
            self.steps.read()
            if time.time() > STANDSTILL_S + max([self.begun, *self.steps.times[-1:]]):
                raise TimeoutError(f"no step was done for {STANDSTILL_S:.0f} s; see {self.world.folder / 'driver.log'}")
            if self.samples.due() and 0 < len(self.steps.times) < self.wanted:
                # Actors of ours that are killed and replaced have no size that could grow.
                self.samples.take(self.world.rays() | ({} if self.broken else self.world.ours()), len(self.steps.times))
            left = until - time.monotonic()
            if left <= 0:
                return False
            time.sleep(min(TICK_S, left))
        return True

    def inflict(self, kinds: Iterator[str]) -> tuple[Fault, str]:
        """The next fault, once it finds something to harm; one that has to wait for long gives way to the next."""
        while True:
            kind, give_up = next(kinds), time.monotonic() + PATIENCE_S
            while time.monotonic() < give_up:
                at, said = time.time(), self._try(kind)
                if said is not None:
                    return Fault(kind, at), said
                self.go_on(TICK_S)

    def _try(self, kind: str) -> str | None:
        # A driver that were stopped again before its first step would never get to one on a slow machine.
        if kind == "stop_driver" and self.steps.times[-1] < self.world.started:
            return None
        said: str | None = getattr(self.world, kind)()
        return said

    def finish(self) -> str:
        """Until the run has ended and all of it is in MLflow; returns the hash of theta."""
        while not self.go_on(60.0):
            pass
        self.steps.read()
        sync_run(str(self.world.run), [])
        return str(json.loads((self.world.run / "summary.json").read_text())["theta_sha256"])

    def trained(self, faults: list[Fault], span: tuple[float, float] | None = None) -> Trained:
        """What there is to say of it once it has ended; its rate is that of ``span``, or of all steps."""
        theta, world, times = self.finish(), self.world, self.steps.times
        since, until = span or (times[0], times[-1])
        lost = stalls([at for at in times if at < until], faults)  # its end stops and starts the driver too
        return Trained(
            theta,
            times,
            lost,
            self.steps.rate(since, until),
            self.samples.growth(),
            faults,
            world.messages(),
            world.exits,
        )


def train_broken(folder: Path, seed: int, deadline: float, say: Callable[[str], None]) -> Trained:
    """As many steps as leave time, until ``deadline``, to do the same without faults."""
    begun = time.monotonic()
    training = Training(folder, seed, ENDLESS, broken=True)
    try:
        training.begin()
        prepared = time.monotonic() - begun
        training.go_on(PILOT_SHARE * (deadline - begun))
        calm = training.steps.rate(training.steps.times[0], time.time())
        say(f"{calm:.0f} steps/s before the first fault")
        # To come: this run is taken up once more and ends, and the other one is prepared and ends.
        reserve = START_SHARE * prepared + prepared + 2 * ENDING_S
        since, faults = time.time(), []
        kinds, pauses = _kinds(seed), random.Random(f"pauses {seed}")
        while True:
            training.go_on(pauses.uniform(*BETWEEN_S))
            if time.monotonic() + reserve + len(training.steps.times) / calm > deadline:
                break
            fault, said = training.inflict(kinds)
            say(f"{time.monotonic() - begun:6.0f} s  {said}")
            faults.append(fault)
        span = since, time.time()
        training.world.settle()
        training.steps.read()
        training.ask_for(len(training.steps.times) + 10)
        return training.trained(faults, span)
    finally:
        training.world.close()


def train_calm(folder: Path, seed: int, steps: int) -> Trained:
    """The same steps without a fault."""
    training = Training(folder, seed, steps, broken=False)
    try:
        training.begin()
        return training.trained([])
    finally:
        training.world.close()


def _kinds(seed: int) -> Iterator[str]:
    """Each kind of fault once in a round, in an order of the round's own."""
    chance = random.Random(f"kinds {seed}")
    while True:
        yield from chance.sample(KINDS, len(KINDS))
