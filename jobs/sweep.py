"""``python -m jobs.sweep RECIPE key=value,value …``: trains a recipe with several values, and names the best."""

from __future__ import annotations

import argparse

from jobs import run
from jobs.options import EXIT_CODES, add_executor, add_plugins, import_plugins


def parser() -> argparse.ArgumentParser:
    described = argparse.ArgumentParser(
        prog="python -m jobs.sweep",
        description="Train a recipe with several values of some settings, as children of one MLflow run, choose the "
        "best on validation tasks and evaluate it on test tasks.",
        epilog=EXIT_CODES,
    )
    described.add_argument("recipe", help="a packaged recipe or a path to a .yaml file")
    described.add_argument(
        "overrides",
        nargs="+",
        metavar="key=value",
        help="outer.model.lr=1e-3,1e-2 tries each; log:1e-4:1e-1, float:0:1 and int:1:5 are ranges; one value is fixed",
    )
    described.add_argument("--search", choices=["grid", "random", "optuna"], default="grid", help="default: grid")
    described.add_argument("--samples", type=int, metavar="N", help="children of a random or Optuna search")
    described.add_argument("--seed", type=int, metavar="S", help="of a random or Optuna search (0)")
    described.add_argument("--stop", action="store_true", help="stop children that are behind the median on validation")
    add_executor(described)
    described.add_argument("--workers", type=int, metavar="N", help="Ray workers; the result does not depend on them")
    described.add_argument("--output", metavar="DIR", help="the sweep's folder or URI; default runs/sweeps/RECIPE/TIME")
    described.add_argument("--resume", action="store_true", help="continue the sweep in --output, or RECIPE's newest")
    described.add_argument("--accept-numerics", action="store_true", help="resume on other numerics, and record it")
    add_plugins(described)
    return described


def main() -> None:
    asked = parser().parse_intermixed_args()
    import_plugins(asked)
    overrides = [*asked.overrides, *([f"workers.count={asked.workers}"] if asked.workers is not None else [])]

    from pipeline.runs.run import RunOptions
    from pipeline.sweeps.report import report, require_all
    from pipeline.sweeps.request import Request
    from pipeline.sweeps.sweep import sweep

    request = Request(asked.recipe, tuple(overrides), asked.search, asked.samples, asked.seed, asked.stop)
    options = RunOptions(asked.executor, asked.address, asked.output, asked.resume, asked.accept_numerics)
    swept = sweep(request, options, lambda line: print(line, flush=True))
    print(f"\n{report(swept)}", flush=True)
    require_all(swept)


if __name__ == "__main__":
    run(main)
