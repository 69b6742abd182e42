"""A run's folder that a stranger has made: it leads no write and no read out of itself, and holds up nobody."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.core.failures import ForeignFileError, StorageError
from pipeline.engine.durability.checkpoint import Checkpoint, Checkpoints, read_checkpoint, write_checkpoint
from pipeline.storage.bucket import Bucket
from pipeline.storage.local import Local
from tests.contract.bad_input import SERIAL, Place, run
from tests.contract.test_hostile_input import refused

pytestmark = pytest.mark.usefixtures("torch_threads")

MINE = "what is mine"
FILES = ("lock", "journal.jsonl", "recipe.yaml")
NEWEST = "checkpoints/step-00000002.safetensors"


def link(path: Path, mine: Path) -> None:
    path.symlink_to(mine)


def dangling(path: Path, mine: Path) -> None:
    mine.unlink()
    path.symlink_to(mine)


def hard_link(path: Path, mine: Path) -> None:
    path.hardlink_to(mine)


def fifo(path: Path, mine: Path) -> None:
    os.mkfifo(path)


def folder(path: Path, mine: Path) -> None:
    path.mkdir()


def resume(broken: Path) -> str:
    recipe = shutil.copy(broken.parent / "own.yaml", broken.parent / "again.yaml")
    return refused(run("train", recipe, *SERIAL, "--resume", "--output", broken))


def sync(broken: Path) -> str:
    return refused(run("sync", broken, f"tracking.uri=sqlite:///{broken.parent}/mlflow.db"))


@pytest.fixture
def broken(place: Place) -> Path:
    """A copy of a finished run; its recipe lies beside it, too."""
    made = place.run()
    shutil.copy(made / "recipe.yaml", made.parent / "own.yaml")
    return made


@pytest.mark.parametrize("job", [resume, sync], ids=lambda job: job.__name__)
@pytest.mark.parametrize("plant", [link, dangling, hard_link, fifo], ids=lambda plant: plant.__name__)
@pytest.mark.parametrize("name", ["lock", "journal.jsonl"])
def test_nothing_is_written_or_waited_for_through_a_foreign_file(broken, name, plant, job):
    mine = broken.parent / "mine"
    mine.write_text(MINE)
    (broken / name).unlink(missing_ok=True)
    plant(broken / name, mine)
    said = job(broken)
    assert f"{broken / name}: is " in said or (plant is hard_link and "its journal is empty" in said)
    assert not mine.exists() if plant is dangling else mine.read_text() == MINE


@pytest.mark.parametrize("plant", [link, fifo, folder], ids=lambda plant: plant.__name__)
@pytest.mark.parametrize("job", ["evaluate", "sync"])
def test_no_recipe_is_read_through_a_foreign_file(broken, plant, job):
    (broken / "recipe.yaml").unlink()
    plant(broken / "recipe.yaml", broken.parent / "own.yaml")
    said = refused(run(job, broken, *(SERIAL if job == "evaluate" else ())))
    assert f"{broken / 'recipe.yaml'}: is " in said


@pytest.mark.parametrize("name", ["checkpoints", "epochs"])
@pytest.mark.parametrize("job", [resume, sync], ids=lambda job: job.__name__)
def test_a_sub_folder_that_is_a_link_is_refused(broken, name, job):
    elsewhere = broken.parent / "elsewhere"
    shutil.move(broken / name, elsewhere)
    before = sorted(elsewhere.iterdir())
    (broken / name).symlink_to(elsewhere)
    assert f"{broken / name}: is a symbolic link" in job(broken)
    assert sorted(elsewhere.iterdir()) == before


def test_a_newest_checkpoint_that_is_foreign_is_passed_over_with_a_word(tmp_path):
    checkpoints = Checkpoints(Local(tmp_path), keep=4)
    for step in (1, 2):
        checkpoints.write(Checkpoint(step, {}, {}))
    for plant in (link, fifo):
        (tmp_path / NEWEST).rename(tmp_path / "mine")
        plant(tmp_path / NEWEST, tmp_path / "mine")
        newest, warnings = checkpoints.newest()
        assert newest is not None
        assert newest.step == 1
        assert [f"{tmp_path / NEWEST}: is a" in one for one in warnings] == [True]
        (tmp_path / NEWEST).unlink()
        (tmp_path / "mine").rename(tmp_path / NEWEST)


@pytest.mark.parametrize("plant", [link, fifo, folder], ids=lambda plant: plant.__name__)
def test_who_has_taken_over_is_not_read_from_a_foreign_file(tmp_path, plant):
    storage = Local(tmp_path)
    storage.lock()
    storage.claim()
    plant(tmp_path / "epochs" / "00000002", tmp_path / "mine")
    if plant is link:
        (tmp_path / "mine").write_text(MINE)
    with pytest.raises(ForeignFileError):
        storage.write("x", b"")
    assert not (tmp_path / "x").exists()
    storage.release()


ENTRIES = {
    "a command": ["$(touch mine)", 2, 3, {"train/loss": 0.5}],
    "lines": ["train\n$(touch mine)", 2, 3, {"train/loss": 0.5}],
    "a metric's name": ["train", 2, 3, {"$(touch mine)\n": 0.5}],
    "a text for a value": ["train", 2, 3, {"train/loss": "$(touch mine)"}],
    "a value beyond a float": ["train", 2, 3, {"train/loss": 10**400}],
    "a fraction of a step": ["train", 2.5, 3, {}],
    "a step beyond 64 bits": ["train", 1 << 63, 3, {}],
    "a step before the first": ["train", -1, 3, {}],
    "no time": ["train", 2, "now", {}],
    "no metrics": ["train", 2, 3, None],
    "a field too few": ["train", 2, 3],
    "a field too many": ["train", 2, 3, {}, {}],
    "a number": 7,
    "a text": "line",
}


@pytest.mark.parametrize("entry", ENTRIES.values(), ids=ENTRIES)
def test_an_entry_that_a_checkpoint_carries_is_checked_as_a_line_of_the_journal_is(broken, entry):
    storage = Local(broken)
    for name in storage.names("checkpoints"):
        found = read_checkpoint(storage, f"checkpoints/{name}")
        write_checkpoint(storage, f"checkpoints/{name}", found._replace(facts=found.metadata | {"entries": [entry]}))
    journal = (broken / "journal.jsonl").read_text()
    assert "carries an entry of the journal that is none" in resume(broken)
    assert (broken / "journal.jsonl").read_text() == journal


def spoil_commit(store: Path, data: str) -> None:
    (store / "recipe.yaml").write_text(json.dumps({"data": data, "bytes": len(MINE), "sha256": "0" * 64}))


@pytest.mark.parametrize("data", ["../mine", "data/../../mine", "epochs/1", "data/recipe.yaml." + "0" * 31])
def test_a_commit_in_a_store_leads_to_the_data_of_its_own_name_alone(tmp_path, data):
    (tmp_path / "mine").write_text(MINE)
    store = Bucket((tmp_path / "store").as_uri())
    store.claim()
    store.write("recipe.yaml", b"recipe")
    spoil_commit(tmp_path / "store", data)
    for access in (store.read, store.remove, lambda name: store.write(name, b"")):
        with pytest.raises(StorageError, match="is no commit object"):
            access("recipe.yaml")
    assert (tmp_path / "mine").read_text() == MINE


@pytest.mark.parametrize("sub", ["", "checkpoints"])
def test_a_store_that_is_a_folder_follows_no_links(tmp_path, sub):
    (tmp_path / "mine").write_text(MINE)
    store = Bucket((tmp_path / "store").as_uri())
    store.claim()
    store.write("checkpoints/one", b"old")
    if sub:
        shutil.move(tmp_path / "store" / sub, tmp_path / "mine-too")
        (tmp_path / "store" / sub).symlink_to(tmp_path / "mine-too")
    else:
        (tmp_path / "store" / "checkpoints" / "one").unlink()
        (tmp_path / "store" / "checkpoints" / "one").symlink_to(tmp_path / "mine")
    accesses: list[Callable[[], object]] = [
        lambda: store.read("checkpoints/one"),
        lambda: store.write("checkpoints/one", b"new"),
        lambda: store.remove("checkpoints/one"),
    ]
    for access in accesses:
        with pytest.raises(ForeignFileError, match="is a symbolic link"):
            access()
    assert (tmp_path / "mine").read_text() == MINE
