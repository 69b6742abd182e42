"""An evaluation counts the same on Ray workers, whose chunks arrive in any order, as in one process."""

from __future__ import annotations

import pytest

from pipeline.runs.run import RunOptions, evaluate_run, train_run
from tests.quiet_runs import Onlooker
from tests.runtime import tiny

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.usefixtures("ray_local", "torch_threads")]


def test_answers_by_class_and_calibration_are_the_same_bits_on_ray(small_images, mlflow_uri, tmp_path):
    of = tiny.recipe("protonet", small_images, steps=1, tracking={"uri": mlflow_uri})
    folder = train_run(of, RunOptions("serial", output=tmp_path / "run"), Onlooker()).folder
    asked = ["evaluation.tasks=41", "workers.count=3"]
    told = [evaluate_run(folder, asked, RunOptions(executor, "local")) for executor in ("serial", "ray")]
    assert told[0] == told[1]
    assert sum(one["queries"] for one in told[0]["classes"]) == told[0]["calibration"]["answers"] == 41 * 3 * 2
