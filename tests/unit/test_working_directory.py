"""What a Ray job's working directory takes along, by Ray's own packaging: the code, and nothing that lies beside it."""

from __future__ import annotations

import shutil
import zipfile
from pathlib import Path

import pytest
from ray._private.runtime_env import packaging

ROOT = Path(__file__).resolve().parents[2]
TAKEN = ["jobs/train.py", "mine.yaml", "own_source.py", "pipeline/core/types.py", "pipeline/recipes/one.yaml"]
TAKEN += ["results/protocol/row.json"]
LEFT = ["photos/cat/1.jpg", "1.png", "data/omniglot.arrow", "mlflow.db", "runs/one/recipe.yaml", "tests/test_x.py"]
LEFT += [".venv/bin/python", ".git/HEAD", "pipeline/__pycache__/types.pyc", "jobs/train.pyc", "weights.safetensors"]


@pytest.mark.parametrize("include_gitignore", [True, False], ids=["a checkout", "no checkout"])
def test_only_the_code_and_recipes_travel(tmp_path, include_gitignore):
    folder = tmp_path / "folder"
    for name in (*TAKEN, *LEFT):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)
    shutil.copy(ROOT / ".rayignore", folder)
    shutil.copy(ROOT / ".gitignore", folder)
    package = tmp_path / "package.zip"
    packaging._zip_files(str(folder), [], str(package), include_gitignore=include_gitignore)
    with zipfile.ZipFile(package) as made:
        assert sorted(name for name in made.namelist() if not name.endswith("/")) == sorted(TAKEN)
