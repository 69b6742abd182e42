"""The page of all algorithms is what the registry gives; the worked example is registered, checked and trained."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline import document
from pipeline.algorithms import ALGORITHMS
from pipeline.core.failures import ConfigError
from tests.contract import cases
from tests.contract.checks import CHECKS
from tests.test_architecture import CHECKS as HOUSE
from tests.test_architecture import SHIPPED, Source
from tests.unit.test_results import result

pytestmark = pytest.mark.usefixtures("torch_threads")

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE, NAME = ROOT / "docs" / "example" / "shrunken_means.py", "shrunken_means"
LINE = '    "shrunken_means": ShrunkenMeans,\n'
RECIPE = """
steps: 12
tasks_per_step: 4
chunk_size: 4
algorithm: {{name: shrunken_means}}
net: {{name: conv4, channels: 8}}
source: {{name: images, path: {images}}}
normalisation: support
task: {{train: {{ways: 5, shots: 1, queries: 3}}, eval: {{ways: 5, shots: 1, queries: 3}}}}
outer: {{model: {{lr: 0.01}}, shrinkage: {{lr: 0.1}}}}
evaluation: {{tasks: 40}}
tracking: {{uri: "{uri}"}}
"""


def test_the_page_is_what_the_registry_gives():
    document.check()


def test_every_algorithm_has_one_row_that_says_what_it_says(tmp_path):
    rows = [line for line in document.page(tmp_path).splitlines() if line.startswith("| `")]
    assert sorted(row.split("`")[1] for row in rows) == sorted(ALGORITHMS)
    for row in rows:
        algorithm = ALGORITHMS[row.split("`")[1]]
        assert algorithm.paper in row
        assert algorithm.sends in row
        assert row.endswith("| not measured |")
        assert len(row.split(" | ")) == 7


def test_groups_that_are_state_or_only_there_in_some_settings_are_marked(tmp_path):
    groups = {
        line.split("`")[1]: line.split(" | ")[4] for line in document.page(tmp_path).splitlines() if "| `" in line
    }
    assert groups["maml"] == "model"
    assert groups["metasgd"] == "inner_lr, model"
    assert groups["protonet"] == "model, (*running*)"
    assert groups["finetune"] == "*model*"


def test_what_is_recorded_stands_in_the_row_of_its_algorithm(tmp_path):
    result("sinusoid_maml", "optimisation", points=((0, 0.2), (3, 0.75))).save(tmp_path / "protocol")
    result("nearest", normalisation="none").save(tmp_path / "protocol")
    rows = {line.split("`")[1]: line for line in document.page(tmp_path).splitlines() if line.startswith("| `")}
    assert "`protocol`, sinusoid_maml: accuracy 75.00% ± 1.00% after 3 steps (transductive)" in rows["maml"]
    assert "`protocol`, nearest: accuracy 50.00% ± 1.00% (none)" in rows["nearest"]
    assert rows["protonet"].endswith("not measured |")


def test_a_page_that_is_not_what_the_registry_gives_is_refused_with_the_command(tmp_path):
    for text in (None, document.page().replace("maml", "mamml", 1)):
        if text is not None:
            (tmp_path / "page.md").write_text(text, "utf-8")
        with pytest.raises(ConfigError, match=r"page\.md: is not what .* run `python -m jobs\.document`"):
            document.check(tmp_path / "page.md")


def test_a_page_that_was_written_is_the_page_and_one_that_cannot_be_is_said(tmp_path):
    document.write(tmp_path / "page.md", tmp_path)
    document.check(tmp_path / "page.md", tmp_path)
    with pytest.raises(ConfigError, match=r"gone/page\.md: cannot be written .* run it from a checkout"):
        document.write(tmp_path / "gone" / "page.md")


@pytest.fixture
def example(monkeypatch):
    """The class of the worked example, out of its file."""
    spec = importlib.util.spec_from_file_location(NAME, EXAMPLE)
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, NAME, module)
    spec.loader.exec_module(module)
    return module.ShrunkenMeans


def test_the_worked_example_keeps_the_contract(example, monkeypatch, small_images):
    monkeypatch.setattr(cases, "ALGORITHMS", {NAME: example})
    described = cases.described.__wrapped__()
    assert len(described) > 6
    for one in described:
        for check in CHECKS:
            check(cases.case_of(one, small_images))


def test_the_worked_example_keeps_the_rules_of_the_house():
    source = Source(f"pipeline/algorithms/{NAME}.py", EXAMPLE.read_text("utf-8"))
    assert not [problem for check, tops in HOUSE.items() if tops == SHIPPED for problem in check(source)]
    assert LINE in source.text


def test_one_file_and_one_line_make_an_algorithm_that_trains(small_images, mlflow_uri, tmp_path):
    """In a copy of the code, as its docstring says."""
    for part in ("pipeline", "jobs", "docs"):
        shutil.copytree(ROOT / part, tmp_path / part, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(EXAMPLE, tmp_path / "pipeline" / "algorithms")
    registry = tmp_path / "pipeline" / "algorithms" / "__init__.py"
    head, tail = registry.read_text("utf-8").split("ALGORITHMS: dict", 1)
    opened, entries = tail.split("{\n", 1)
    line = f"from pipeline.algorithms.{NAME} import ShrunkenMeans\n"
    registry.write_text(f"{head}{line}\nALGORITHMS: dict{opened}{{\n{LINE}{entries}", "utf-8")
    (tmp_path / "mine.yaml").write_text(RECIPE.format(images=small_images, uri=mlflow_uri), "utf-8")

    trained = job(tmp_path, "train", "mine.yaml", "--executor", "serial", "--output", "run")
    assert trained.returncode == 0, trained.stderr
    summary = json.loads((tmp_path / "run" / "summary.json").read_text("utf-8"))
    (row,) = summary["evaluation"]["rows"]
    assert row["mean"] > 0.5, "better than one in five"
    assert "adapted" in trained.stdout

    stale = job(tmp_path, "document", "--check")
    assert (stale.returncode, "run `python -m jobs.document`" in stale.stderr) == (2, True), stale.stderr


def job(folder: Path, name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", f"jobs.{name}", *arguments],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(folder)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
