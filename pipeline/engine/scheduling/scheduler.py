"""Assigns blocks of chunks to workers by leases. It is a pure function of events and time, which returns actions.

Chunks are pure, so a chunk may be computed twice. Scheduling changes the time of a result, never its value.

- Once it is known how long a chunk takes, chunks are assigned in blocks (``blocks_of``), each for one result.
- A block whose worker is lost, late or far too slow is taken apart. From then on its chunks are blocks of one.
- A lost worker is replaced, and its chunk is assigned again.
- A chunk whose lease runs out is assigned again, with twice the lease. Its worker is replaced after as long again.
- An idle worker with nothing to do gets a copy of a chunk that takes far longer than most.
- A node that keeps losing workers gets no chunks for a while, unless all nodes do.
- A chunk on which three workers are lost is split into its tasks. A task that loses its worker alone is poison.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter, deque
from collections.abc import Sequence
from typing import Literal

from pipeline.engine.chunks import blocks_of
from pipeline.engine.interfaces import Block, Chunk, Work
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
from pipeline.engine.scheduling.submission import MAX_LOSSES, Submission
from pipeline.engine.scheduling.timeouts import Timeouts

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
        self.next_end = math.inf  # no lease ends before
        self.poisoned: set[str] = set()
        self._numbers = itertools.count(1)
        # Changes with every ``submit``.
        self.current = Submission(0, "learn", ())
        # Of this submission and the one before it.
        self.leases: dict[int, Lease] = {}
        self.accepted: dict[tuple[int, Block], tuple[int, ...]] = {}

    @property
    def finished(self) -> bool:
        return not self.current.open

    def submit(self, work: Work, chunks: Sequence[Chunk], now: float) -> list[Action]:
        """Begin with these chunks; what workers still compute for earlier ones is dropped."""
        last = self.current.number
        self.leases = {number: lease for number, lease in self.leases.items() if lease.submission == last}
        self.accepted = {(of, block): digest for (of, block), digest in self.accepted.items() if of == last}
        wanted = [self._without_poison(chunk) for chunk in chunks]
        known = self.lease_times.median[work] is not None and self.workers
        blocks = blocks_of(wanted, len(self.workers)) if known else [Block((chunk,)) for chunk in wanted]
        self.current, self.no_workers_since = Submission(last + 1, work, blocks), None
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
        actions: list[Action] = []
        if now >= self.next_end:
            actions += [action for lease in list(self.busy.values()) for action in self._check_lease(lease, now)]
            self.next_end = min((lease.end for lease in self.busy.values()), default=math.inf)
        return actions + self._assign(now) + self._copy(now) + self._alone(now)

    def wait(self, now: float) -> float:
        """Seconds until time alone may change something; one at most."""
        moments: list[float] = [self.next_end, self._next_copy(now)]
        moments += self.quarantine.until.values() if self.idle else ()
        return min((1.0, *(max(moment - now, 0.01) for moment in moments if moment > now)))

    # What happened.

    def _done(self, event: Done, now: float) -> list[Action]:
        actions = self._freed(event, now)
        lease = self.leases.get(event.lease)
        if lease is None:
            return actions + self._assign(now)
        if self.accepted.get((lease.submission, lease.block), event.digest) != event.digest:
            return [Abort(corrupt(lease))]
        if lease.submission == self.current.number and self.current.done(lease.block):
            self.accepted[lease.submission, lease.block] = event.digest
            actions.append(Accept(lease.block.number, event.result))
        return actions + self._assign(now)

    def _freed(self, event: Done, now: float) -> list[Action]:
        # An answer that comes late says nothing about what its worker does now.
        lease = self.busy.get(event.worker)
        if lease is None or lease.number != event.lease:
            return []
        del self.busy[event.worker]
        self.lease_times.add(lease.work, (now - lease.since) / len(lease.block.chunks))
        self.quarantine.done(self.workers[event.worker])
        if event.worker not in self.leaving:
            self.idle.append(event.worker)
            return []
        return self._forget(event.worker)

    def _lost(self, worker: Id, why: str, now: float) -> list[Action]:
        lease, node, expected = self.busy.pop(worker, None), self.workers.get(worker, ""), worker in self.leaving
        actions = self._forget(worker)
        block = lease.block if lease is not None and self._wanted(lease) else None
        if block is not None and not expected:
            losses = self.current.count_loss(block)
            if losses >= MAX_LOSSES:
                return actions + self._isolate(block, why) + self._assign(now)
            # After two losses on one chunk the chunk is the suspect, not the node.
            expected = losses > 1
        if not expected:
            backoff = self.quarantine.lost(node, now)
            if backoff is not None:
                actions.append(Note(backed_off(node, backoff)))
        if block is not None and not self._in_hand(block):
            self.current.again(block)
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
        if now < lease.end:
            return []
        if lease.late:
            return self._lost(lease.worker, f"it did not answer for {held:.0f} s", now)
        lease.late = True
        if not self._wanted(lease) or self._in_hand(lease.block):
            return []
        self.current.be_patient(lease.block)
        self.current.again(lease.block)
        return [Note(f"worker {lease.worker} has held {named(lease.block)} for {held:.0f} s: assigned again")]

    def _copyable(self) -> list[Lease]:
        """Leases of this submission whose block only one worker holds, the oldest first."""
        leases = [lease for lease in self.busy.values() if self._wanted(lease)]
        held = Counter(lease.block.chunks[0].tickets[0] for lease in leases)
        return [lease for lease in leases if held[lease.block.chunks[0].tickets[0]] == 1]

    def _copy(self, now: float) -> list[Action]:
        actions: list[Action] = []
        for lease in self._copyable() if self._next_copy(now) <= now and not self.current.waiting else ():
            worker = self._next_idle(now)
            if worker is None or self.current.waiting:
                break
            if now < lease.since + self.lease_times.copy_after(self.current.work, len(lease.block.chunks)):
                continue
            if len(lease.block.chunks) > 1:
                self.current.again(lease.block)
                actions += self._assign(now)
            else:
                actions.append(self._lease_to(worker, lease.block, now))
        return actions

    def _next_copy(self, now: float) -> float:
        """No copy is due before."""
        if not (self.idle and self.busy):
            return math.inf
        oldest = next(iter(self.busy.values()))
        soonest = oldest.since + self.lease_times.copy_after(self.current.work, 1)
        if now < soonest:
            return soonest
        after = self.lease_times.copy_after
        return min(
            (one.since + after(self.current.work, len(one.block.chunks)) for one in self._copyable()), default=math.inf
        )

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

    def _isolate(self, block: Block, why: str) -> list[Action]:
        """``MAX_LOSSES`` workers were lost on a chunk: run its tasks alone, or give up on it."""
        if self.current.isolate(block):
            return [Note(f"{MAX_LOSSES} workers were lost on {named(block)}, the last: {why}; its tasks are run alone")]
        if self.on_poison == "abort" or self.current.work == "score" or not self.current.beside(block):
            return [Abort(poison(block, why))]
        self.poisoned |= {ticket.id for ticket in block.tickets}
        self.current.leave_out(block)
        return [Note(f"{named(block)} kills its worker ({why}): it is skipped")]

    def _without_poison(self, chunk: Chunk) -> Chunk:
        if not self.poisoned:
            return chunk
        left = tuple(ticket for ticket in chunk.tickets if ticket.id not in self.poisoned)
        return chunk._replace(tickets=left or chunk.tickets)

    # Assignment.

    def _wanted(self, lease: Lease) -> bool:
        return lease.submission == self.current.number and self.current.wanted(lease.block)

    def _in_hand(self, block: Block) -> bool:
        """Whether it waits to be assigned, or a worker that is not late holds it."""
        held = (one.block for one in self.busy.values() if one.submission == self.current.number and not one.late)
        return block in self.current.waiting or block in held

    def _next_idle(self, now: float) -> Id | None:
        """The worker that was idle longest, on an available node; on any node if none is available."""
        idle = next((worker for worker in self.idle if self.quarantine.available(self.workers[worker], now)), None)
        if idle is not None or not self.idle:
            return idle
        usable = any(self.quarantine.available(node, now) for node in self.workers.values())
        return None if usable else self.idle[0]

    def _assign(self, now: float) -> list[Action]:
        actions: list[Action] = []
        while self.current.waiting and (worker := self._next_idle(now)) is not None:
            block = self.current.waiting.popleft()
            if self.current.wanted(block):
                actions.append(self._lease_to(worker, block, now))
        return actions

    def _lease_to(self, worker: Id, block: Block, now: float) -> Assign:
        self.idle.remove(worker)
        seconds = self.lease_times.lease(self.current.work, len(block.chunks)) * self.current.patience.get(block, 1.0)
        lease = Lease(next(self._numbers), worker, self.current.number, self.current.work, block, now, seconds)
        self.busy[worker] = self.leases[lease.number] = lease
        self.next_end = min(self.next_end, lease.end)
        return Assign(worker, lease.number, block)
