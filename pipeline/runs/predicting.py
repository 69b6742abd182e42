"""Predicts the labels of a folder of pictures, or of the rows of a table, from a few labelled ones."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from pipeline.core.failures import ConfigError, DataError
from pipeline.serving.learner import Learner, Predictor
from pipeline.tasks.ingest.folder import labelled, pictures_in

BATCH = 128
"""Queries that are answered together, to bound memory."""
LABEL = "label"


class Examples(NamedTuple):
    """Support examples with their labels, and queries with what they are called in the answer."""

    support_x: Any
    support_y: Sequence[Any]
    query_x: Any
    called: Sequence[Any]
    kind: str


def predicted(learner: Learner, support: Path, query: Path) -> list[list[Any]]:
    """The rows of a CSV, the first with the names of the columns.

    Args:
        learner: the model; trained on pictures, or on rows of numbers.
        support: a folder of pictures with one sub-folder for each class, or a CSV with the column ``label``.
        query: a folder of pictures, flat or nested, or a CSV.

    Raises:
        ConfigError, DataError: a path is not there, holds something else, or does not fit the model.
    """
    for name, path in (("--support", support), ("--query", query)):
        if not path.exists():
            raise ConfigError(f"{name}: {path} does not exist; name a folder of pictures, or a .csv file")
    examples = _tables(learner, support, query) if support.is_file() else _pictures(learner, support, query)
    predictor = learner.adapt(examples.support_x, examples.support_y)
    outputs = _outputs(learner, predictor, examples.query_x)
    if not predictor.labels:
        header = [f"value {number}" for number in range(1, outputs.shape[1] + 1)]
        answers: Sequence[Sequence[Any]] = outputs.tolist()
    else:
        header = [LABEL, *(f"p({name})" for name in predictor.labels)]
        chosen = [predictor.labels[slot] for slot in outputs.argmax(1)]
        answers = [[label, *row] for label, row in zip(chosen, predictor.shares(outputs).tolist(), strict=True)]
    return [[examples.kind, *header], *([name, *row] for name, row in zip(examples.called, answers, strict=True))]


def _outputs(learner: Learner, predictor: Predictor, x: Any) -> np.ndarray:
    # A transductive model looks at all queries together.
    size = len(x) if learner.algorithm.model.mode == "transductive" else BATCH
    return np.concatenate([predictor.outputs(x[start : start + size]) for start in range(0, len(x), size)])


def _pictures(learner: Learner, support: Path, query: Path) -> Examples:
    if learner.preparation is None:
        raise ConfigError(
            f"--support: {support} is a folder of pictures, but the model does not say how pictures become its inputs "
            f"{learner.spec.input_shape}; train on a file that jobs.ingest of this version wrote, or give a .csv "
            "file to a model of rows of numbers"
        )
    if query.is_file():
        raise ConfigError(f"--query: {query} is a file, and --support is a folder; give a folder of pictures")
    classes, asked = labelled(support), pictures_in(query)
    files = [(path, name) for name, paths in classes.items() for path in paths]
    return Examples(
        [path for path, _ in files], [name for _, name in files], asked, [path.as_posix() for path in asked], "path"
    )


def _tables(learner: Learner, support: Path, query: Path) -> Examples:
    spec = learner.spec
    if len(spec.input_shape) != 1 or spec.integers or spec.actions is not None:
        raise ConfigError(
            f"--support: {support} is a file, but the model takes inputs of the shape {spec.input_shape}, not rows of "
            "numbers; give a folder of pictures to a model of pictures, and use pipeline.load for all others"
        )
    if not query.is_file():
        raise ConfigError(f"--query: {query} is a folder, and --support is a file; give a .csv file")
    columns, rows, labels = _table(support, None)
    if labels is None:
        raise DataError(f"{support}: has no column {LABEL!r}; its columns are {', '.join(columns)}")
    if len(columns) != spec.input_shape[0]:
        raise DataError(
            f"{support}: has {len(columns)} columns beside {LABEL!r}, the model takes {spec.input_shape[0]}"
        )
    _, asked, _ = _table(query, columns)
    given = [_number(support, n, LABEL, one) for n, one in enumerate(labels, 2)] if spec.targets == "values" else labels
    return Examples(rows, given, asked, range(1, len(asked) + 1), "row")


def _table(path: Path, wanted: Sequence[str] | None) -> tuple[list[str], np.ndarray, list[str] | None]:
    """The columns of numbers, their rows, and the column ``label`` if there is one. ``wanted`` chooses columns."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            read = list(csv.reader(file))
    except (OSError, ValueError, csv.Error) as error:
        raise DataError(f"{path}: is no CSV file that can be read ({error})") from None
    header, body = (read[0], read[1:]) if read else ([], [])
    columns = [name for name in header if name != LABEL] if wanted is None else list(wanted)
    missing = [name for name in columns if header.count(name) != 1]
    if not body or not columns or missing:
        why = f"column {missing[0]!r} is missing or there twice" if missing else "no columns or no rows"
        raise DataError(f"{path}: {why}; expected a line of column names, and a line for each row")
    short = [n for n, row in enumerate(body, 2) if len(row) != len(header)]
    if short:
        raise DataError(f"{path}: line {short[0]} has {len(body[short[0] - 2])} values for {len(header)} columns")
    at = [header.index(name) for name in columns]
    rows = [[_number(path, n, header[c], row[c]) for c in at] for n, row in enumerate(body, 2)]
    labels = [row[header.index(LABEL)] for row in body] if LABEL in header else None
    return columns, np.array(rows), labels


def _number(path: Path, line: int, column: str, text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise DataError(f"{path}: line {line}, column {column!r}: {text!r} is no number") from None
