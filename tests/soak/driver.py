"""``python -m tests.soak.driver RECIPE.json FOLDER ADDRESS``: a session of the soaked run, with short timeouts."""

from __future__ import annotations

import sys
from pathlib import Path

from jobs import run
from pipeline.config import recipe_type
from pipeline.engine.scheduling.timeouts import Timeouts
from pipeline.runs.report import Progress
from pipeline.runs.run import RunOptions, train_run

LIMITS = Timeouts(
    wait_s=120.0,
    first_lease_s=20.0,
    lease_s=2.0,
    backoff_s=(2.0, 5.0),
    fetch_s=5.0,
    answer_s=10.0,
    start_s=60.0,
    rebuilds=50,
)


def main() -> None:
    recipe = recipe_type().model_validate_json(Path(sys.argv[1]).read_text())
    folder = Path(sys.argv[2])
    resume = (folder / "recipe.yaml").exists()
    train_run(recipe, RunOptions("ray", sys.argv[3], folder, resume, timeouts=LIMITS), Progress(sys.stdout))


if __name__ == "__main__":
    run(main)
