"""What people see of a sweep: a line for each child, and the parent run in MLflow with its table and its picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from pipeline.engine.interfaces import Entry
from pipeline.runs.parent import DESCRIPTION
from pipeline.sweeps.children import Child, Judge, as_csv, as_json, best_of, score_text, table
from pipeline.sweeps.picture import picture
from pipeline.sweeps.request import Prepared
from pipeline.sweeps.space import overrides_of
from pipeline.tracking.mlflow_tracker import MLflowTracker

ARTIFACTS = "sweep"
"""The folder of the parent's artifacts."""


class Board:
    """Shows a sweep. Everything it sends may be sent again: MLflow then has it once."""

    def __init__(self, tracker: MLflowTracker, prepared: Prepared, judge: Judge) -> None:
        self.tracker, self.prepared, self.judge = tracker, prepared, judge

    def line(self, ended: Sequence[Child]) -> str:
        """The child that has just ended, the last of ``ended``, in one line."""
        child, judge, best = ended[-1], self.judge, best_of(ended, self.judge)
        said = f"{judge.metric} {score_text(child, judge)}" if child.state == "finished" else child.state
        reason = f" ({' '.join(child.reason.split())})" if child.reason else ""
        mark = "  (best so far)" if child is best else ""
        values = "  ".join(overrides_of(child.values))
        return f"child {child.number}/{self.prepared.total}  {values}  {said}{reason}  {child.seconds:.1f} s{mark}"

    def add(self, ended: Sequence[Child]) -> None:
        """Show the child that has just ended, the last of ``ended``: its score as a point, and the table."""
        self.tracker.send([self._point(ended)])
        self.tracker.tag({DESCRIPTION: self._description(ended)})

    def close(self, ended: Sequence[Child], best: Child | None, evaluation: Mapping[str, Any], command: str) -> None:
        """Show the end: the best child's scores, the table as files and the picture.

        The points are sent again, since a process may have been killed before it sent one.
        """
        self.tracker.send([self._point(ended[:count]) for count in range(1, len(ended) + 1)])
        rows = evaluation.get("rows", [])
        scores = {f"eval/{row['theta']}/{row['metric']}/after_{row['point']}_steps": row["mean"] for row in rows}
        if best is not None:
            self.tracker.send([Entry("evaluation", best.step, best.timestamp, scores)])
            tags = {"sweep.best": str(best.number), "sweep.best_run": best.run, "sweep.command": command}
            self.tracker.tag(tags | {f"sweep.best.{key}": text for key, text in best.values.items()})
        note = f"\n\nThe best of {len(ended)}, chosen on validation tasks:\n\n    {command}" if command else ""
        self.tracker.tag({DESCRIPTION: self._description(ended) + note})
        files = {
            "sweep.png": picture(ended, self.prepared.space.axes, self.judge),
            "children.csv": as_csv(ended, self.judge).encode(),
            "children.json": as_json(ended, self.judge).encode(),
        }
        with TemporaryDirectory() as folder:
            for name, data in files.items():
                (path := Path(folder, name)).write_bytes(data)
                self.tracker.artifact(path, ARTIFACTS)

    def _point(self, ended: Sequence[Child]) -> Entry:
        last, best, metric = ended[-1], best_of(ended, self.judge), self.judge.metric
        found = {f"children/{metric}": last.score, f"best/{metric}": None if best is None else best.score}
        scores = {name: score for name, score in found.items() if score is not None}
        return Entry("sweep", last.number, last.timestamp, scores)

    def _description(self, ended: Sequence[Child]) -> str:
        shown = f"{len(ended)} of {self.prepared.total} children of `{self.prepared.request.recipe}`"
        return f"{shown}, {self.prepared.request.search} search\n\n{table(ended, self.judge)}"
