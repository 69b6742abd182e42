"""A run that is broken every few seconds, the same run left alone, and what must hold at their end."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path

from pipeline.engine.scheduling.timeouts import Timeouts
from tests.in_mlflow import check_metrics
from tests.soak.driver import LIMITS
from tests.soak.growth import Growth
from tests.soak.stalls import Stalls
from tests.soak.training import Trained, train_broken, train_calm

STALL_S = {"kill_worker": 5.0, "kill_parameter_actor": 10.0}
"""What a fault of a kind may cost, by the median of those that had no other fault in them."""
OURS = ("driver", "parameter actor", "workers")
KB_PER_STEP, MB = 1.0, 2.0
"""Memory that grows by more than both: a run of a million steps would have a gigabyte more at its end."""
FILES = 3.0
"""Open files that may have come in the second half of the run: of a leak there would be hundreds."""


def soak(minutes: float, seed: int, folder: Path, say: Callable[[str], None]) -> list[str]:
    """Train with a fault every few seconds, then without, and compare; returns what is wrong."""
    begun = time.monotonic()
    broken = train_broken(folder / "broken", seed, begun + 60 * minutes, say)
    _tell_of_faults(broken, say)
    calm = train_calm(folder / "calm", seed, len(broken.times))
    say(
        f"{len(calm.times)} steps twice in {(time.monotonic() - begun) / 60:.1f} min; theta {broken.theta[:16]} with "
        f"faults, {calm.theta[:16]} without"
    )
    say(f"{calm.rate:.1f} steps/s without faults, {broken.rate:.1f} with: {broken.rate / calm.rate:.0%}")
    for name, growth in (("without faults", calm.growth), ("with faults", broken.growth)):
        for kind, grown in growth.items():
            say(f"{name}: {kind}: {grown}")
    problems = [] if calm.theta == broken.theta else [f"theta {broken.theta}, without faults {calm.theta}"]
    for name in ("broken", "calm"):
        found = check_metrics(folder / name / "run", f"sqlite:///{folder / name / 'mlflow.db'}")
        problems += [f"{name}: {one}" for one in found]
    return [*problems, *_slow(broken.stalls), *_grown(calm.growth)]


def _tell_of_faults(broken: Trained, say: Callable[[str], None]) -> None:
    faults = broken.faults
    each = (faults[-1].at - faults[0].at) / (len(faults) - 1) if len(faults) > 1 else 0.0
    say(f"{len(faults)} faults, one in {each:.1f} s: {dict(Counter(fault.kind for fault in faults))}")
    say(f"messages lost and doubled: {sum(broken.messages.values())}, {dict(broken.messages)}")
    say(f"sessions of the driver that ended before the run did, by exit code: {dict(broken.exits)}")
    own = {key: value for key, value in asdict(LIMITS).items() if value != getattr(Timeouts(), key)}
    say(f"timeouts other than everybody's: {own}")
    for kind, stall in broken.stalls.items():
        say(f"stall by {kind}: {stall}")


def _slow(lost: dict[str, Stalls]) -> Iterator[str]:
    for kind, limit in STALL_S.items():
        if kind in lost and lost[kind].median > limit:
            yield f"{kind}: a stall of {lost[kind].median:.1f} s, {limit:.0f} s at the most were promised"


def _grown(growth: dict[str, Growth]) -> Iterator[str]:
    for kind in OURS:
        grown = growth[kind]
        if grown.more_files > FILES:
            yield f"{kind}: open files grow: {grown}"
        if grown.memory_kb_per_step > KB_PER_STEP and grown.more_mb > MB:
            yield f"{kind}: memory grows by more than {KB_PER_STEP:g} KB a step: {grown}"
