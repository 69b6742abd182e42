"""Checkpoints: one safetensors file each, whole or absent, with a checksum of its tensors and metadata."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from pipeline.core.failures import ResumeError, StorageError
from pipeline.storage.interface import Storage

FORMAT = 3
"""The newest format. Theta is read from older formats too; a run resumes from this one only."""

_UNREADABLE = (SafetensorError, ValueError, LookupError, TypeError, RuntimeError, AttributeError, MemoryError)
"""What safetensors and torch raise on a malformed file, or on a dtype that this torch lacks."""
_NAME = re.compile(r"step-(\d{8})\.safetensors")


class Checkpoint(NamedTuple):
    """The run after ``step`` outer steps: tensors, and metadata that are JSON."""

    step: int
    tensors: dict[str, Tensor]
    metadata: dict[str, Any]


class Checkpoints:
    """A run's checkpoints. The newest ``keep`` of them are kept."""

    def __init__(self, storage: Storage, keep: int) -> None:
        self.storage, self.keep = storage, keep

    def write(self, checkpoint: Checkpoint) -> None:
        """Raises ``StorageError`` where it cannot be written or read back. Earlier checkpoints are untouched."""
        write_checkpoint(self.storage, name_of(checkpoint.step), checkpoint)
        # Only older files are removed: a newer one is damaged, and the run went back behind it.
        behind = [step for step in self.steps() if step <= checkpoint.step]
        for old in behind[: -self.keep]:
            self.storage.remove(name_of(old))

    def steps(self) -> list[int]:
        """The steps that have a checkpoint, oldest first."""
        names = (_NAME.fullmatch(name) for name in self.storage.names("checkpoints"))
        return sorted(int(match[1]) for match in names if match)

    def newest(self) -> tuple[Checkpoint | None, list[str]]:
        """The newest valid checkpoint, and a line for each damaged one that was skipped."""
        warnings: list[str] = []
        for step in reversed(self.steps()):
            name = name_of(step)
            try:
                found = read_checkpoint(self.storage, name)
                if found.step == step:
                    return found, warnings
                warnings.append(f"checkpoint {self.storage.where}/{name}: holds step {found.step}, it was renamed")
            except (ResumeError, StorageError) as error:
                warnings.append(str(error))
        return None, warnings


def name_of(step: int) -> str:
    return f"checkpoints/step-{step:08d}.safetensors"


def packed(checkpoint: Checkpoint) -> bytes:
    """A checkpoint's file."""
    metadata = json.dumps({"format": FORMAT, "step": checkpoint.step, **checkpoint.metadata}, sort_keys=True)
    return save(checkpoint.tensors, {"facts": metadata, "sha256": _digest(checkpoint.tensors, metadata)})


def theta_alone(checkpoint: Checkpoint) -> Checkpoint:
    """A checkpoint that serves and cannot be resumed: without the outer optimizers' moments and the journal."""
    tensors = {name: tensor for name, tensor in checkpoint.tensors.items() if name.startswith("theta/")}
    kept = {"identity": checkpoint.metadata["identity"]} if "identity" in checkpoint.metadata else {}
    return Checkpoint(checkpoint.step, tensors, kept)


def write_checkpoint(storage: Storage, name: str, checkpoint: Checkpoint) -> None:
    data = packed(checkpoint)
    storage.write(name, data)
    if storage.read(name, len(data)) != data:
        raise StorageError(f"checkpoint {storage.where}/{name}: does not read back as it was written; see to its disk")


def read_checkpoint(storage: Storage, name: str) -> Checkpoint:
    """Raises ``ResumeError`` naming the file and the reason where it is missing, damaged or of a newer format."""
    where = f"checkpoint {storage.where}/{name}"
    data = storage.read(name)
    if data is None:
        raise ResumeError(f"{where}: does not exist")
    try:
        tensors = dict(sorted(load(data).items()))  # it gives them in any order
        header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
        texts = header.get("__metadata__", {})
        digest = _digest(tensors, texts.get("facts", ""))
    except _UNREADABLE as error:
        raise ResumeError(f"{where}: cannot be read ({' '.join(str(error).split())})") from error
    if texts.get("sha256") != digest:
        raise ResumeError(f"{where}: its checksum does not fit its content; it is damaged")
    try:
        metadata = json.loads(texts["facts"])
        written, step = metadata["format"], metadata["step"]
        if not all(type(number) is int and number >= 0 for number in (written, step)):
            raise TypeError("no whole numbers")
    except (LookupError, TypeError, ValueError, RecursionError):
        raise ResumeError(f"{where}: holds no metadata of a run; no version of this program wrote it") from None
    if written > FORMAT:
        raise ResumeError(f"{where}: format {written}, this version reads up to format {FORMAT}; use a newer one")
    return Checkpoint(step, tensors, metadata)


def _digest(tensors: Mapping[str, Tensor], metadata: str) -> str:
    digest = hashlib.sha256(metadata.encode())
    for name in sorted(tensors):
        tensor = tensors[name].contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(
            tensor.reshape(-1).view(torch.uint8).numpy().tobytes()
        )  # numpy does not know all of torch's types
    return digest.hexdigest()
