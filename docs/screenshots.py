"""``python -m docs.screenshots``: make the pictures of docs/mlflow.md again, of a server's newest runs."""

from __future__ import annotations

import argparse
import io
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from jobs import run
from pipeline.core.failures import ConfigError

CHROMIUM = "/usr/bin/chromium"
FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run"]
TO = Path(__file__).parent / "mlflow"
COLOURS = 128
"""Colours of a saved picture: pages are flat, and documentation is cloned by everybody."""
WAIT_MS = 120_000
DRAWN_MS = 4_000
"""What charts need to be drawn once their page has all data."""
ML = "workflowType=machine_learning"
"""Without it MLflow opens in its GenAI mode."""


def run_list(page: Any, base: str, experiment: str, name: str) -> None:
    """The table of an experiment's runs, of which one is called ``name``."""
    _open(page, f"{base}/#/experiments/{experiment}/runs?{ML}", f"text={name} >> nth=0")


def overview(page: Any, base: str, experiment: str, of: str) -> None:
    """A run's description, parameters, tags and data set."""
    _open(page, f"{base}/#/experiments/{experiment}/runs/{of}?{ML}", "text=Show more")
    page.locator("text=Show more").first.click()


def charts(page: Any, base: str, experiment: str, of: str) -> None:
    """A run's curves and pictures."""
    _open(page, f"{base}/#/experiments/{experiment}/runs/{of}/model-metrics?{ML}", ".js-plotly-plot >> nth=0")


def system(page: Any, base: str, experiment: str, of: str) -> None:
    """How busy each node was."""
    _open(page, f"{base}/#/experiments/{experiment}/runs/{of}/system-metrics?{ML}", ".js-plotly-plot >> nth=0")


def picture(page: Any, base: str, experiment: str, of: str, name: str) -> None:
    """One of a run's pictures among its artifacts."""
    _open(page, f"{base}/#/experiments/{experiment}/runs/{of}/artifacts/pictures/{name}.png?{ML}", "img >> nth=0")


def comparison(page: Any, base: str, experiment: str) -> None:
    """The curves of an experiment's runs over each other."""
    _open(page, f"{base}/#/experiments/{experiment}/runs?compareRunsMode=CHART&{ML}", ".js-plotly-plot >> nth=0")


def side_by_side(page: Any, base: str, experiment: str, first: str, second: str) -> None:
    """The parameters and metrics of two runs in a table."""
    both = f"runs={json.dumps([first, second])}&experiments={json.dumps([experiment])}"
    _open(page, f"{base}/#/compare-runs?{both}&{ML}", "text=Comparing 2 Runs")
    for section in ("Visualizations", "Run details"):  # what is closed leaves room for the table of metrics
        page.locator(f"text={section}").first.click()
    page.wait_for_timeout(DRAWN_MS)


def model(page: Any, base: str, name: str) -> None:
    """A registered model with its versions and aliases."""
    _open(page, f"{base}/#/models/{name}?{ML}", f"text={name} >> nth=0")


def _open(page: Any, link: str, seen: str) -> None:
    page.set_default_timeout(WAIT_MS)
    page.goto("about:blank")  # a change of the fragment alone would not load the page anew
    page.goto(link)
    page.locator(seen).first.wait_for(timeout=WAIT_MS)
    assistant = page.locator("[aria-label=Close], [aria-label=close]").first
    if assistant.is_visible():  # it covers a fourth of the page
        assistant.click()
    page.wait_for_timeout(DRAWN_MS)


def save(page: Any, path: Path) -> None:
    """The page as it is seen, as a small PNG."""
    from PIL import Image

    whole = Image.open(io.BytesIO(page.screenshot())).convert("RGB")
    whole.quantize(COLOURS).save(path, optimize=True)


def shots(client: Any, base: str, experiment: str) -> Mapping[str, Callable[[Any], None]]:
    """Name -> what opens the page, for the newest finished runs of different methods, and for a model if there is one.

    Raises:
        ConfigError: there are no two finished runs.
    """
    number = client.get_experiment_by_name(experiment).experiment_id
    found = client.search_runs([number], "attributes.status = 'FINISHED'")
    runs = {one.info.run_name: one.info.run_id for one in reversed(found)}
    if len(runs) < 2:
        raise ConfigError(f"{base}: experiment {experiment!r} has no two finished runs; train two recipes there first")
    images = [run for name, run in runs.items() if client.list_artifacts(run, "pictures") and "omniglot" in name]
    last = (images or list(runs.values()))[-1]
    first = next(run for run in reversed(runs.values()) if run != last)
    pages: dict[str, Callable[[Any], None]] = {
        "runs": lambda page: run_list(page, base, number, next(iter(runs))),
        "overview": lambda page: overview(page, base, number, last),
        "charts": lambda page: charts(page, base, number, last),
        "system": lambda page: system(page, base, number, first),
        "comparison": lambda page: comparison(page, base, number),
        "side_by_side": lambda page: side_by_side(page, base, number, first, last),
    }
    if images:
        pages["episodes"] = lambda page: picture(page, base, number, last, "episodes")
    registered = [one.name for one in client.search_registered_models(max_results=1)]
    if registered:
        pages["model"] = lambda page: model(page, base, registered[0])
    return pages


def parser() -> argparse.ArgumentParser:
    described = argparse.ArgumentParser(
        prog="python -m docs.screenshots",
        description="Look at a server's newest runs with a headless Chromium; needs pip install playwright.",
    )
    described.add_argument("server", metavar="SERVER", help="the address of an MLflow server, http://HOST:PORT")
    described.add_argument("--experiment", default="metafleet", help="the experiment (default: metafleet)")
    described.add_argument("--to", type=Path, default=TO, metavar="DIR", help="where the pictures go (docs/mlflow)")
    described.add_argument("--only", metavar="NAME", help="one picture alone, for example charts")
    return described


def main() -> None:
    arguments = parser().parse_args()

    from mlflow import MlflowClient
    from playwright.sync_api import sync_playwright

    base = arguments.server.rstrip("/")
    pages = shots(MlflowClient(tracking_uri=base), base, arguments.experiment)
    arguments.to.mkdir(parents=True, exist_ok=True)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        for name, opens in pages.items():
            if arguments.only in (None, name):
                page = browser.new_page(viewport={"width": 1600, "height": 1000})
                opens(page)
                save(page, arguments.to / f"{name}.png")
                print(arguments.to / f"{name}.png")
                page.close()
        browser.close()


if __name__ == "__main__":
    run(main)
