"""A run's folder that a stranger has made: it leads no write and no read out of itself, and holds up nobody."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.core.failures import ForeignFileError, ResumeError, StorageError
from pipeline.engine.durability.checkpoint import Checkpoint, Checkpoints, read_checkpoint, write_checkpoint
from pipeline.engine.durability.journal import Journal
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
        write_checkpoint(storage, f"checkpoints/{name}", found._replace(metadata=found.metadata | {"entries": [entry]}))
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


def changed(broken: Path, change: Callable[[Checkpoint], Checkpoint]) -> None:
    """Every checkpoint of a run, made by hand: its checksum fits."""
    storage = Local(broken)
    for name in storage.names("checkpoints"):
        found = read_checkpoint(storage, f"checkpoints/{name}")
        write_checkpoint(storage, f"checkpoints/{name}", change(found))


def fact(key: str, value: object) -> Callable[[Checkpoint], Checkpoint]:
    return lambda found: found._replace(metadata=found.metadata | {key: value})


def of_identity(key: str, value: object) -> Callable[[Checkpoint], Checkpoint]:
    return lambda found: found._replace(
        metadata=found.metadata | {"identity": found.metadata["identity"] | {key: value}}
    )


def text(key: str, value: object) -> Callable[[Checkpoint], Checkpoint]:
    return lambda found: found._replace(metadata=found.metadata | {"texts": found.metadata["texts"] | {key: value}})


def schedule(**values: object) -> Callable[[Checkpoint], Checkpoint]:
    def change(found: Checkpoint) -> Checkpoint:
        state = json.loads(found.metadata["texts"]["scheduler/model"]) | values
        return text("scheduler/model", json.dumps(state))(found)

    return change


def tensor(name: str, value: object) -> Callable[[Checkpoint], Checkpoint]:
    """A tensor in the place of the first one whose name ends like this; None takes it away."""

    def change(found: Checkpoint) -> Checkpoint:
        (whole, *_) = [each for each in found.tensors if each.endswith(name)] or [name]
        made = {whole: value(found.tensors.get(whole))} if callable(value) else {}
        return found._replace(tensors={each: t for each, t in found.tensors.items() if each != whole} | made)

    return change


STATES: dict[str, Callable[[Checkpoint], Checkpoint]] = {
    **{f"{key} is {value!r}": fact(key, value) for key in ("texts", "entries", "skipped") for value in (None, 7, "x")},
    **{f"identity is {value!r}": fact("identity", value) for value in (None, 7, [], {}, {"fixed": {}})},
    **{
        f"identity's {key} is {value!r}": of_identity(key, value)
        for key in ("fixed", "free", "numerics", "numerics_changes")
        for value in (None, 7, "x", [[7]], {"torch": 7})
        if key not in ("fixed", "free") or value != {"torch": 7}
    },
    **{f"best is {value!r}": fact("best", value) for value in (7, [], [1], ["1", 2.0], [1, "x"], [1.5, 2.0], {})},
    **{f"skipped is {value!r}": fact("skipped", value) for value in ([7], [None], {"a": 1})},
    **{
        f"the rate is {value!r}": text("rate/model", value)
        for value in (7, "x", "[]", "null", "true", "1e999", "[" * 9999)
    },
    **{f"the schedule is {value!r}": text("scheduler/model", value) for value in (7, "x", "[]", "null", "7", "{")},
    "a schedule of other steps": schedule(last_epoch=-5),
    "a schedule of half steps": schedule(last_epoch=0.5),
    "a schedule of endless steps": schedule(last_epoch=10**400),
    "a schedule without rates": schedule(_last_lr=[]),
    "a schedule of texts": schedule(_last_lr=["x"]),
    "a schedule of another rate": schedule(base_lrs=[7.0]),
    "no rate": lambda found: found._replace(metadata=found.metadata | {"texts": {}}),
    "no exp_avg": tensor("exp_avg", None),
    "no theta": tensor("weight", None),
    "one tensor more": tensor("theta/model/more", lambda _: torch.zeros(2)),
    "another optimizer": tensor("optimizer/model/momentum_buffer", lambda _: torch.zeros(2)),
    "another group": tensor("theta/other/x", lambda _: torch.zeros(2)),
    "another shape": tensor("exp_avg", lambda like: like[:-1]),
    "a flat theta": tensor("weight", lambda like: like.reshape(-1)),
    "another type": tensor("weight", lambda like: like.double()),
    "whole numbers": tensor("exp_avg", lambda like: like.to(torch.int32)),
    "no steps of Adam": tensor("step", lambda like: torch.zeros_like(like)),
    "steps of Adam before the first": tensor("step", lambda like: -torch.ones_like(like)),
    "steps of Adam that are none": tensor("step", lambda like: like * float("nan")),
    "no tensors": lambda found: found._replace(tensors={}),
}


FIRST = {name.split(" is ")[0]: name for name in reversed(STATES)}.values()
"""Of the values that a part of a checkpoint is given, the one of every day."""


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(change, marks=() if name in FIRST else pytest.mark.slow, id=name[:50])
        for name, change in STATES.items()
    ],
)
def test_a_checkpoint_that_was_made_by_hand_is_refused_and_the_run_left_as_it_was(broken, change):
    changed(broken, change)
    before = {path: path.read_bytes() for path in sorted(broken.rglob("*")) if path.is_file() and path.name != "lock"}
    said = resume(broken)
    assert "--resume: the " in said or "no valid checkpoint" in said
    assert before == {path: path.read_bytes() for path in before}
    assert set(before) == {path for path in broken.rglob("*") if path.is_file() and path.name != "lock"}


ANY = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


@settings(derandomize=True, database=None, deadline=None, max_examples=150)
@given(line=ANY | st.fixed_dictionaries(dict.fromkeys(("kind", "step", "timestamp", "metrics"), ANY)))
def test_any_line_of_a_journal_is_an_entry_or_refused(tmp_path_factory, line):
    folder = tmp_path_factory.mktemp("run")
    (folder / "journal.jsonl").write_text(json.dumps(line) + "\n")
    journal, said = Journal(Local(folder)), ""
    try:
        journal.load()
    except ResumeError as error:
        said = str(error)
    assert not said or ("line 1 is no entry" in said and "\n" not in said)
    assert all(type(value) in (int, float) for entry in journal.since(0) for value in entry.metrics.values())


ODD = b"steps: 3 # \x80\n"


@pytest.mark.parametrize("name", ["recipe.yaml", "tracked_run", "summary.json"])
@pytest.mark.parametrize(
    "content", [ODD, b"two words;", b'"text"', b"[" * 9999, None], ids=["odd", "a", "b", "c", "60 GB"]
)
def test_a_text_that_is_none_is_one_line_before_anything_is_sent(broken, name, content):
    path = broken / name
    path.unlink(missing_ok=True)
    path.write_bytes(content or b"")
    if content is None:
        os.truncate(path, 60_000_000_000)
    said = sync(broken)
    assert str(path) in said
    assert len(said) < 1000
    if name == "tracked_run":
        assert f"{path}: " in resume(broken), "said before the training, not after it"


@pytest.mark.parametrize("name", ["journal.jsonl", "checkpoints/step-00000004.safetensors"])
def test_a_sparse_file_of_60_gb_fills_no_memory(broken, name, monkeypatch, mlflow_uri):
    monkeypatch.setattr("pipeline.storage.sizes.free_memory", lambda: 8 << 30)
    os.truncate(broken / name, 60_000_000_000)
    ended = run("sync", broken, f"tracking.uri={mlflow_uri}")
    if name == "journal.jsonl":
        assert "journal.jsonl: line" in refused(ended)
        assert "has more than 16 MiB" in ended.err
        return
    assert ended.code == 0, ended
    ended = run("evaluate", broken, "evaluation.tasks=2", *SERIAL)
    assert "step-00000004.safetensors: has 60 GB, and 4.29 GB can be read here" in ended.err
    assert "this is the theta of step 3, and the run has reached step 4" in ended.err


def test_a_database_that_is_half_made_ends_the_sending_in_one_line(broken):
    with closing(sqlite3.connect(broken.parent / "half.db")) as database:
        database.execute("CREATE TABLE secrets (id INTEGER)")
        database.execute("CREATE TABLE experiments (id INTEGER)")
        database.commit()
    ended = run("sync", broken, f"tracking.uri=sqlite:///{broken.parent}/half.db")
    assert ended.code in (1, 2), ended
    assert ended.err.startswith("error: ")
    assert ended.err.count("\n") == 1
    assert "half.db" in ended.err
