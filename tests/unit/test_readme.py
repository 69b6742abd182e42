"""The README and the pages of docs/ keep their word: code runs, commands are understood, numbers are the recorded."""

from __future__ import annotations

import importlib
import re
import shlex
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import jobs
from pipeline.config import load
from pipeline.runs import recorded
from pipeline.runs.report import final_table, in_the_end
from pipeline.storage.local import Local
from pipeline.sweeps.request import Request, prepare
from tests import small_images as patterns

pytestmark = pytest.mark.usefixtures("torch_threads")

ROOT = Path(__file__).resolve().parents[2]
README = ROOT / "README.md"
PAGES = [README, ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
GUIDE = (ROOT / "docs" / "your-own.md").read_text("utf-8")
MAX_LINES = 120
OTHERS = {"export", "ray", "git", "cd", "mlflow", "pip", "kill", "ulimit", "df", "tail", "curl", "docker"}
"""Commands that are not ours to check."""

SHELLS = {"", "sh", "bash", "shell", "console"}


def section(heading: str) -> str:
    found = re.search(
        rf"^## {re.escape(heading)}$(.*?)(?=^## |\Z)", README.read_text("utf-8"), re.DOTALL | re.MULTILINE
    )
    assert found, f"README.md has no heading {heading!r}"
    return found[1]


def blocks(source: str, *languages: str) -> list[str]:
    """The fenced blocks of a text that are in one of the languages."""
    found = re.findall(r"^```(\w*)[^\n]*\n(.*?)^```$", source, re.DOTALL | re.MULTILINE)
    return [content for language, content in found if language in languages]


def commands(text: str) -> list[list[str]]:
    """What a page tells people to type, as words: lines of shell blocks, and what runs a job inside a sentence."""
    lines = [line for block in blocks(text, *SHELLS) for line in joined(block)]
    prose = re.sub(r"^```.*?^```$", "", text, flags=re.DOTALL | re.MULTILINE)
    lines += [one.replace("\n", " ") for one in re.findall(r"`((?:python -m jobs|make )[^`]*)`", prose)]
    return [words for line in lines if (words := shlex.split(line.removeprefix("$ ").replace("…", ""), comments=True))]


def files(text: str) -> dict[str, str]:
    """The Python files that a page shows: blocks whose first line is a comment with their path."""
    return {name: block for block in blocks(text, "python") for name in re.findall(r"^# (\S+\.py)\n", block)}


def joined(block: str) -> list[str]:
    return re.sub(r"\\\n\s*", "", block).splitlines()


def ours(words: list[str]) -> bool:
    return words[:2] == ["python", "-m"]


@pytest.fixture
def here(migrated_mlflow, tmp_path, monkeypatch):
    """An empty working folder, with a database that MLflow has laid out."""
    shutil.copy(migrated_mlflow, tmp_path / "mlflow.db")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


@pytest.fixture
def job(here, monkeypatch):
    """Runs a command of the README in this process, with more arguments."""

    def run(words: list[str], *more: str) -> None:
        monkeypatch.setattr(sys, "argv", [words[2], *words[3:], *more])
        with pytest.raises(SystemExit) as ended:
            jobs.run(importlib.import_module(words[2]).main)
        assert ended.value.code == 0, " ".join(words)

    return run


def test_the_readme_is_short():
    assert len(README.read_text("utf-8").splitlines()) <= MAX_LINES


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_of_a_page_is_understood(page):
    for words in commands(page.read_text("utf-8")):
        understood(words)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_of_a_page_leads_to_a_file_and_a_heading(page):
    for target in re.findall(r"\]\(([^)#\s]*(?:#[^)\s]*)?)\)", page.read_text("utf-8")):
        name, _, anchor = target.partition("#")
        file = (page.parent / name) if name else page
        assert file.exists(), f"{page.name}: {target}"
        headings = re.findall(r"^#+ (.*)$", file.read_text("utf-8"), re.MULTILINE) if anchor else []
        anchors = {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}
        assert not anchor or anchor in anchors, f"{page.name}: {target}"


def test_the_readme_trains_loads_adapts_and_predicts(here, capsys):
    (example,) = blocks(section("Install and train"), "python")
    assert "steps=200" in example
    exec(compile(example.replace("steps=200", "steps=3"), "README.md", "exec"), {})
    assert list(here.glob("runs/*/*/summary.json"))
    assert capsys.readouterr().out


def test_the_readme_shows_what_its_command_prints(job, capsys):
    (command,) = [words for words in commands(section("Install and train")) if ours(words)]
    job(command, "--executor", "serial", "steps=2", "evaluation.tasks=4")
    assert "inner steps" in capsys.readouterr().out
    (shown,) = blocks(section("Install and train"), "text")
    (measured,) = [one for one in recorded.load(ROOT / "results" / "sinusoid_10shot") if one.method == "maml"]
    assert not [row for row in shown.splitlines() if row not in final_table(measured.evaluation)]
    assert load(command[3]).steps == measured.summary["steps"] == 3000


def test_the_readme_learns_a_folder_of_images(job, here):
    rng = np.random.default_rng(0)
    for number in range(patterns.CLASSES):
        folder = here / "photos" / f"class{number:02}"
        folder.mkdir(parents=True)
        for image in range(8):
            pixels = rng.integers(0, 256, (16, 16), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / f"{image}.png")
    ingest, train, *_ = [words for words in commands(section(OWN)) if ours(words)]
    job(ingest)
    job(train, "--executor", "serial", *QUICK, "net.channels=8", "task.train.queries=2", "task.eval.queries=2")
    assert (here / "runs" / "photos" / "summary.json").exists()


OWN = "Your own data, network and algorithm"
QUICK = ("steps=2", "evaluation.tasks=4", "tasks_per_step=2", "chunk_size=2", "tracking.report=false")


@pytest.mark.parametrize("part", ["my_lab.nets", "my_lab.methods"])
def test_the_readme_imports_a_network_and_an_algorithm(part, job, here, small_images):
    (algorithm,) = blocks(section(OWN), "python")
    (here / "my_lab").mkdir()
    (here / "my_lab" / "nets.py").write_text(files(GUIDE)["my_lab/nets.py"], "utf-8")
    (here / "my_lab" / "methods.py").write_text(algorithm, "utf-8")
    (train,) = [words for words in commands(section(OWN)) if ours(words) and part in words]
    shapes = ("task.train.ways=5", "task.train.queries=2", "task.eval.queries=2")
    job(train, "--executor", "serial", "--output", "run", f"source.path={small_images}", *QUICK, *shapes)
    assert (here / "run" / "summary.json").exists()


def test_numbers_of_the_table_of_methods_are_the_recorded_ones():
    rows = re.findall(r"`(\w+)` (\d+\.\d+ ± \d+\.\d+) (\w)\b", section("Methods"))
    shown = {method: (number, letter) for method, number, letter in rows}
    assert shown == {
        one.method: (in_the_end(one.evaluation)[1]["accuracy"].replace("%", ""), one.evaluation["normalisation"][0])
        for one in recorded.load(ROOT / "results" / "omniglot_5w1s")
    }


def understood(words: list[str]) -> None:
    """Fails where make has no such target, a job does not take these arguments, or there is no such recipe or key."""
    line = " ".join(words)
    if "--" in words:
        return understood(words[words.index("--") + 1 :])
    if words[0] == "make":
        makefile = (ROOT / "Makefile").read_text("utf-8")
        (target,) = [word for word in words[1:] if "=" not in word]
        assert target in re.findall(r"^([\w-]+):", makefile, re.MULTILINE), line
        given = dict(word.split("=", 1) for word in words[1:] if "=" in word)
        if "ARGS" in given:
            module = re.search(rf"^{target}:.*\n\t.* -m (\S+) \$\(ARGS\)$", makefile, re.MULTILINE)
            assert module, f"this target takes no ARGS: {line}"
            understood(["python", "-m", module[1], *shlex.split(given["ARGS"])])
        return None
    if words[:2] == ["python", "-c"]:
        compile(words[2], "README.md", "exec")
        return None
    if words[:2] != ["python", "-m"] or words[2] in ("pytest", "ruff", "mypy"):
        assert words[0] in (*OTHERS, "python") or "=" in words[0], f"nobody checks: {line}"
        return None
    try:
        module = words[2] if (ROOT / f"{words[2].replace('.', '/')}.py").exists() else f"{words[2]}.__main__"
        parser = importlib.import_module(module).parser()
        parse = parser.parse_args if words[2] == "jobs.ingest" else parser.parse_intermixed_args
        arguments = parse(words[3:])
    except SystemExit:
        pytest.fail(f"the job does not take: {line}")
    except (ImportError, AttributeError) as error:
        pytest.fail(f"no job is called {words[2]} ({error}): {line}")
    if words[2] == "jobs.sweep" and "RECIPE" not in words:
        asked = Request(arguments.recipe, tuple(arguments.overrides), arguments.search, arguments.samples)
        prepare(asked, Local(ROOT / "nowhere"))
    if words[2] in ("jobs.train", "jobs.evaluate") and not {"DIR", "RECIPE"} & set(words) and "--import" not in words:
        load(getattr(arguments, "recipe", "sinusoid_maml"), [one for one in arguments.overrides if one != "key=value"])
    return None
