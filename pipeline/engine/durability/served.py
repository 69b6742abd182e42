"""The files of a run that serve it: a small run folder of its own."""

from __future__ import annotations

from collections.abc import Iterable

from pipeline.engine.durability.checkpoint import Checkpoints, name_of, packed, theta_alone
from pipeline.storage.interface import Storage


def served_files(storage: Storage, names: Iterable[str]) -> dict[str, bytes]:
    """Those of ``names`` that the run has, and its newest theta; nothing where it has no checkpoint."""
    checkpoint, _ = Checkpoints(storage, 1).newest()
    if checkpoint is None:
        return {}
    found = {name: storage.read(name) for name in names}
    files = {name: data for name, data in found.items() if data is not None}
    return files | {name_of(checkpoint.step): packed(theta_alone(checkpoint))}
