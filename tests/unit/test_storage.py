"""Disks that are full, read-only or gone: one line that says so, before the run or in it, and nothing that is half."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline.build import build_components, durability
from pipeline.core.failures import ConfigError, StorageError
from pipeline.engine.durability.checkpoint import Checkpoints
from pipeline.engine.durability.coordinator import Durability
from pipeline.engine.durability.disk_space import check_disk_space, checkpoint_bytes
from pipeline.engine.outer.optimizer import Outer
from pipeline.runs.dry_run import check_folder
from pipeline.storage.local import Local
from pipeline.storage.sizes import size_text
from tests.quiet_runs import durable, run
from tests.runtime.tiny import recipe

pytestmark = pytest.mark.usefixtures("torch_threads")

TINY = recipe("maml", Path())


@pytest.fixture
def mount(tmp_path):
    """Mounts a small file system in memory; only root may."""
    mounted = []

    def mounts(options: str) -> Path:
        folder = tmp_path / "disk"
        folder.mkdir(exist_ok=True)
        command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
        if shutil.which("mount") is None or subprocess.run(command, capture_output=True, check=False).returncode:
            pytest.skip("a small disk can only be mounted by root")
        mounted.append(folder)
        return folder

    yield mounts
    for folder in mounted:
        subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.mark.fault("F17")
def test_a_full_disk_ends_the_run_in_one_line_and_with_room_it_goes_on(mount, tmp_path):
    disk = mount("size=400k")
    straight = run(TINY, tmp_path / "straight", 0)
    (disk / "other").touch()

    def fill(step: int) -> None:
        if step == 2:
            durable(disk / "run", step)
            (disk / "other").write_bytes(b"x" * (shutil.disk_usage(disk).free - 8192))

    with pytest.raises(StorageError) as raised:
        run(TINY, disk / "run", 0, after=fill)
    message = str(raised.value)
    assert "step-00000003.safetensors: No space left on device; it needs" in message
    assert "free; make room, then go on with --resume" in message
    assert "\n" not in message
    newest, warnings = Checkpoints(Local(disk / "run"), 1).newest()
    assert (newest.step, warnings) == (2, [])
    assert not list((disk / "run" / "checkpoints").glob(".*")), "half a file is left"
    (disk / "other").unlink()
    assert run(TINY, disk / "run", 0).theta == straight.theta


@pytest.mark.fault("F18")
def test_a_folder_that_vanishes_is_named_and_not_made_anew(tmp_path):
    def vanish(step: int) -> None:
        if step == 1:
            durable(tmp_path / "run", step)
            shutil.rmtree(tmp_path / "run")

    with pytest.raises(StorageError, match="the run's folder has vanished while it ran"):
        run(TINY, tmp_path / "run", 0, after=vanish)
    assert not (tmp_path / "run").exists()


@pytest.mark.fault("F18")
def test_a_read_only_folder_is_told_before_anything_starts(mount):
    disk = mount("size=64k,ro")
    with pytest.raises(ConfigError, match=r"disk cannot be written \(Read-only file system\)"):
        Local(disk / "runs" / "mine").probe()


def test_looking_whether_a_folder_can_be_written_leaves_nothing(tmp_path):
    Local(tmp_path / "runs" / "mine").probe()
    assert list(tmp_path.iterdir()) == []


def test_a_disk_too_small_is_told_before_anything_starts(mount):
    storage = Local(mount("size=300k") / "run")
    with pytest.raises(ConfigError, match=r"--output .*run: the run needs .* \(3 checkpoints of .* 307 kB are free"):
        check_folder(TINY, build_components(TINY), storage)
    assert not storage.folder.exists()


class Small(Local):
    """A disk with a million bytes left, 300 kB of which a resumed run's own checkpoints already hold."""

    def free(self) -> int:
        return 1_000_000

    def used(self, folder: str) -> int:
        return 300_000


@pytest.mark.parametrize(("checkpoint", "fits"), [(400_000, True), (440_000, False)])
def test_what_is_there_already_is_not_needed_again(tmp_path, checkpoint, fits):
    if fits:
        check_disk_space(Small(tmp_path), checkpoint, files=3, entries=100)
        return
    with pytest.raises(ConfigError, match="needs 1.12 MB"):
        check_disk_space(Small(tmp_path), checkpoint, files=3, entries=100)


@pytest.mark.parametrize(
    "outer",
    [
        {"optimizer": "adam"},
        {"optimizer": "sgd"},
        {"optimizer": "sgd", "momentum": 0.9},
        {"optimizer": "rmsprop"},
        {"optimizer": "rmsprop", "momentum": 0.9},
    ],
    ids=str,
)
def test_the_estimate_of_a_checkpoint_holds(tmp_path, outer):
    wide = recipe("maml", Path(), 1, outer={"model": outer}, net={"name": "mlp", "hidden": [300, 300]})
    run(wide, tmp_path, 0)
    size = (tmp_path / "checkpoints" / "step-00000001.safetensors").stat().st_size
    estimate = checkpoint_bytes(build_components(wide).layout.size, 4, [Outer(**outer)])
    assert size <= estimate <= 1.4 * size


