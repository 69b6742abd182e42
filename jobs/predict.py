"""``python -m jobs.predict MODEL --support DIR --query DIR``: label pictures or rows, from a few labelled ones."""

from __future__ import annotations

import argparse
import csv
import io
import sys
from pathlib import Path

from jobs import run
from jobs.options import add_model, add_plugins


def parser() -> argparse.ArgumentParser:
    described = argparse.ArgumentParser(prog="python -m jobs.predict", description="Predict with a trained model.")
    add_model(described)
    described.add_argument(
        "--support", type=Path, required=True, metavar="DIR", help="CLASS/PICTURE, or a .csv with the column label"
    )
    described.add_argument(
        "--query", type=Path, required=True, metavar="DIR", help="a folder of pictures, flat or nested, or a .csv"
    )
    described.add_argument("--output", type=Path, metavar="FILE", help="a CSV file; default: stdout")
    described.add_argument(
        "--normalisation", metavar="MODE", help="predict under another mode; a transductive run needs one, as support"
    )
    add_plugins(described)
    return described


def main() -> None:
    arguments = parser().parse_args()

    import pipeline
    from pipeline.runs.predicting import predicted
    from pipeline.storage.texts import write_result

    learner = pipeline.load(arguments.model, normalisation=arguments.normalisation, plugins=arguments.plugins)
    rows = predicted(learner, arguments.support, arguments.query)
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    if arguments.output is None:
        sys.stdout.write(text.getvalue())
    else:
        write_result(arguments.output, text.getvalue())


if __name__ == "__main__":
    run(main)
