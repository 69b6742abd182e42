"""Checkpoints: whole or absent, never read as anything else than what was written."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest
import torch

from pipeline.core.failures import ResumeError, StorageError
from pipeline.engine.durability.checkpoint import Checkpoint, Checkpoints, read_checkpoint, write_checkpoint
from pipeline.storage.local import Local


def checkpoint(step: int = 7, fill: float = 1.5) -> Checkpoint:
    tensors = {
        "theta/model/w": torch.tensor([[1.0, -0.0], [fill, 3e-40]]),
        "theta/model/b": torch.full((3,), fill),
        "optimizer/model/step": torch.tensor(float(step)),
        "optimizer/model/exp_avg": torch.tensor([1.0, 2.0], dtype=torch.float64),
        "theta/seen/count": torch.tensor([4, 5]),
    }
    entries = [["train", step, 1_700_000_000_000, {"train/loss": 0.1, "é": 1e-300}]]
    return Checkpoint(step, tensors, {"entries": entries, "best": None, "texts": {"a": '{"b": 1}'}})


def same(one: Checkpoint, other: Checkpoint) -> bool:
    """By their bits: -0.0 is not 0.0."""
    bits = [
        {name: (value.dtype, tuple(value.shape), value.numpy().tobytes()) for name, value in each.tensors.items()}
        for each in (one, other)
    ]
    return bits[0] == bits[1] and one.step == other.step and facts_of(one) == facts_of(other)


def facts_of(one: Checkpoint) -> dict[str, object]:
    return {key: value for key, value in one.metadata.items() if key not in ("format", "step")}


@pytest.fixture
def written(tmp_path: Path) -> Path:
    write_checkpoint(Local(tmp_path), "one.safetensors", checkpoint())
    return tmp_path / "one.safetensors"


def read(path: Path) -> Checkpoint:
    return read_checkpoint(Local(path.parent), path.name)


def test_what_is_written_is_read(written):
    assert same(read(written), checkpoint())


@pytest.mark.fault("F26")
def test_every_flipped_byte_is_found_or_harmless(written):
    """Never read as other numbers or facts. Of each byte, one bit, another that moves along, and all at once."""
    data = written.read_bytes()
    messages: list[str] = []
    for position in range(len(data)):
        for mask in {1, 1 << position % 8, 255}:
            damaged = bytearray(data)
            damaged[position] ^= mask
            written.write_bytes(damaged)
            try:
                found = read(written)
            except ResumeError as error:
                messages.append(str(error))
            else:
                assert same(found, checkpoint()), f"byte {position} of {len(data)}, mask {mask}"
    assert len(messages) > 2.5 * len(data)
    assert all(str(written) in message and "\n" not in message for message in messages)


@pytest.mark.fault("F26")
def test_every_truncation_is_found(written):
    data = written.read_bytes()
    lengths = {0, 1, 7, 8, 9, len(data) - 1, *random.Random(0).sample(range(len(data)), 150)}
    for length in sorted(lengths):
        written.write_bytes(data[:length])
        with pytest.raises(ResumeError, match="one.safetensors"):
            read(written)
    written.write_bytes(data + b"\0")
    with pytest.raises(ResumeError, match="one.safetensors"):
        read(written)


def test_swapped_content_is_found(written):
    """Two tensors of one size that change places keep every length and offset."""
    data = written.read_bytes()
    header = 8 + int.from_bytes(data[:8], "little")
    body = bytearray(data[header:])
    body[:8], body[8:16] = body[8:16], body[:8]
    written.write_bytes(data[:header] + body)
    with pytest.raises(ResumeError, match="damaged"):
        read(written)


@pytest.mark.fault("F25")
def test_a_newer_format_is_named(written, monkeypatch):
    monkeypatch.setattr("pipeline.engine.durability.checkpoint.FORMAT", 1)
    with pytest.raises(ResumeError, match="format 3, this version reads up to format 1"):
        read(written)


def test_an_older_format_is_read(tmp_path, monkeypatch):
    """To evaluate and to serve; the coordinator goes on from its own format only."""
    with monkeypatch.context() as older:
        older.setattr("pipeline.engine.durability.checkpoint.FORMAT", 1)
        write_checkpoint(Local(tmp_path), "one.safetensors", checkpoint())
    assert same(read(tmp_path / "one.safetensors"), checkpoint())


@pytest.mark.parametrize("content", [None, b"", b"not a checkpoint at all", b"\xff" * 64])
def test_what_is_no_checkpoint_is_named(tmp_path, content):
    path = tmp_path / "odd.safetensors"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ResumeError, match="odd.safetensors"):
        read(path)


def test_a_safetensors_file_of_somebody_else_is_no_checkpoint(tmp_path):
    from safetensors.torch import save_file

    for metadata in (None, {"facts": "{}"}, {"sha256": "0"}):
        save_file({"w": torch.zeros(2)}, tmp_path / "odd.safetensors", metadata)
        with pytest.raises(ResumeError, match="odd.safetensors"):
            read(tmp_path / "odd.safetensors")


def spoil(folder: Path, step: int) -> None:
    path = folder / "checkpoints" / f"step-{step:08d}.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def test_the_newest_valid_one_wins_and_damaged_ones_are_named(tmp_path):
    checkpoints = Checkpoints(Local(tmp_path), keep=4)
    assert checkpoints.newest() == (None, [])
    for step in (1, 2, 9, 10):
        checkpoints.write(checkpoint(step))
    spoil(tmp_path, 9)
    (tmp_path / "checkpoints" / "step-00000010.safetensors").write_bytes(b"")
    newest, warnings = checkpoints.newest()
    assert newest is not None
    assert same(newest, checkpoint(2))
    assert len(warnings) == 2
    assert "step-00000010" in warnings[0]
    assert "step-00000009" in warnings[1]
    for step in (1, 2):
        spoil(tmp_path, step)
    newest, warnings = checkpoints.newest()
    assert newest is None
    assert len(warnings) == 4


def test_other_files_in_the_folder_are_left_alone(tmp_path):
    others = ["step-1.safetensors", "step-00000001.safetensors.bak", "notes.txt", ".step-00000003.safetensors.abc"]
    folder = tmp_path / "checkpoints"
    folder.mkdir()
    for name in others:
        (folder / name).write_text("mine")
    checkpoints = Checkpoints(Local(tmp_path), keep=1)
    for step in (1, 2):
        checkpoints.write(checkpoint(step))
    assert checkpoints.steps() == [2]
    assert all((folder / name).read_text() == "mine" for name in others)


@pytest.mark.parametrize("keep", [1, 2, 5])
def test_the_newest_few_stay(tmp_path, keep):
    checkpoints = Checkpoints(Local(tmp_path), keep)
    for step in range(1, 8):
        checkpoints.write(checkpoint(step))
        assert checkpoints.steps() == list(range(1, step + 1))[-keep:]
    assert sorted(os.listdir(tmp_path / "checkpoints")) == [
        f"step-{step:08d}.safetensors" for step in checkpoints.steps()
    ]


def test_a_step_that_is_written_again_replaces_itself(tmp_path):
    checkpoints = Checkpoints(Local(tmp_path), keep=2)
    for fill in (1.0, 2.0):
        checkpoints.write(checkpoint(3, fill))
    newest, _ = checkpoints.newest()
    assert newest is not None
    assert same(newest, checkpoint(3, 2.0))
    assert checkpoints.steps() == [3]


def test_damaged_ones_ahead_do_not_push_out_the_valid_ones(tmp_path):
    """A run that fell back behind a damaged checkpoint must not delete what it has just written."""
    checkpoints = Checkpoints(Local(tmp_path), keep=2)
    for step in (4, 8):
        checkpoints.write(checkpoint(step))
    spoil(tmp_path, 8)
    resumed = Checkpoints(Local(tmp_path), keep=1)
    for step in (5, 6):
        resumed.write(checkpoint(step))
        newest, _ = resumed.newest()
        assert newest is not None, f"after step {step} nothing valid is left"
        assert same(newest, checkpoint(step))


class Forgetful(Local):
    """A disk that takes what it is given and returns something else."""

    def read(self, name: str, most: int | None = None) -> bytes | None:
        data = super().read(name, most)
        return None if data is None else data[:-1] + bytes([data[-1] ^ 1])


def test_nothing_is_pruned_before_the_new_one_has_been_read_back(tmp_path):
    Checkpoints(Local(tmp_path), keep=1).write(checkpoint(1))
    with pytest.raises(StorageError, match="step-00000002.safetensors: does not read back"):
        Checkpoints(Forgetful(tmp_path), keep=1).write(checkpoint(2))
    assert Checkpoints(Local(tmp_path), keep=1).steps() == [1, 2]
