"""``python -m jobs.benchmark``: tasks per second of MAML by hand, looped, vectorised, and on 1 and 2 Ray workers."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from jobs import run

RECIPES = ("sinusoid_maml", "omniglot_maml_5w1s")


def parser() -> argparse.ArgumentParser:
    described = argparse.ArgumentParser(
        prog="python -m jobs.benchmark", description="Measure tasks per second; run it from a checkout."
    )
    described.add_argument("--only", choices=RECIPES, help="one of the two; default: both")
    described.add_argument("--omniglot", type=Path, default=Path("data/omniglot.arrow"), help="the ingested images")
    return described


def main() -> None:
    arguments = parser().parse_args()

    from pipeline.report import Progress, speed_table
    from tests.bench.measure import speeds

    for recipe in RECIPES if arguments.only is None else [arguments.only]:
        overrides = [f"source.path={arguments.omniglot}"] if recipe.startswith("omniglot") else []
        print(speed_table(recipe, speeds(recipe, overrides, Progress(sys.stderr))), flush=True)


if __name__ == "__main__":
    run(main)
