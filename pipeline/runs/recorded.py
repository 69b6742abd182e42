"""Recorded results: one JSON file for each method and protocol, in the folder ``results`` of a checkout."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipeline.core.failures import DataError
from pipeline.core.losses import loss_of_metric
from pipeline.storage.local import write_whole

RESULTS = Path(__file__).parents[2] / "results"
"""Holds one folder for each protocol. A package installed from a wheel has no results."""

_OWN = ("protocol", "method", "algorithm", "family", "published")


@dataclass(frozen=True)
class Result:
    """A recorded run: ``summary`` is the run's own, ``published`` is the number in the paper.

    ``method`` is its name in the protocol, ``algorithm`` its name in the registry. ``published`` is text, with an
    interval if the paper has one, and empty where there is no number.
    """

    protocol: str
    method: str
    algorithm: str
    family: str
    published: str
    summary: Mapping[str, Any] = field(repr=False)

    @property
    def evaluation(self) -> Mapping[str, Any]:
        """The rows, with the conditions under which they were measured."""
        evaluation: Mapping[str, Any] = self.summary["evaluation"]
        return evaluation

    def save(self, folder: Path) -> Path:
        """Write ``folder``/METHOD.json, whole or not at all; returns its path.

        Raises:
            DataError: it cannot be written.
        """
        path = folder / f"{self.method}.json"
        whole = {key: getattr(self, key) for key in _OWN} | dict(self.summary)
        text = json.dumps(whole, indent=2, ensure_ascii=False) + "\n"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            write_whole(path, lambda file: file.write(text.encode()))
        except OSError as error:
            raise DataError(
                f"{path}: cannot be written ({error.strerror or error}); make room or name another folder"
            ) from None
        return path


def direction_of(evaluation: Mapping[str, Any], metric: str) -> bool | None:
    """Whether a higher value of a metric is better; None where it is unknown."""
    return _judged(evaluation, metric, "higher_is_better")


def unit_of(evaluation: Mapping[str, Any], metric: str) -> str:
    """The unit of a metric, as ``TaskLoss`` has it."""
    return str(_judged(evaluation, metric, "unit") or "")


def _judged(evaluation: Mapping[str, Any], metric: str, key: str) -> Any:
    # An evaluation says it of its own metric. Other metrics, and older evaluations, follow the known losses.
    if evaluation.get("metric") == metric:
        return evaluation[key]
    loss = loss_of_metric(metric)
    return None if loss is None else getattr(loss, key)


def load(folder: Path) -> list[Result]:
    """The results in a protocol's folder, sorted by file name; none where there is no such folder.

    Raises:
        DataError: a file is not one of ours.
    """
    return [_read(path) for path in sorted(folder.glob("*.json"))]


def recorded(results: Path = RESULTS) -> list[Result]:
    """The results of all protocols. Raises as ``load`` does."""
    return [one for folder in sorted(results.glob("*/")) for one in load(folder)]


def baselines(evaluation_hash: str, results: Path = RESULTS) -> list[Result]:
    """The baselines that were evaluated on exactly these tasks. Raises as ``load`` does."""
    return [one for one in recorded(results) if one.family == "baseline" and one.evaluation["hash"] == evaluation_hash]


def _read(path: Path) -> Result:
    try:
        whole = json.loads(path.read_text("utf-8"))
        own = {key: whole.pop(key) for key in _OWN}
        evaluation = whole["evaluation"]
        rows = [(row["theta"], row["metric"], float(row["mean"]), float(row["ci95"])) for row in evaluation["rows"]]
        if not (rows and all(isinstance(text, str) for text in (*own.values(), evaluation["hash"]))):
            raise ValueError("no rows, or a name that is no text")
        return Result(**own, summary=whole)
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise DataError(
            f"{path}: not a recorded result ({type(error).__name__}: {error}); remove it, or make it again with "
            "`python -m jobs.compare`"
        ) from None