def test_small_thetas_are_saved_after_every_step_and_large_ones_by_the_clock(tmp_path):
    storage = Local(tmp_path)
    assert durability(TINY, 1_000_000, storage) == Durability(1, TINY.steps, 2)
    assert durability(TINY, 1_000_001, storage) == Durability(0, TINY.steps, 2)
    fixed = recipe("maml", Path(), checkpoint={"every": 7, "keep": 3})
    assert durability(fixed, 10**9, storage) == Durability(7, TINY.steps, 3)
    timed = Durability(0, last=9, keep=2, seconds=60.0)
    assert [timed.due(step, since) for step, since in ((1, 59.9), (2, 60.0), (9, 0.1))] == [False, True, True]


@pytest.mark.parametrize(
    ("size", "text"), [(0, "0 bytes"), (999, "999 bytes"), (22_300, "22.3 kB"), (5e9, "5 GB"), (7e12, "7,000 GB")]
)
def test_sizes_are_for_people(size, text):
    assert size_text(size) == text


def failing(
    monkeypatch, home: object, name: str, number: int, fails: Callable[..., bool], times: int = 10**9
) -> list[int]:
    """A call of the system that fails with ``number`` where ``fails``, so many times; returns a list of these."""
    real, failed = getattr(home, name), list[int]()

    def planted(*arguments: Any, **named: Any) -> Any:
        if fails(*arguments) and len(failed) < times:
            failed.append(number)
            raise OSError(number, os.strerror(number))
        return real(*arguments, **named)

    monkeypatch.setattr(home, name, planted)
    return failed


def claimed(folder: Path) -> Local:
    storage = Local(folder)
    storage.lock()
    storage.claim()
    return storage


@pytest.mark.parametrize(
    ("number", "says"),
    [
        (errno.EDQUOT, r"Disk quota exceeded; it needs 510 bytes, and the quota there is used up; remove files"),
        (
            errno.ENOSPC,
            r"No space left on device; it needs 510 bytes, and the disk has more than that free, so a quota",
        ),
        (errno.EIO, r"Input/output error; the disk has an error; see to it, then go on with --resume"),
    ],
    ids=lambda part: errno.errorcode[part] if isinstance(part, int) else "",
)
def test_a_disk_that_takes_nothing_says_why(tmp_path, monkeypatch, number, says):
    storage = claimed(tmp_path)
    failing(monkeypatch, os, "fsync", number, lambda handle: True)
    with pytest.raises(StorageError, match=f"one: {says}") as raised:
        storage.write("one", bytes(510))
    assert "\n" not in str(raised.value)
    assert "free; make room" not in str(raised.value)
    assert storage.names("") == ["lock"]


def test_a_disk_without_room_for_another_file_says_so(mount):
    disk = mount("size=1m,nr_inodes=8")
    storage = claimed(disk)
    with pytest.raises(StorageError, match="are free, but no more files may be made; remove some"):
        [storage.write(f"file {number}", b"x") for number in range(8)]


@pytest.mark.parametrize("number", [errno.EIO, errno.EINTR], ids=errno.errorcode.get)
def test_an_old_checkpoint_that_cannot_be_removed_ends_the_run_in_one_line(tmp_path, monkeypatch, number):
    straight = run(TINY, tmp_path / "straight", 0)
    with monkeypatch.context() as patch:
        failing(patch, Path, "unlink", number, lambda path, **_: path.name == "step-00000001.safetensors")
        with pytest.raises(StorageError, match="step-00000001.safetensors: ") as raised:
            run(TINY, tmp_path / "run", 0)
    assert "\n" not in str(raised.value)
    assert run(TINY, tmp_path / "run", 0).theta == straight.theta


@pytest.mark.parametrize(("home", "name"), [(Path, "unlink"), (os, "replace")])
def test_a_signal_at_a_removal_or_a_renaming_is_no_matter(tmp_path, monkeypatch, home, name):
    straight = run(TINY, tmp_path / "straight", 0)
    failed = failing(monkeypatch, home, name, errno.EINTR, lambda path, *_: "checkpoints" in str(path), times=2)
    assert run(TINY, tmp_path / "run", 0).theta == straight.theta
    assert len(failed) == 2


def test_a_disk_that_cannot_be_looked_at_is_one_line(tmp_path, monkeypatch):
    storage = claimed(tmp_path)
    failing(monkeypatch, Path, "exists", errno.EIO, lambda path: path.parent.name == "epochs")
    with pytest.raises(StorageError, match="epochs: Input/output error; the disk has an error"):
        storage.write("one", b"")


def test_a_line_that_the_disk_took_half_of_does_not_spoil_the_next(tmp_path, monkeypatch):
    storage = claimed(tmp_path)
    log = storage.log("log")
    log.append("one\n")
    real = os.write

    def half(handle: int, data: bytes) -> int:
        if data == b"two\n":
            return real(handle, data[:2])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", half)
        with pytest.raises(StorageError, match="No space left"):
            log.append("two\n")
    log.append("three\n")
    assert list(log.lines()) == ["one\n", "three\n"]
    assert log.last() == "three\n"
    log.close()
