"""What MLflow has of a run, against what its journal says."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

from pipeline.engine.durability.journal import Journal
from pipeline.engine.durability.publisher import windows
from pipeline.runs.run_folder import validate_folder
from pipeline.storage import storage_at


def check_metrics(run: Path, uri: str) -> list[str]:
    """Each metric of the journal of a finished run is in MLflow once, and no other; a line for each that is not."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    from mlflow import MlflowClient

    recipe = validate_folder(run)
    client = MlflowClient(uri)
    tracked = client.get_run((run / "tracked_run").read_text().strip())
    journal = Journal(storage_at(str(run)))
    journal.load()
    steps = [entry.step for entry in journal.since(0) if entry.kind == "train"]
    problems = [] if steps == list(range(1, recipe.steps + 1)) else [f"the journal has {len(steps)} steps"]
    entries, _ = windows(journal.since(0), recipe.tracking.log_every)
    for key in sorted({key for entry in entries for key in entry.metrics} | set(tracked.data.metrics)):
        expected = Counter(entry.step for entry in entries if key in entry.metrics)
        found = Counter(point.step for point in client.get_metric_history(tracked.info.run_id, key))
        if expected != found:
            problems.append(f"{key}: {expected.total()} points expected, {found.total()} found")
    if tracked.info.status != "FINISHED":
        problems.append(f"the MLflow run is {tracked.info.status}")
    return problems
