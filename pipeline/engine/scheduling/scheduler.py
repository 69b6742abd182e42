"""Assigns chunks to workers by leases. It is a pure function of events and time, which returns actions.

Chunks are pure, so a chunk may be computed twice. Scheduling changes the time of a result, never its value.

- A lost worker is replaced, and its chunk is assigned again.
- A chunk whose lease runs out is assigned again, with twice the lease. Its worker is replaced after as long again.
- An idle worker with nothing to do gets a copy of a chunk that takes far longer than most.
- A node that keeps losing workers gets no chunks for a while, unless all nodes do.
- A chunk on which three workers are lost is split into its tasks. A task that loses its worker alone is poison.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Sequence
from typing import Literal

from pipeline.engine.interfaces import Chunk, Work
from pipeline.engine.scheduling.errors import backed_off, corrupt, named, nobody, poison
from pipeline.engine.scheduling.events import (
    Abort,
    Accept,
    Action,
    Assign,
    Done,
    Event,
    Id,
    Joined,
    Lease,
    Leaving,
    Lost,
    Note,
    Refused,
    Replace,
)
from pipeline.engine.scheduling.leases import LeaseTimes
from pipeline.engine.scheduling.quarantine import Quarantine
from pipeline.engine.scheduling.timeouts import Timeouts

MAX_LOSSES = 3
"""Workers that may be lost on one chunk before the chunk counts as poison."""

OnPoison = Literal["abort", "skip"]


class Scheduler:
    """Assigns the chunks of one ``submit`` to idle workers, in order."""

    def __init__(self, timeouts: Timeouts, on_poison: OnPoison = "abort") -> None:
        # Fixed at construction.
        self.timeouts, self.on_poison = timeouts, on_poison
        # Changes as workers come and go.
        self.workers: dict[Id, str] = {}
        self.idle: deque[Id] = deque()
        self.busy: dict[Id, Lease] = {}
        self.leaving: set[Id] = set()
        self.quarantine, self.lease_times = Quarantine(timeouts), LeaseTimes(timeouts)
        self.no_workers_since: float | None = None
        self.last_status = 0.0
        self.poisoned: set[str] = set()
        self._numbers = itertools.count(1)
        # Changes with every ``submit``. An isolated chunk is open, and its tasks wait in its place.
        self.submission = 0
        self.work: Work = "learn"
        self.waiting: deque[Chunk] = deque()
        self.open: dict[int, Chunk] = {}
        self.losses: dict[Chunk, int] = {}
        self.patience: dict[Chunk, float] = {}
        self.isolated: dict[int, set[Chunk]] = {}
        self.isolated_once: set[int] = set()
        # Of this submission and the one before it.
        self.leases: dict[int, Lease] = {}
        self.accepted: dict[tuple[int, Chunk], int] = {}

    @property
    def finished(self) -> bool:
        return not self.open

    def submit(self, work: Work, chunks: Sequence[Chunk], now: float) -> list[Action]:
        """Begin with these chunks; what workers still compute for earlier ones is dropped."""
        self.leases = {number: lease for number, lease in self.leases.items() if lease.submission == self.submission}
        self.accepted = {(of, chunk): digest for (of, chunk), digest in self.accepted.items() if of == self.submission}
        self.submission, self.work = self.submission + 1, work
        self.waiting = deque(self._without_poison(chunk) for chunk in chunks)
        self.open = {chunk.number: chunk for chunk in self.waiting}
        self.losses, self.patience, self.isolated, self.isolated_once = {}, {}, {}, set()
        self.no_workers_since = None
        self.idle = deque(sorted(self.idle))  # a worker begins with the same chunk as in the step before: it drew ahead
        return self._assign(now)

    def on(self, event: Event, now: float) -> list[Action]:
        match event:
            case Joined(worker, node):
                self.no_workers_since = None
                self.workers[worker] = node
                self.idle.append(worker)
                return self._assign(now)
            case Done():
                return self._done(event, now)
            case Lost(worker, why):
                return self._lost(worker, why, now)
            case Leaving(worker):
                return self._leave(worker)
            case Refused(worker, why):
                return [Note(f"worker {worker} is left out: {why}")]

    def tick(self, now: float) -> list[Action]:
        """Time passes: leases end, nodes come back, copies are made, waiting ends."""
        actions = [action for lease in list(self.busy.values()) for action in self._check_lease(lease, now)]
        return actions + self._assign(now) + self._copy(now) + self._alone(now)

    def wait(self, now: float) -> float:
        """Seconds until time alone may change something; one at most."""
        moments = [lease.since + (2 if lease.late else 1) * lease.seconds for lease in self.busy.values()]
        if self.idle:
            moments += [lease.since + self.lease_times.copy_after(self.work) for lease in self._copyable()]
            moments += [self.quarantine.until.get(self.workers[worker], now) for worker in self.idle]
        return min([1.0, *(max(moment - now, 0.01) for moment in moments if moment > now)])

    # What happened.

    def _done(self, event: Done, now: float) -> list[Action]:
        actions = self._freed(event, now)
        lease = self.leases.get(event.lease)
        if lease is None:
            return actions + self._assign(now)
        number, accepted = lease.chunk.number, self.accepted.get((lease.submission, lease.chunk), event.digest)
        if accepted != event.digest:
            return [Abort(corrupt(lease))]
        if lease.submission == self.submission and self.open.get(number) == lease.chunk:
            del self.open[number]
            self.isolated.pop(number, None)
            self.waiting = deque(chunk for chunk in self.waiting if chunk.number != number)
            self.accepted[self.submission, lease.chunk] = event.digest
            actions.append(Accept(number, event.result))
        elif lease.submission == self.submission and lease.chunk in self.isolated.get(number, ()):
            self._clear(lease.chunk)
        return actions + self._assign(now)

    def _freed(self, event: Done, now: float) -> list[Action]:
        # An answer that comes late says nothing about what its worker does now.
        lease = self.busy.get(event.worker)
        if lease is None or lease.number != event.lease:
            return []
        del self.busy[event.worker]
        self.lease_times.add(lease.work, now - lease.since)
        self.quarantine.done(self.workers[event.worker])
        if event.worker not in self.leaving:
            self.idle.append(event.worker)
            return []
        return self._forget(event.worker)

    def _lost(self, worker: Id, why: str, now: float) -> list[Action]:
        lease, node, expected = self.busy.pop(worker, None), self.workers.get(worker, ""), worker in self.leaving
        actions = self._forget(worker)
        wanted = lease is not None and lease.submission == self.submission and self._wanted(lease.chunk)
        if lease is not None and wanted and not expected:
            losses = self.losses[lease.chunk] = self.losses.get(lease.chunk, 0) + 1
            if losses >= MAX_LOSSES:
                return actions + self._isolate(lease.chunk, why) + self._assign(now)
            # After two losses on one chunk the chunk is the suspect, not the node.
            expected = losses > 1
        if not expected:
            backoff = self.quarantine.lost(node, now)
            if backoff is not None:
                actions.append(Note(backed_off(node, backoff)))
        if lease is not None and wanted and not self._in_hand(lease.chunk):
            self.waiting.appendleft(lease.chunk)
        return actions + self._assign(now)

    def _leave(self, worker: Id) -> list[Action]:
        if worker in self.busy:
            self.leaving.add(worker)
            return []
        return self._forget(worker) if worker in self.workers else []

    def _forget(self, worker: Id) -> list[Action]:
        self.workers.pop(worker, None)
        self.leaving.discard(worker)
        if worker in self.idle:
            self.idle.remove(worker)
        return [Replace(worker)]

    # Time.

    def _check_lease(self, lease: Lease, now: float) -> list[Action]:
        held = now - lease.since
        if now >= lease.since + 2 * lease.seconds:
            return self._lost(lease.worker, f"it did not answer for {held:.0f} s", now)
        if now < lease.since + lease.seconds or lease.late:
            return []
        lease.late = True
        if lease.submission != self.submission or not self._wanted(lease.chunk) or self._in_hand(lease.chunk):
            return []
        self.patience[lease.chunk] = 2 * self.patience.get(lease.chunk, 1.0)
        self.waiting.appendleft(lease.chunk)
        return [Note(f"worker {lease.worker} has held {named(lease.chunk)} for {held:.0f} s: it is assigned again")]

    def _copyable(self) -> list[Lease]:
        """Leases of this submission whose chunk only one worker holds."""
        leases = [lease for lease in self._current() if self._wanted(lease.chunk)]
        chunks = [lease.chunk for lease in leases]
        return [lease for lease in leases if chunks.count(lease.chunk) == 1]

    def _copy(self, now: float) -> list[Action]:
        actions: list[Action] = []
        for lease in sorted(self._copyable(), key=lambda one: one.since) if self.idle and not self.waiting else ():
            worker = self._next_idle(now)
            if worker is None or now < lease.since + self.lease_times.copy_after(self.work):
                break
            actions.append(self._lease_to(worker, lease.chunk, now))
        return actions

    def _alone(self, now: float) -> list[Action]:
        """With no worker at all: wait, say so, and give up in the end."""
        if self.workers or self.finished:
            self.no_workers_since = None
            return []
        if self.no_workers_since is None:
            self.no_workers_since = self.last_status = now
        waited, limit = now - self.no_workers_since, self.timeouts.wait_s
        if waited >= limit:
            return [Abort(nobody(limit))]
        if now - self.last_status < self.timeouts.status_s:
            return []
        self.last_status = now
        return [Note(f"no worker is left: waiting for {waited:.0f} s, {limit:.0f} s at most")]

    # Poison.

    def _isolate(self, chunk: Chunk, why: str) -> list[Action]:
        """``MAX_LOSSES`` workers were lost on a chunk: run its tasks alone, or give up on it."""
        number = chunk.number
        self.waiting = deque(other for other in self.waiting if other != chunk)
        if len(chunk.tickets) == 1 or number in self.isolated_once:
            return self._give_up_on(chunk, why)
        self.isolated_once.add(number)
        self.isolated[number] = {chunk._replace(tickets=(ticket,)) for ticket in chunk.tickets}
        self.waiting.extendleft(chunk._replace(tickets=(ticket,)) for ticket in reversed(chunk.tickets))
        return [Note(f"{MAX_LOSSES} workers were lost on {named(chunk)}, the last: {why}; its tasks are run alone")]

    def _clear(self, task: Chunk) -> None:
        """A task finished alone. When all have, the whole chunk is tried again."""
        self.waiting = deque(other for other in self.waiting if other != task)
        self.isolated[task.number].discard(task)
        if not self.isolated[task.number]:
            del self.isolated[task.number]
            whole = self.open[task.number]
            self.losses[whole] = 0
            self.waiting.appendleft(whole)

    def _give_up_on(self, culprit: Chunk, why: str) -> list[Action]:
        whole = self.open[culprit.number]
        left = tuple(ticket for ticket in whole.tickets if ticket not in culprit.tickets)
        if self.on_poison == "abort" or self.work == "score" or not left:
            return [Abort(poison(culprit, why))]
        self.poisoned |= {ticket.id for ticket in culprit.tickets}
        self.isolated.pop(culprit.number, None)
        self.isolated_once.discard(culprit.number)
        self.waiting = deque(chunk for chunk in self.waiting if chunk.number != culprit.number)
        self.open[culprit.number] = whole._replace(tickets=left)
        self.waiting.appendleft(self.open[culprit.number])
        return [Note(f"{named(culprit)} kills its worker ({why}): it is skipped")]

    def _without_poison(self, chunk: Chunk) -> Chunk:
        left = tuple(ticket for ticket in chunk.tickets if ticket.id not in self.poisoned)
        return chunk._replace(tickets=left or chunk.tickets)

    # Assignment.

    def _wanted(self, chunk: Chunk) -> bool:
        """Whether a result for it is of use: it is open, or a task of an isolated chunk."""
        number = chunk.number
        return chunk in self.isolated[number] if number in self.isolated else self.open.get(number) == chunk

    def _in_hand(self, chunk: Chunk) -> bool:
        """Whether it waits to be assigned, or a worker that is not late holds it."""
        return chunk in self.waiting or any(lease.chunk == chunk and not lease.late for lease in self._current())

    def _current(self) -> list[Lease]:
        return [lease for lease in self.busy.values() if lease.submission == self.submission]

    def _next_idle(self, now: float) -> Id | None:
        """The worker that was idle longest, on an available node; on any node if none is available."""
        usable = {worker for worker, node in self.workers.items() if self.quarantine.available(node, now)}
        return next((worker for worker in self.idle if worker in usable or not usable), None)

    def _assign(self, now: float) -> list[Action]:
        actions: list[Action] = []
        while self.waiting and (worker := self._next_idle(now)) is not None:
            actions.append(self._lease_to(worker, self.waiting.popleft(), now))
        return actions

    def _lease_to(self, worker: Id, chunk: Chunk, now: float) -> Assign:
        self.idle.remove(worker)
        seconds = self.lease_times.lease(self.work) * self.patience.get(chunk, 1.0)
        lease = Lease(next(self._numbers), worker, self.submission, self.work, chunk, now, seconds)
        self.busy[worker] = self.leases[lease.number] = lease
        return Assign(worker, lease.number, chunk)
