"""The made pages are what the registry and the results give; the worked example is registered, checked and trained."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.algorithms import ALGORITHMS
from pipeline.comparison import pages
from pipeline.comparison.pages import algorithms, measured
from pipeline.core.failures import ConfigError, DataError
from pipeline.nets import NETS
from tests.contract import cases
from tests.test_architecture import CHECKS as HOUSE
from tests.test_architecture import SHIPPED, Source
from tests.unit.test_recorded import result

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

BOTH = """
import sys
import jobs
from docs import write
from jobs import train

sys.argv = ["jobs.train", "mine.yaml", "--executor", "serial", "--output", "run"]
try:
    jobs.run(train.main)
except SystemExit as ended:
    assert not ended.code, ended.code
sys.argv = ["docs.write", "--check"]
jobs.run(write.main)
"""
"""Two jobs in one process, which imports torch once."""

RECORDS = "the gradient of theta; records"
SENDS = {
    "reptile": "theta - phi",
    "metanas": "theta - phi",
    "promp": "theta - theta after proximal steps",
    "imaml": "the implicit meta-gradient",
    "finetune": "nothing: theta is never learned",
    "replay": "nothing: theta is never learned",
    "lamaml": "nothing: theta is never learned",
    "metalstm": "the gradient of the optimiser and of the initialisation",
    "learnedoptimizer": "the gradient of the optimiser",
    **dict.fromkeys(("ridge", "protonet", "matchingnet", "relationnet", "versa", "baseline", "multitask"), RECORDS),
    **dict.fromkeys(("metamemory", "gradientmemory", "metagan_protonet", "metagan_relationnet"), RECORDS),
}
"""What a worker sends, where it is not the gradient of theta alone."""


def test_the_pages_are_what_they_are_made_of():
    pages.check()


def test_every_algorithm_has_one_row_that_says_what_it_says(tmp_path):
    rows = [line for line in algorithms.page(tmp_path).splitlines() if line.startswith("| `")]
    assert sorted(row.split("`")[1] for row in rows) == sorted(ALGORITHMS)
    for row in rows:
        algorithm = ALGORITHMS[row.split("`")[1]]
        assert algorithm.about.paper in row
        assert row.split(" | ")[3] == SENDS.get(row.split("`")[1], "the gradient of theta")
        assert row.endswith("| not measured |")
        assert len(row.split(" | ")) == 7


def test_groups_that_are_state_or_only_there_in_some_settings_are_marked(tmp_path):
    groups = {
        line.split("`")[1]: line.split(" | ")[4] for line in algorithms.page(tmp_path).splitlines() if "| `" in line
    }
    assert groups["maml"] == "model"
    assert groups["metasgd"] == "inner_lr, model"
    assert groups["protonet"] == "model, (*running*)"
    assert groups["finetune"] == "*model*"
    assert groups["metagan_relationnet"] == "generator, model, relation, (*running*)"


def test_what_is_recorded_stands_in_the_row_of_its_algorithm(tmp_path):
    result("sinusoid_maml", "optimisation", points=((0, 0.2), (3, 0.75))).save(tmp_path / "protocol")
    result("nearest", normalisation="none").save(tmp_path / "protocol")
    rows = {line.split("`")[1]: line for line in algorithms.page(tmp_path).splitlines() if line.startswith("| `")}
    assert "`protocol`, sinusoid_maml: accuracy 75.00% ± 1.00% after 3 steps (transductive)" in rows["maml"]
    assert "`protocol`, nearest: accuracy 50.00% ± 1.00% (none)" in rows["nearest"]
    assert rows["protonet"].endswith("not measured |")


def test_the_page_of_results_has_a_table_for_each_protocol_and_what_was_found(tmp_path):
    folder = tmp_path / "omniglot_5w1s_equal_tasks"
    for one in (
        result("fomaml", "optimisation", points=((0, 0.2), (1, 0.7))),
        result("maml", "optimisation", points=((0, 0.2), (1, 0.9))),
    ):
        one.save(folder)
    result("elsewhere").save(tmp_path / "not_packaged")
    (folder / "README.md").write_text("Second derivatives pay.\n", "utf-8")
    text = measured.page(tmp_path)
    assert [line for line in text.splitlines() if line.startswith("#")] == [
        "# Results",
        "## Omniglot 5-way 1-shot, split random, 600 test tasks with 15 queries per class, 32,000 training tasks each",
    ]
    head, _, best, other = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("|")]
    assert head[:4] == ["method", "accuracy", "accuracy@1", "less maml"]
    assert best[:4] == ["maml", "90.00 ± 1.00", "90.00 ± 1.00", ""]
    assert other[:4] == ["fomaml", "70.00 ± 1.00", "70.00 ± 1.00", "−20.00 ± 0.00"]
    assert "* 2026-01-02, a small CPU, one process: fomaml, maml" in text
    assert text.endswith("Second derivatives pay.")
    (folder / "README.md").write_bytes(b"\xff")
    with pytest.raises(DataError, match=r"README\.md: cannot be read .* write it as UTF-8 text"):
        measured.page(tmp_path)


def test_a_page_that_is_not_what_it_is_made_of_is_refused_with_the_command(tmp_path):
    for text in (None, pages.PAGES["algorithms.md"](tmp_path)):
        if text is not None:
            (tmp_path / "algorithms.md").write_text(text.replace("maml", "mamml", 1), "utf-8")
        with pytest.raises(ConfigError, match=r"algorithms\.md: is not what .* run `make docs`"):
            pages.check(tmp_path, tmp_path)


def test_pages_that_were_written_are_the_pages_and_ones_that_cannot_be_are_said(tmp_path):
    assert pages.write(tmp_path, tmp_path) == pages.check(tmp_path, tmp_path)
    with pytest.raises(ConfigError, match=r"gone/algorithms\.md: cannot be written .* run it from a checkout"):
        pages.write(tmp_path / "gone", tmp_path)


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
    monkeypatch.setattr(cases, "NETS", {name: NETS[name] for name in ("mlp", "conv4", "linear", "seq2seq", "policy")})
    described = cases.described.__wrapped__()
    assert len(described) > 6
    for one in described:
        for check in one.checks:
            check(cases.case_of(one, small_images))


def test_the_worked_example_keeps_the_rules_of_the_house():
    source = Source(f"pipeline/algorithms/{NAME}.py", EXAMPLE.read_text("utf-8"))
    assert not [problem for check, tops in HOUSE.items() if tops == SHIPPED for problem in check(source)]
    assert LINE in source.text


@pytest.mark.slow
def test_one_file_and_one_line_make_an_algorithm_that_trains(small_images, mlflow_uri, tmp_path):
    """In a copy of the code, as its docstring says: it trains, and the pages say that they are not made again.

    ``test_guides`` trains plug-ins every day, and the tests above hold the example to the contract and the pages to
    what they are made of.
    """
    for part in ("pipeline", "jobs", "docs"):
        shutil.copytree(ROOT / part, tmp_path / part, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(EXAMPLE, tmp_path / "pipeline" / "algorithms")
    registry = tmp_path / "pipeline" / "algorithms" / "__init__.py"
    head, tail = registry.read_text("utf-8").split("ALGORITHMS: dict", 1)
    opened, entries = tail.split("{\n", 1)
    line = f"from pipeline.algorithms.{NAME} import ShrunkenMeans\n"
    registry.write_text(f"{head}{line}\nALGORITHMS: dict{opened}{{\n{LINE}{entries}", "utf-8")
    (tmp_path / "mine.yaml").write_text(RECIPE.format(images=small_images, uri=mlflow_uri), "utf-8")

    done = subprocess.run(
        [sys.executable, "-c", BOTH],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (done.returncode, "run `make docs`" in done.stderr) == (2, True), done.stderr
    assert "adapted" in done.stdout
    (row,) = json.loads((tmp_path / "run" / "summary.json").read_text("utf-8"))["evaluation"]["rows"]
    assert row["mean"] > 0.5, "better than one in five"
