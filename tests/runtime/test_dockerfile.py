"""The Dockerfile, by its steps and without Docker: what it copies is there, installs, serves and is healthy."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
import time
import tomllib
import venv
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.http_served import ALICE, ON_IMAGES, tiny, train
from tests.runtime.test_http_serving import END_S, START_S

pytestmark = pytest.mark.ray


def steps() -> list[tuple[str, str]]:
    """Each instruction and its words; lines that go on are one."""
    text = (ROOT / "Dockerfile").read_text("utf-8").replace("\\\n", " ")
    lines = [line.strip() for line in text.splitlines()]
    return [tuple(line.split(maxsplit=1)) for line in lines if line and not line.startswith("#")]


def of(instruction: str) -> list[str]:
    return [words for name, words in steps() if name == instruction]


@pytest.fixture
def image(tmp_path):
    """What the COPY steps put into the image."""
    folder = tmp_path / "image"
    folder.mkdir()
    for words in of("COPY"):
        *sources, target = words.split()
        for source in sources:
            place = folder / target
            if (ROOT / source).is_dir():
                shutil.copytree(ROOT / source, place, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy(ROOT / source, place)
    return folder


def test_the_steps_are_in_order_and_the_user_is_not_root():
    names = [name for name, _ in steps()]
    assert names[0] == "FROM"
    assert set(names) <= {"FROM", "RUN", "WORKDIR", "COPY", "ARG", "USER", "ENV", "EXPOSE", "HEALTHCHECK", "CMD"}
    assert names.index("USER") < names.index("CMD")
    [user] = of("USER")
    assert user != "root"
    assert user in next(words for words in of("RUN") if words.startswith("useradd")).split()


def test_the_builder_is_sent_what_is_copied_and_nothing_else():
    kept = {line[1:] for line in (ROOT / ".dockerignore").read_text("utf-8").splitlines() if line.startswith("!")}
    assert kept == {source for words in of("COPY") for source in words.split()[:-1]}


def test_it_installs_the_tested_set_with_extras_that_exist():
    [command] = [words for words in of("RUN") if words.startswith("pip install")]
    words = shlex.split(command)
    assert words[words.index("-c") + 1] == "constraints.txt"
    extras = words[-1].partition("[")[2].rstrip("]").split(",")
    assert "serve" in extras
    assert set(extras) <= set(tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"])


def serve(image: Path, model: Path, log: Path, python: str = sys.executable) -> int:
    """The exit code of CMD, which is ended once HEALTHCHECK says that it is healthy; in the folder of the image."""
    environment = dict(pair.split("=", 1) for words in of("ENV") for pair in shlex.split(words))
    environment |= {"MODEL": str(model), "PORT": str(free_port()), "METAFLEET_TOKENS": f"alice:{ALICE}"}
    paths = {"PATH": f"{Path(python).parent}{os.pathsep}{os.environ['PATH']}", "PYTHONPATH": ""}
    environment = {**os.environ, **environment, **paths}
    [check] = [words.partition("CMD ")[2] for words in of("HEALTHCHECK")]
    with log.open("wb") as out:
        process = subprocess.Popen(json.loads(of("CMD")[0]), cwd=image, env=environment, stdout=out, stderr=out)
    try:
        deadline = time.monotonic() + START_S
        while subprocess.run(["sh", "-c", check], env=environment, capture_output=True, check=False).returncode:
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
        process.terminate()
        return process.wait(END_S)
    finally:
        process.kill()


def free_port() -> int:
    from tests.mlflow_server import free_port

    return free_port()


@pytest.mark.slow
def test_what_is_copied_serves_a_model_and_ends_on_sigterm(image, small_images, tmp_path):
    model = train(tiny(ON_IMAGES, small_images), tmp_path / "model")
    assert serve(image, model, tmp_path / "log") == 143, (tmp_path / "log").read_text()


@pytest.mark.drill
def test_it_builds_from_nothing(image, small_images, tmp_path):
    """The whole of pip's work, as the RUN step does it: minutes, and gigabytes."""
    model = train(tiny(ON_IMAGES, small_images), tmp_path / "model")
    venv.create(tmp_path / "venv", with_pip=True)
    [command] = [words for words in of("RUN") if words.startswith("pip install")]
    python = tmp_path / "venv" / "bin" / "python"
    subprocess.run([python, "-m", *shlex.split(command)], cwd=image, check=True)
    shutil.rmtree(image / "pipeline")  # the installed package serves; of the copies only its jobs are needed
    assert serve(image, model, tmp_path / "log", str(python)) == 143, (tmp_path / "log").read_text()
