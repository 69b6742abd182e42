"""A real MLflow server: runs arrive over HTTP as they do in a database, and a person sees their curves in a browser."""

from __future__ import annotations

import importlib.util
import math
import time
from pathlib import Path

import pytest
from mlflow.tracking import MlflowClient

from pipeline.config import load
from pipeline.core.failures import ConfigError
from pipeline.engine.interfaces import Entry
from pipeline.runs.describe import describe
from pipeline.runs.run import RunOptions, train_run, where_to_look
from pipeline.tracking.mlflow_tracker import MLflowTracker, how_to_open, probe
from tests.quiet_runs import Onlooker

CHROMIUM = Path("/usr/bin/chromium")
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
]
STEPS = 120


@pytest.fixture(scope="module")
def run(server, tmp_path_factory):
    """A run with curves, that was interrupted and resumed."""
    began = int(time.time() * 1000) - 1000 * STEPS
    entries = [
        Entry(
            "train",
            step,
            began + 1000 * step,
            {
                "train/loss": math.exp(-step / 40),
                "train/accuracy": 1 - 0.8 * math.exp(-step / 40),
                "eval/acc@1": 0.9,
                "time/inner": 0.6 + 0.1 * math.sin(step / 9),
                "tasks_per_s": 900.0 + step,
                "odd": math.nan if step < 3 else math.inf,
            },
        )
        for step in range(1, STEPS + 1)
    ]
    first = MLflowTracker(server, "metafleet")
    run = first.start(None, "omniglot_maml_5w1s", {"seed": "7", "steps": "60"}, {"git.commit": "abc"})
    first.send(entries[:60])
    first.end("KILLED")
    second = MLflowTracker(server, "metafleet")
    assert second.start(run, "omniglot_maml_5w1s", {"seed": "7", "steps": "120"}, {"git.commit": "def"}) == run
    second.send(entries[50:])
    second.send(entries)
    recipe = tmp_path_factory.mktemp("recipe") / "recipe.yaml"
    recipe.write_text("seed: 7\n")
    second.artifact(recipe)
    second.end("FINISHED")
    return run


def test_over_http_a_resumed_run_is_whole_and_nothing_is_twice(server, run):
    client = MlflowClient(tracking_uri=server)
    found = client.get_run(run)
    assert found.info.status == "FINISHED"
    assert found.data.params == {"seed": "7", "steps": "60"}
    assert found.data.tags["resume.steps"] == "120"
    assert found.data.tags["git.commit"] == "def"
    history = client.get_metric_history(run, "train/loss")
    assert [(point.step, point.value) for point in history] == [
        (step, math.exp(-step / 40)) for step in range(1, STEPS + 1)
    ]
    odd = client.get_metric_history(run, "odd")
    assert len(odd) == STEPS
    assert all(math.isnan(point.value) for point in odd)
    assert [item.path for item in client.list_artifacts(run)] == ["recipe.yaml"]


def test_nothing_printed_holds_the_password(server, run, capfd):
    secret = server.replace("http://", "http://me:hunter2@")
    probe(secret)
    driver = MLflowTracker(secret, "metafleet")
    driver.start(run, "", {}, {})
    driver.end("FINISHED")
    command, link = how_to_open(secret, run)
    assert command == ""
    assert link == how_to_open(server, run)[1]
    printed = capfd.readouterr()
    assert "hunter2" not in printed.out + printed.err


def test_a_whole_run_leaves_its_password_nowhere(server, server_folder, tmp_path, capfd, caplog):
    """The server's database, artifacts and log, the run's folder with its checkpoints, and what was printed."""
    small = ["steps=2", "tasks_per_step=4", "chunk_size=2", "evaluation.tasks=4", "tracking.report=false"]
    recipe = load("sinusoid_maml", [*small, f"tracking.uri={server.replace('http://', 'http://me:hunter2@')}"])
    ended = train_run(recipe, RunOptions("serial", output=tmp_path / "run"), Onlooker())
    assert ended.unsent is None
    assert (tmp_path / "run" / "tracked_run").read_text() in where_to_look(ended, recipe)["MLflow UI"]
    written = [path.read_bytes() for place in (tmp_path, server_folder) for path in place.rglob("*") if path.is_file()]
    assert any(b"tracking.uri" in text and b"SQLite" in text for text in written)
    assert any(b"theta/model" in text for text in written)
    assert not [text for text in written if b"hunter2" in text]
    printed = capfd.readouterr()
    assert "hunter2" not in printed.out + printed.err + caplog.text + describe(recipe, "sinusoid_maml")


def test_a_name_the_server_does_not_allow_is_told_how_to_be_allowed(server):
    with pytest.raises(ConfigError, match="HTTP 403.*--allowed-hosts"):
        probe(server.replace("127.0.0.1", "localhost"))


@pytest.fixture
def page(tmp_path):
    """A page of a headless Chromium that has never been started before."""
    if not CHROMIUM.exists() or importlib.util.find_spec("playwright") is None:
        pytest.skip(f"to look at the UI: apt-get install chromium (for {CHROMIUM}) and pip install playwright")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch_persistent_context(
            tmp_path / "profile", executable_path=CHROMIUM, args=FLAGS, viewport={"width": 1500, "height": 2200}
        )
        yield browser.pages[0]
        browser.close()


def test_the_link_shows_the_curves(server, run, page, tmp_path):
    _, link = how_to_open(server, run)
    page.goto(link)
    page.locator(".js-plotly-plot path.js-line").nth(4).wait_for(timeout=60_000)  # charts are drawn one by one
    text = page.inner_text("body")
    for metric in ("train/loss", "train/accuracy", "eval/acc_at_1", "time/inner", "tasks_per_s"):
        assert f"omniglot_maml_5w1s ({metric})" in text
    shot = tmp_path / "run.png"
    page.screenshot(path=shot)
    assert shot.stat().st_size > 10_000
