"""What safety costs: steps with a checkpoint and the journal against steps with neither, by turns within one run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from pipeline.config import load
from pipeline.runs.paths import absolute
from tests.bench.coordinators import BuildCoordinatorByTurns, Turns
from tests.bench.ratio import Ratio, ratio
from tests.bench.stepping import Rates, train

PAIRS = 50
LENGTH = {"sinusoid_maml": 25, "omniglot_maml_5w1s": 5}
"""Steps of a stretch: half a second of the first, and one of the second, for the two of a pair to share their luck."""
SLOWEST = {"omniglot_maml_5w1s": 0.95}
"""How fast a run with both must be against one with neither."""


class Price(NamedTuple):
    """The speed of one recipe with safety against its speed without."""

    recipe: str
    speed: Ratio

    def problems(self) -> list[str]:
        """A line for each thing that does not hold."""
        least = SLOWEST.get(self.recipe, 0.0)
        if self.speed.value >= least:
            return []
        return [f"{self.recipe}: {self.speed.value:.3f} times as fast as without safety, at least {least} is due"]


def price(name: str, overrides: Sequence[str], folder: Path) -> Price:
    """On two workers, in ``PAIRS`` pairs of stretches; the pair before them is not counted."""
    turns = Turns(LENGTH[name])
    count = 2 * (PAIRS + 1)
    settings = [f"steps={count * turns.length}", "workers.count=2", "checkpoint.every=1", "evaluation.tasks=1"]
    recipe = absolute(load(name, [*overrides, *settings]))
    rates = Rates(recipe)
    train(recipe, BuildCoordinatorByTurns(recipe.model_dump_json(), str(folder / name), turns), rates)
    stretches = rates.array().reshape(count, turns.length)
    return Price(name, ratio(list(stretches[2::2]), list(stretches[3::2]), paired=True))


def price_table(prices: Sequence[Price]) -> str:
    """As Markdown."""
    rows = [
        f"| {name} | {speed.old:.1f} | {speed.new:.1f} | {speed.value:.3f} ({speed.low:.3f}–{speed.high:.3f})"
        f" | {speed.total:.3f} |"
        for name, speed in prices
    ]
    head = "| recipe | steps/s with neither | with checkpoint and journal | ratio (95%) | of totals |"
    return "\n".join([head, "|---|" + "---:|" * 4, *rows])
