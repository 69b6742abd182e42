"""``python -m jobs.evaluate RUN|MODEL [key=value …]``: evaluates a run's theta on fixed tasks, its own or others."""

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
    described.add_argument("folder", metavar="RUN", help="a run's folder or URI, or models:/NAME@champion")
    described.add_argument(
        "overrides",
        nargs="*",
        metavar="key=value",
        help="for example normalisation=support source.eval_rotations=random evaluation.tasks=100",
    )
    add_executor(described)
    described.add_argument("--workers", type=int, metavar="N", help="Ray workers")
    described.add_argument("--against", metavar="RUN", help="another: the paired difference on the same tasks")
    described.add_argument("--picture", metavar="PNG", help="write the reliability diagram to this file")
    described.add_argument("--json", action="store_true", help="print the result as JSON")
    add_plugins(described)
    return described


def main() -> None:
    arguments = parser().parse_intermixed_args()
    import_plugins(arguments)
    workers = [] if arguments.workers is None else [f"workers.count={arguments.workers}"]

    from pipeline.runs.evaluation import evaluate_and_draw
    from pipeline.runs.evaluation_text import evaluation_text
    from pipeline.runs.recorded import baselines
    from pipeline.runs.report import Progress
    from pipeline.runs.run import RunOptions

    options, note = RunOptions(arguments.executor, arguments.address), Progress(sys.stderr).note
    runs, picture = (arguments.folder, arguments.against), arguments.picture
    with stdout_for_the_result() if arguments.json else nullcontext():
        result = evaluate_and_draw(*runs, [*arguments.overrides, *workers], options, note, picture)
    for one in (result, result.get("other", {"note": ""})):
        if one["note"]:
            print(f"note: {one['note']}", file=sys.stderr)
    if arguments.json:
        same = {one.method: one.evaluation for one in baselines(result["evaluation"]["hash"])}
        print(json.dumps(result | {"baselines": same}, indent=2))
    else:
        print(evaluation_text(result))


if __name__ == "__main__":
    run(main)
