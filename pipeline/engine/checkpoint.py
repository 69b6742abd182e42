"""Checkpoints: one safetensors file each, whole or absent, with its own checksum over every bit that matters."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from pipeline.core.failures import ResumeError
from pipeline.storage.local import write_whole

FORMAT = 1
_NAME = re.compile(r"step-(\d{8})\.safetensors")


class Checkpoint(NamedTuple):
    """The run after ``step`` outer steps: tensors, and facts that are JSON."""

    step: int
    tensors: dict[str, Tensor]
    facts: dict[str, Any]


class Checkpoints:
    """A folder of checkpoints; the newest ``keep`` stay."""

    def __init__(self, folder: Path, keep: int) -> None:
        self.folder, self.keep = folder, keep

    def write(self, checkpoint: Checkpoint) -> Path:
        """Raises OSError where the disk is full or not writable; the checkpoints before are untouched."""
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / f"step-{checkpoint.step:08d}.safetensors"
        write_checkpoint(path, checkpoint)
        # Only what is behind it: a newer file that is still there was damaged, and the run fell back behind it.
        behind = [step for step in self.steps() if step <= checkpoint.step]
        for old in behind[: -self.keep]:
            (self.folder / f"step-{old:08d}.safetensors").unlink(missing_ok=True)
        return path

    def steps(self) -> list[int]:
        """The steps on disk, oldest first."""
        names = (_NAME.fullmatch(path.name) for path in self.folder.glob("step-*.safetensors"))
        return sorted(int(match[1]) for match in names if match)

    def newest(self) -> tuple[Checkpoint | None, list[str]]:
        """The newest valid checkpoint, and a line for each damaged one that was passed over."""
        complaints: list[str] = []
        for checkpoint in self._valid(complaints):
            return checkpoint, complaints
        return None, complaints

    def _valid(self, complaints: list[str]) -> Iterator[Checkpoint]:
        for step in reversed(self.steps()):
            try:
                yield read_checkpoint(self.folder / f"step-{step:08d}.safetensors")
            except ResumeError as error:
                complaints.append(str(error))


def write_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    facts = json.dumps({"format": FORMAT, "step": checkpoint.step, **checkpoint.facts}, sort_keys=True)
    data = save(checkpoint.tensors, {"facts": facts, "sha256": _digest(checkpoint.tensors, facts)})
    write_whole(path, lambda file: file.write(data))


def read_checkpoint(path: Path) -> Checkpoint:
    """Raises ``ResumeError`` naming the file and the reason where it is missing, damaged or of a newer format."""
    try:
        with safe_open(path, framework="pt") as file:
            texts = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (no mapping)
    except (SafetensorError, OSError) as error:
        raise ResumeError(f"checkpoint {path}: cannot be read ({error})") from error
    if texts.get("sha256") != _digest(tensors, texts.get("facts", "")):
        raise ResumeError(f"checkpoint {path}: its checksum does not fit its content; it is damaged")
    try:
        facts = json.loads(texts["facts"])
        written, step = facts["format"], int(facts["step"])
    except (LookupError, TypeError, ValueError, RecursionError):
        raise ResumeError(f"checkpoint {path}: holds no facts of a run; no version of this program wrote it") from None
    if written != FORMAT:
        raise ResumeError(f"checkpoint {path}: format {written}, this version reads format {FORMAT}")
    return Checkpoint(step, tensors, facts)


def _digest(tensors: Mapping[str, Tensor], facts: str) -> str:
    digest = hashlib.sha256(facts.encode())
    for name in sorted(tensors):
        tensor = tensors[name].contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(
            tensor.reshape(-1).view(torch.uint8).numpy().tobytes()
        )  # numpy does not know all of torch's types
    return digest.hexdigest()
