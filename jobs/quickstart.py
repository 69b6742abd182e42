"""``python -m jobs.quickstart PATH``: from a folder of pictures, or a table, to an evaluated and registered model."""

from __future__ import annotations

import argparse
from contextlib import closing
from pathlib import Path

from jobs import run
from jobs.options import EXIT_CODES, add_executor


def parser() -> argparse.ArgumentParser:
    described = argparse.ArgumentParser(
        prog="python -m jobs.quickstart",
        description="Ingest a folder of pictures (a folder for each class) or a table (CSV, Parquet, .npz), train the "
        "recipe own_images_protonet or own_table_protonet, compare it with 1-NN on the same tasks of test classes, and "
        "register the model in MLflow.",
        epilog=EXIT_CODES,
    )
    described.add_argument("path", type=Path, metavar="PATH", help="the folder, or the table")
    described.add_argument("overrides", nargs="*", metavar="key=value", help="for the recipe, for example steps=1000")
    described.add_argument("--name", metavar="NAME", help="of the model and of the run; default: the name of PATH")
    described.add_argument("--output", metavar="DIR", help="the run's folder; default runs/NAME/TIME")
    described.add_argument("--workers", type=int, default=2, metavar="N", help="Ray workers (2)")
    add_executor(described)
    return described


def main() -> None:
    asked = parser().parse_intermixed_args()

    from pipeline.runs.describe import describe
    from pipeline.runs.quickstart import own_recipe, quickstart
    from pipeline.runs.report import Progress, key_values
    from pipeline.runs.run import RunOptions

    whole = asked.path.resolve()
    name = asked.name or (whole.name if whole.is_dir() else whole.stem)
    recipe = own_recipe(asked.path, name, [*asked.overrides, f"workers.count={asked.workers}"], print)
    with closing(Progress(heading=describe(recipe, f"own_{recipe.source.name}_protonet"))) as progress:
        done = quickstart(recipe, RunOptions(asked.executor, asked.address, asked.output), progress)
    print(f"\n{key_values(done.rows(recipe))}")


if __name__ == "__main__":
    run(main)
