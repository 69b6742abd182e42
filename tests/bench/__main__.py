"""``make bench``: tasks per second by hand and in our ways; or what safety and an absent MLflow cost."""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path
from typing import Any

from jobs import run

RECIPES = ("sinusoid_maml", "omniglot_maml_5w1s")


def seconds(text: str) -> float:
    if 1 <= float(text) <= 3600:
        return float(text)
    raise argparse.ArgumentTypeError(f"{text} is not from 1 to 3600")


def parser() -> argparse.ArgumentParser:
    described = argparse.ArgumentParser(
        prog="python -m tests.bench", description="Measure tasks per second; make bench ARGS=… does the same."
    )
    described.add_argument("--only", choices=RECIPES, help="one of the two; default: both")
    described.add_argument("--omniglot", type=Path, default=Path("data/omniglot.arrow"), help="the ingested images")
    instead = described.add_mutually_exclusive_group()
    instead.add_argument("--safety", action="store_true", help="instead: with checkpoints and journal against without")
    taken_away = "instead: sinusoid_maml while MLflow is up, hung, answers 500 and is gone, for so long each (60)"
    instead.add_argument("--outages", metavar="SECONDS", type=seconds, nargs="?", const=60.0, help=taken_away)
    return described


def main() -> None:
    arguments = parser().parse_args()

    from pipeline.runs.report import Progress, speed_table
    from tests.bench import measure, outages, safety

    images = {RECIPES[1]: [f"source.path={arguments.omniglot}"]}
    chosen = {name: images.get(name, []) for name in RECIPES if arguments.only in (None, name)}
    found: list[Any] = []
    with tempfile.TemporaryDirectory() as folder:
        if arguments.outages is not None:
            found = list(outages.outages(arguments.outages, Path(folder), Progress(sys.stderr).note))
            print(outages.outage_table(found))
        elif arguments.safety:
            found = [safety.price(name, overrides, Path(folder)) for name, overrides in chosen.items()]
            print(safety.price_table(found))
        else:
            for name, overrides in chosen.items():
                print(speed_table(name, measure.speeds(name, overrides, Progress(sys.stderr))), flush=True)
    problems = [problem for one in found for problem in one.problems()]
    print(*(f"PROBLEM: {one}" for one in problems), sep="\n", end="\n" if problems else "")
    sys.exit(1 if problems else 0)


if __name__ == "__main__":
    run(main)
