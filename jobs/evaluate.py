"""``python -m jobs.evaluate DIR [key=value …]``: evaluates a run's theta on fixed tasks, its own or others."""

from __future__ import annotations

import argparse
import json
import sys
from contextlib import nullcontext

from jobs import run
from jobs.options import add_executor, add_plugins, import_plugins
from jobs.output import stdout_for_the_result


def parser() -> argparse.ArgumentParser:
    described = argparse.ArgumentParser(prog="python -m jobs.evaluate", description="Evaluate a trained run.")
    described.add_argument("folder", metavar="DIR", help="the run's folder, or its URI")
    described.add_argument(
        "overrides",
        nargs="*",
        metavar="key=value",
        help="for example normalisation=support source.eval_rotations=random evaluation.tasks=100",
    )
    add_executor(described)
    described.add_argument("--workers", type=int, metavar="N", help="Ray workers")
    described.add_argument("--json", action="store_true", help="print the result as JSON")
    add_plugins(described)
    return described


def main() -> None:
    arguments = parser().parse_intermixed_args()
    import_plugins(arguments)
    overrides = arguments.overrides
    if arguments.workers is not None:
        overrides = [*overrides, f"workers.count={arguments.workers}"]

    from pipeline.runs.recorded import baselines
    from pipeline.runs.report import Progress, final_table
    from pipeline.runs.run import RunOptions, evaluate_run

    options = RunOptions(arguments.executor, arguments.address)
    with stdout_for_the_result() if arguments.json else nullcontext():
        result = evaluate_run(arguments.folder, overrides, options, Progress(sys.stderr).note)
    if result["note"]:
        print(f"note: {result['note']}", file=sys.stderr)
    if arguments.json:
        same = baselines(result["evaluation"]["hash"])
        print(json.dumps(result | {"baselines": {one.method: one.evaluation for one in same}}, indent=2))
    else:
        print(final_table(result["evaluation"]))


if __name__ == "__main__":
    run(main)
