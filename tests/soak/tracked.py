"""Whether MLflow holds what a run's journal holds."""

from __future__ import annotations

import json
import os
from pathlib import Path

from pipeline.engine.journal import Journal
from pipeline.engine.publisher import windows
from pipeline.storage import storage_at


def problems_of(folder: Path) -> list[str]:
    """Each metric of the journal must be in MLflow once, and no other."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    from mlflow import MlflowClient

    recipe = json.loads((folder / "recipe.json").read_text())
    client = MlflowClient(f"sqlite:///{folder / 'mlflow.db'}")
    run = client.get_run((folder / "run" / "tracked_run").read_text().strip())
    journal = Journal(storage_at(str(folder / "run")))
    journal.load()
    steps = [entry.step for entry in journal.since(0) if entry.kind == "train"]
    problems = [] if steps == list(range(1, recipe["steps"] + 1)) else [f"the journal has {len(steps)} steps"]
    entries, _ = windows(journal.since(0), recipe["tracking"]["log_every"])
    for key in sorted({key for entry in entries for key in entry.metrics} | set(run.data.metrics)):
        expected = sorted(entry.step for entry in entries if key in entry.metrics)
        found = sorted(point.step for point in client.get_metric_history(run.info.run_id, key))
        if expected != found:
            problems.append(f"{key}: {len(expected)} points expected, {len(found)} found")
    if run.info.status != "FINISHED":
        problems.append(f"the MLflow run is {run.info.status}")
    return problems
