"""``python -m jobs.train RECIPE [key=value …]``: meta-train a recipe, on this machine or on a Ray cluster."""

from __future__ import annotations

import argparse
from contextlib import closing

from jobs import run
from jobs.options import EXIT_CODES, add_executor, add_plugins, import_plugins


def parser() -> argparse.ArgumentParser:
    described = argparse.ArgumentParser(
        prog="python -m jobs.train", description="Meta-train a recipe.", epilog=EXIT_CODES
    )
    described.add_argument(
        "recipe", nargs="?", default="sinusoid_maml", help="a packaged recipe or a path to a .yaml file"
    )
    described.add_argument(
        "overrides", nargs="*", metavar="key=value", help="for example steps=200 algorithm.inner_lr=0.02"
    )
    add_executor(described)
    described.add_argument("--workers", type=int, metavar="N", help="Ray workers; the result does not depend on them")
    described.add_argument(
        "--output", metavar="DIR", help="the run's folder, or a URI such as s3://bucket/run; default runs/RECIPE/TIME"
    )
    described.add_argument("--resume", action="store_true", help="continue the run in --output, or RECIPE's newest")
    described.add_argument("--accept-numerics", action="store_true", help="resume on other numerics, and record it")
    add_plugins(described)
    return described


def main() -> None:
    arguments = parser().parse_intermixed_args()
    import_plugins(arguments)
    recipe, overrides = arguments.recipe, arguments.overrides
    if "=" in recipe:  # no RECIPE means the default one
        recipe, overrides = "sinusoid_maml", [recipe, *overrides]
    if arguments.workers is not None:
        overrides = [*overrides, f"workers.count={arguments.workers}"]

    from pipeline.config import load
    from pipeline.runs.describe import describe
    from pipeline.runs.report import Progress, final_table, key_values
    from pipeline.runs.run import RunOptions, train_run, where_to_look
    from pipeline.runs.run_folder import require_plugins

    if arguments.resume and arguments.output:
        require_plugins(arguments.output)
    loaded = load(recipe, overrides)
    options = RunOptions(
        arguments.executor, arguments.address, arguments.output, arguments.resume, arguments.accept_numerics
    )
    with closing(Progress(heading=describe(loaded, recipe))) as progress:
        ended = train_run(loaded, options, progress)
    print(f"\n{final_table(ended.summary['evaluation'])}\n\n{key_values(where_to_look(ended, loaded))}")


if __name__ == "__main__":
    run(main)
