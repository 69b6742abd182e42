"""Where bad and hostile input is given: an empty working folder, a folder of fixtures and a finished run to spoil."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests import quiet_runs
from tests.contract.bad_input import Place
from tests.runtime import tiny


@pytest.fixture(scope="session")
def trained(tmp_path_factory) -> Path:
    """The folder of a finished run on sinusoids."""
    folder = tmp_path_factory.mktemp("trained") / "run"
    quiet_runs.run(tiny.recipe("maml", Path("none")), folder, workers=0)
    return folder


@pytest.fixture
def place(tmp_path, monkeypatch, small_images, trained, torch_threads) -> Place:
    for name in ("cwd", "fixtures"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path / "cwd")
    return Place(tmp_path / "fixtures", small_images, trained)
