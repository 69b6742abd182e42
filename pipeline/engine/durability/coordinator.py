"""The coordinator of theta: it applies outer steps, makes them durable, journals and publishes them.

The serial executor calls it directly; on a cluster it lives in the parameter actor. It is the same object.

A checkpoint is written while the next step is computed, because two fsyncs take as long as a small step. A crash may
therefore lose two steps: the one being computed and the one being written. Both are computed again, with the same bits.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipeline.core.failures import FencedError, ResumeError, StorageError
from pipeline.core.flat import sha256
from pipeline.core.types import Contribution
from pipeline.engine.durability.checkpoint import Checkpoint, Checkpoints, name_of, read_checkpoint, write_checkpoint
from pipeline.engine.durability.identity import Identity, changed_numerics
from pipeline.engine.durability.journal import Journal
from pipeline.engine.durability.publisher import Publisher
from pipeline.engine.interfaces import Entry, Opened, Status
from pipeline.engine.outer.store import Store
from pipeline.engine.resumable import check_resumable, check_state, entries_of
from pipeline.storage.interface import Storage

BEST = "best.safetensors"
UNKNOWN = ""
"""The evaluation of a best theta that was kept before evaluations had keys."""
SYNC_EVERY = 8
"""The most journal entries that a checkpoint holds."""


@dataclass(frozen=True)
class Durability:
    """A checkpoint is due after every ``every`` steps and after the last; with ``every`` 0, after ``seconds``."""

    every: int
    last: int
    keep: int
    seconds: float = 60.0

    def due(self, step: int, since: float) -> bool:
        """Whether to write one after ``step``, ``since`` seconds after the one before."""
        return step == self.last or (step % self.every == 0 if self.every else since >= self.seconds)


class Coordinator:
    """One run's state: theta, its checkpoints, its journal and its tracker. A resume must match ``identity``."""

    def __init__(
        self,
        store: Store,
        storage: Storage,
        durability: Durability,
        identity: Identity,
        journal: Journal,
        publisher: Publisher,
        files: Mapping[str, str],
        *,
        accept_numerics: bool,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self.store, self.storage, self.durability, self.identity = store, storage, durability, identity
        self.files, self.now = files, now
        self.checkpoints = Checkpoints(storage, durability.keep)
        self.journal, self.publisher, self.accept_numerics = journal, publisher, accept_numerics
        self.numerics: dict[str, Any] = {}
        self._opened = False
        self._mid_step = False
        self._unjournaled: list[Entry] = []
        self._writer = ThreadPoolExecutor(1, "checkpoint")
        self._writing: Future[None] | None = None
        self._saved = 0
        self._saved_at = 0.0
        self._skipped: list[str] = []
        self._best: tuple[int, float, str] | None = None

    def open(self, numerics: Mapping[str, str]) -> Opened:
        """Take over the run at its last durable step. Damaged checkpoints are skipped and named in the notes.

        ``numerics`` are the workers'.

        Raises:
            ConfigError: another process writes there.
            ResumeError: checkpoints are there and none can be read, or they belong to another run.
            StorageError: the folder cannot be written.
        """
        self.storage.lock()
        self.numerics = {"numerics": dict(numerics), "numerics_changes": []}
        checkpoint, notes = self._newest()
        # After the checks: a refused resume leaves the run and its present writer unchanged.
        self.storage.claim()
        if self.checkpoints.steps()[-1:] != ([] if checkpoint is None else [checkpoint.step]):
            checkpoint, notes = self._newest()
        self.journal.load()
        if checkpoint is not None:
            self.store.restore(checkpoint.step, checkpoint.tensors, checkpoint.metadata["texts"])
            self.journal.absorb(entries_of(checkpoint))
            self._skipped = list(checkpoint.metadata["skipped"])
            self._best = self._kept_best(notes)
        self._opened, self._saved, self._saved_at = True, self.store.version, self.now()
        for name, text in self.files.items():
            self.storage.write(name, text.encode())
        self.publisher.start({f"numerics.{key}": value for key, value in numerics.items()})
        return Opened(self.store.version, self.store.vector(), tuple(notes), self.storage.names("epochs")[-1])

    def commit(
        self, step: int, contributions: Sequence[Contribution], facts: Mapping[str, float], skipped: Sequence[str]
    ) -> dict[str, float]:
        """Outer step number ``step``; returns seconds per part. Idempotent.

        A due checkpoint is still being written when this returns; the step is journaled once it is durable.

        Raises:
            StorageError: no room for the step before, or the folder is gone; what is durable stays so.
            FencedError: another process has taken over the run.
        """
        if step <= self.store.version:
            return {}
        start = time.perf_counter()
        self.flush()
        settled = time.perf_counter()
        self._mid_step = True  # theta is inconsistent until the step completes
        norms = self.store.step(step, contributions)
        reduced = time.perf_counter()
        self._skipped += skipped
        metrics = dict(facts) | {f"train/{name}": value for name, value in norms.items()}
        self._unjournaled = [self.journal.entry("train", step, metrics)]
        self._mid_step = False
        if self.durability.due(step, self.now() - self._saved_at):
            self._writing = self._writer.submit(self._save, self._checkpoint())
        else:
            self._journal()
        return {"reduction": reduced - settled, "checkpoint": settled - start + time.perf_counter() - reduced}

    def flush(self) -> None:
        """Wait until the step before is durable and journaled. Raises what its writing raised."""
        writing, self._writing = self._writing, None
        if writing is not None:
            writing.result()

    def vector(self) -> np.ndarray:
        return self.store.vector()

    def record(self, kind: str, step: int, metrics: Mapping[str, float]) -> None:
        """Journal metrics that belong to no outer step, durably: computing a step again would not restore them."""
        self.flush()
        self.journal.append(self.journal.entry(kind, step, metrics))
        self.journal.sync()

    def keep_best(self, step: int, score: float, evaluation: str) -> bool:
        """Save theta apart when ``score`` (higher is better) is the best so far; theta must be that of ``step``.

        A score of another ``evaluation`` cannot be compared with the best one and replaces it.
        """
        self.flush()
        if self._best is not None and self._best[2] in (evaluation, UNKNOWN) and score <= self._best[1]:
            return False
        self._best = (step, score, evaluation)
        write_checkpoint(self.storage, BEST, self._checkpoint())
        return True

    def close(self, status: Status, files: Mapping[str, bytes]) -> str | None:
        """Save the last step and these files, send the rest of the journal to the tracker and end its run.

        Returns what could not be saved or sent. A second call does nothing.

        Raises:
            FencedError: another process has taken over the run; the tracked run is left to it.
        """
        opened, self._opened = self._opened, False
        try:
            return self._close(status, files) if opened else None
        except FencedError:
            self.publisher.abandon()
            raise
        finally:
            self._writer.shutdown()
            self.journal.close()
            self.storage.release()

    def _close(self, status: Status, files: Mapping[str, bytes]) -> str | None:
        artifacts, unsaved = ["recipe.yaml"], None
        try:
            self.storage.check()
            self.flush()
            if self.store.version > self._saved and not self._mid_step:
                self._save(self._checkpoint())
            for name, data in files.items():
                self.storage.write(name, data)
                artifacts.append(name)
            self.journal.append(self.journal.entry(status, self.store.version, {}))
            self.journal.sync()
        except StorageError as error:
            unsaved = str(error)
        artifacts += [name_of(step) for step in self.checkpoints.steps()[-1:]]
        tags = {"theta_sha256": sha256(self.store.theta), "step": str(self.store.version)}
        unsent = self.publisher.close(status, artifacts, tags)
        if unsaved or unsent:
            with suppress(StorageError):  # a folder that is gone was taken over by nobody
                self.storage.check()
        return unsaved or unsent

    def _save(self, checkpoint: Checkpoint) -> None:
        self.checkpoints.write(checkpoint)
        self._saved, self._saved_at = checkpoint.step, self.now()
        self._journal()

    def _journal(self) -> None:
        self.journal.absorb(self._unjournaled)
        self._unjournaled = []
        if len(self.journal.pending()) >= SYNC_EVERY:
            self.journal.sync()

    def _checkpoint(self) -> Checkpoint:
        tensors, texts = self.store.state()
        facts = {
            "identity": self.identity.facts() | self.numerics,
            "texts": texts,
            "entries": [list(entry) for entry in (*self.journal.pending(), *self._unjournaled)],
            "skipped": self._skipped,
            "best": self._best,
        }
        return Checkpoint(self.store.version, tensors, facts)

    def _newest(self) -> tuple[Checkpoint | None, list[str]]:
        checkpoint, warnings = self.checkpoints.newest()
        if checkpoint is not None:
            self._check(checkpoint)
            return checkpoint, [f"{one}; going on from step {checkpoint.step}" for one in warnings]
        if warnings:
            raise ResumeError(f"no valid checkpoint: {'; '.join(warnings)}")
        return None, []

    def _check(self, checkpoint: Checkpoint) -> None:
        """Raises ``ResumeError`` with each key in which the checkpoint's run and this one differ."""
        where = self.storage.where
        check_resumable(checkpoint, where)
        found = checkpoint.metadata["identity"]
        self.identity.check(found, where)
        if checkpoint.step > self.durability.last:
            raise ResumeError(
                f"--resume: the run in {where} has taken {checkpoint.step} steps, more than steps: "
                f"{self.durability.last}; none can be taken back, so ask for as many or more"
            )
        changed = changed_numerics(found["numerics"], self.numerics["numerics"])
        if changed and not self.accept_numerics:
            raise ResumeError(
                f"--resume: the run in {where} was computed with other numerics: {changed}; going on would give "
                "other bits than one uninterrupted run. Restore them, or pass --accept-numerics, which is recorded"
            )
        check_state(self.store, checkpoint, where)
        self.numerics["numerics_changes"] = [
            *found["numerics_changes"],
            *([f"step {checkpoint.step}: {changed}"] if changed else []),
        ]

    def _kept_best(self, notes: list[str]) -> tuple[int, float, str] | None:
        """The step, score and evaluation of the best theta on disk. It may be newer than the newest checkpoint."""
        if BEST not in self.storage.names(""):
            return None
        try:
            kept = read_checkpoint(self.storage, BEST)
            check_resumable(kept, self.storage.where)
            self.identity.check_theta(kept.metadata["identity"], f"{self.storage.where}/{BEST}")
        except (ResumeError, StorageError) as error:
            notes.append(f"{error}; the next validation replaces it")
            return None
        if kept.metadata["best"] is None:
            return None
        step, score, evaluation = [*kept.metadata["best"], UNKNOWN][:3]
        return step, score, evaluation
