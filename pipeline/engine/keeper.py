"""Theta's keeper: applies outer steps, makes them durable, journals and publishes them.

The serial executor calls it directly; on a cluster it lives in the parameter actor. It is the same object.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.core.failures import ResumeError
from pipeline.core.flat import sha256
from pipeline.core.types import Contribution
from pipeline.engine.checkpoint import Checkpoint, Checkpoints, read_checkpoint, write_checkpoint
from pipeline.engine.journal import Journal
from pipeline.engine.protocols import Entry, Status
from pipeline.engine.publisher import Publisher
from pipeline.engine.store import Store
from pipeline.storage.local import write_whole

BEST = "best.safetensors"


@dataclass(frozen=True)
class Durability:
    """When checkpoints are written: after every ``every`` steps, and after the last."""

    every: int
    last: int
    keep: int


class Keeper:
    """One run's state on its way to disk and to people. ``identity`` is what a resume must agree with."""

    def __init__(
        self,
        store: Store,
        folder: Path,
        durability: Durability,
        identity: Mapping[str, Any],
        journal: Journal,
        publisher: Publisher,
        recipe: str,
        *,
        accept_numerics: bool,
    ) -> None:
        self.store, self.folder, self.durability, self.identity = store, folder, durability, dict(identity)
        self.recipe = recipe
        self.checkpoints = Checkpoints(folder / "checkpoints", durability.keep)
        self.journal, self.publisher, self.accept_numerics = journal, publisher, accept_numerics
        self._unsaved: list[Entry] = []
        self._skipped: list[str] = []
        self._best: tuple[int, float] | None = None

    def open(self, numerics: Mapping[str, str]) -> tuple[int, np.ndarray]:
        """The last durable step and theta there; damaged checkpoints are passed over. ``numerics`` are the workers'.

        Raises:
            ResumeError: checkpoints are there and none can be read, or they belong to another run.
        """
        self.identity["numerics"] = dict(numerics)
        checkpoint, complaints = self.checkpoints.newest()
        if checkpoint is None and complaints:
            raise ResumeError(f"no valid checkpoint: {'; '.join(complaints)}")
        if checkpoint is not None:
            self._check(checkpoint)
            self.store.restore(checkpoint.step, checkpoint.tensors, checkpoint.facts["texts"])
            self.journal.absorb(Entry(*entry) for entry in checkpoint.facts["entries"])
            self._skipped = list(checkpoint.facts["skipped"])
            self._best = self._kept_best()
        # Not before the checks: a resume that is refused leaves the run as it was.
        write_whole(self.folder / "recipe.yaml", lambda file: file.write(self.recipe.encode()))
        self.publisher.start({f"numerics.{key}": value for key, value in numerics.items()})
        return self.store.version, self.store.vector()

    def apply(
        self, step: int, contributions: Sequence[Contribution], facts: Mapping[str, float], skipped: Sequence[str]
    ) -> dict[str, float]:
        """Outer step number ``step``, durable where it is due, then journaled; returns seconds per part. Idempotent."""
        if step <= self.store.version:
            return {}
        start = time.perf_counter()
        norms = self.store.apply(step, contributions)
        reduced = time.perf_counter()
        self._skipped += skipped
        entry = Entry(
            "train",
            step,
            time.time_ns() // 1_000_000,
            dict(facts) | {f"train/{name}": value for name, value in norms.items()},
        )
        self._unsaved.append(entry)
        if step % self.durability.every == 0 or step == self.durability.last:
            self.checkpoints.write(self._checkpoint())
            self._unsaved = []
        self.journal.append(entry)
        return {"reduction": reduced - start, "checkpoint": time.perf_counter() - reduced}

    def vector(self) -> np.ndarray:
        return self.store.vector()

    def record(self, kind: str, step: int, metrics: Mapping[str, float]) -> None:
        """Journal metrics that are not an outer step's."""
        self.journal.append(Entry(kind, step, time.time_ns() // 1_000_000, dict(metrics)))

    def _kept_best(self) -> tuple[int, float] | None:
        """Step and score of the best theta on disk: it may be newer than the checkpoint of its step."""
        path = self.folder / BEST
        if not path.exists():
            return None
        try:
            step, score = read_checkpoint(path).facts["best"]
        except ResumeError:  # damaged: the next validation replaces it
            return None
        return step, score

    def keep_best(self, step: int, score: float) -> bool:
        """Keep theta aside when ``score`` (higher is better) is the best so far; theta must be that of ``step``."""
        if self._best is not None and score <= self._best[1]:
            return False
        self._best = (step, score)
        write_checkpoint(self.folder / BEST, self._checkpoint())
        return True

    def close(self, status: Status, summary: Mapping[str, Any]) -> str | None:
        """Write the summary, send what is left to the tracker and end its run; returns what could not be sent."""
        if status == "KILLED" and self._unsaved:  # asked to end, between two steps: the last one shall count
            self.checkpoints.write(self._checkpoint())
            self._unsaved = []
        artifacts = [self.folder / "recipe.yaml"]
        if summary:
            data = json.dumps(dict(summary), indent=2, default=float).encode() + b"\n"
            write_whole(self.folder / "summary.json", lambda file: file.write(data))
            artifacts.append(self.folder / "summary.json")
        artifacts += [
            self.checkpoints.folder / f"step-{step:08d}.safetensors" for step in self.checkpoints.steps()[-1:]
        ]
        tags = {"theta_sha256": sha256(self.store.theta), "step": str(self.store.version)}
        problem = self.publisher.close(status, [path for path in artifacts if path.exists()], tags)
        self.journal.close()
        return problem

    def _checkpoint(self) -> Checkpoint:
        tensors, texts = self.store.state()
        facts = {
            "identity": self.identity,
            "texts": texts,
            "entries": [list(entry) for entry in self._unsaved],
            "skipped": self._skipped,
            "best": self._best,
        }
        return Checkpoint(self.store.version, tensors, facts)

    def _check(self, checkpoint: Checkpoint) -> None:
        """Raises ``ResumeError`` with each key in which the checkpoint's run and this one differ."""
        found = checkpoint.facts["identity"]
        differing = [
            key
            for key in sorted({*found, *self.identity} - {"numerics", "numerics_changes"})
            if found.get(key) != self.identity.get(key)
        ]
        if differing:
            table = "; ".join(f"{key}: {found.get(key)!r} -> {self.identity.get(key)!r}" for key in differing)
            raise ResumeError(
                f"the checkpoint in {self.folder} belongs to another run: {table}. "
                "Resume with the same values, or train anew in another --output"
            )
        before, now = found["numerics"], self.identity["numerics"]
        changed = [
            f"{key} {before.get(key)} -> {now.get(key)}"
            for key in sorted({*before, *now})
            if before.get(key) != now.get(key)
        ]
        if changed and not self.accept_numerics:
            raise ResumeError(
                f"the run in {self.folder} was computed with other numerics: {', '.join(changed)}; going on would give "
                "other bits than one uninterrupted run. Restore them, or pass --accept-numerics, which is recorded"
            )
        self.identity["numerics_changes"] = [
            *found.get("numerics_changes", []),
            *([f"step {checkpoint.step}: {', '.join(changed)}"] if changed else []),
        ]
