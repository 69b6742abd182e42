"""Who computes which chunk, until when: a pure, event-driven decision. Events and time go in, actions come out.

Chunks are pure, so a chunk may be computed twice: nothing here can change a result, only how soon it is there.

- A lost worker is replaced and its chunk dealt again.
- A chunk whose lease runs out is dealt again, with twice the lease; its worker is replaced after as long again.
- An idle worker with nothing to do gets a copy of a chunk that takes far longer than most.
- A machine that keeps losing workers rests, unless all do.
- A chunk that takes three workers with it is cut into its tasks, and the one that does so alone is named.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Sequence
from typing import Literal

from pipeline.engine.interfaces import Chunk, Work
from pipeline.engine.scheduling.errors import corrupt, named, nobody, poison
from pipeline.engine.scheduling.events import (
    Abort,
    Accept,
    Action,
    Deal,
    Done,
    Event,
    Id,
    Joined,
    Leaving,
    Lost,
    Note,
    Order,
    Refused,
    Replace,
)
from pipeline.engine.scheduling.leases import Pace
from pipeline.engine.scheduling.quarantine import Places
from pipeline.engine.scheduling.timeouts import Limits

MAX_KILLS = 3
"""Workers that a chunk may take with it before it is taken for poison."""

OnPoison = Literal["abort", "skip"]


class Dealer:
    """Deals a round's chunks in order to idle workers."""

    def __init__(self, limits: Limits, on_poison: OnPoison = "abort") -> None:
        # Fixed at construction.
        self.limits, self.on_poison = limits, on_poison
        # Changes as workers come and go.
        self.workers: dict[Id, str] = {}
        self.idle: deque[Id] = deque()
        self.busy: dict[Id, Order] = {}
        self.leaving: set[Id] = set()
        self.places, self.pace = Places(limits), Pace(limits)
        self.alone_since: float | None = None
        self.told = 0.0
        self.poisoned: set[str] = set()
        self._numbers = itertools.count(1)
        # Changes every round. A chunk under trial is open, and its tasks wait in its place.
        self.round = 0
        self.work: Work = "learn"
        self.waiting: deque[Chunk] = deque()
        self.open: dict[int, Chunk] = {}
        self.kills: dict[Chunk, int] = {}
        self.patience: dict[Chunk, float] = {}
        self.trials: dict[int, set[Chunk]] = {}
        self.tried: set[int] = set()
        # Of this round and the one before it.
        self.orders: dict[int, Order] = {}
        self.accepted: dict[tuple[int, Chunk], int] = {}

    @property
    def finished(self) -> bool:
        return not self.open

    def submit(self, work: Work, chunks: Sequence[Chunk], now: float) -> list[Action]:
        """Begin a round; what workers still compute for an earlier one will be dropped."""
        self.orders = {number: order for number, order in self.orders.items() if order.round == self.round}
        self.accepted = {(of, chunk): digest for (of, chunk), digest in self.accepted.items() if of == self.round}
        self.round, self.work = self.round + 1, work
        self.waiting = deque(self._without_poison(chunk) for chunk in chunks)
        self.open = {chunk.number: chunk for chunk in self.waiting}
        self.kills, self.patience, self.trials, self.tried = {}, {}, {}, set()
        self.alone_since = None
        return self._deal(now)

    def on(self, event: Event, now: float) -> list[Action]:
        match event:
            case Joined(worker, place):
                self.alone_since = None
                self.workers[worker] = place
                self.idle.append(worker)
                return self._deal(now)
            case Done():
                return self._done(event, now)
            case Lost(worker, why):
                return self._lost(worker, why, now)
            case Leaving(worker):
                return self._leave(worker)
            case Refused(worker, why):
                return [Note(f"worker {worker} is left out: {why}")]

    def tick(self, now: float) -> list[Action]:
        """Time passes: leases end, rests end, copies are made, patience ends."""
        actions: list[Action] = []
        for order in list(self.busy.values()):
            actions += self._check_lease(order, now)
        return actions + self._deal(now) + self._copy(now) + self._alone(now)

    def wait(self, now: float) -> float:
        """Seconds until time alone may change something; one at most."""
        moments = [order.since + (2 if order.late else 1) * order.lease for order in self.busy.values()]
        if self.idle:
            moments += [order.since + self.pace.copy_after(self.work) for order in self._copyable()]
            moments += [self.places.until.get(self.workers[worker], now) for worker in self.idle]
        return min([1.0, *(max(moment - now, 0.01) for moment in moments if moment > now)])

    # What happened.

    def _done(self, event: Done, now: float) -> list[Action]:
        actions = self._freed(event, now)
        order = self.orders.get(event.order)
        if order is None:
            return actions + self._deal(now)
        number, accepted = order.chunk.number, self.accepted.get((order.round, order.chunk), event.digest)
        if accepted != event.digest:
            return [Abort(corrupt(order))]
        if order.round == self.round and self.open.get(number) == order.chunk:
            del self.open[number]
            self.trials.pop(number, None)
            self.waiting = deque(chunk for chunk in self.waiting if chunk.number != number)
            self.accepted[self.round, order.chunk] = event.digest
            actions.append(Accept(number, event.result))
        elif order.round == self.round and order.chunk in self.trials.get(number, ()):
            self._acquit(order.chunk)
        return actions + self._deal(now)

    def _freed(self, event: Done, now: float) -> list[Action]:
        # An answer that comes late says nothing about what its worker does now.
        order = self.busy.get(event.worker)
        if order is None or order.number != event.order:
            return []
        del self.busy[event.worker]
        self.pace.add(order.work, now - order.since)
        self.places.done(self.workers[event.worker])
        if event.worker not in self.leaving:
            self.idle.append(event.worker)
            return []
        return self._forget(event.worker)

    def _lost(self, worker: Id, why: str, now: float) -> list[Action]:
        order, place, expected = self.busy.pop(worker, None), self.workers.get(worker, ""), worker in self.leaving
        actions = self._forget(worker)
        wanted = order is not None and order.round == self.round and self._wanted(order.chunk)
        if order is not None and wanted and not expected:
            kills = self.kills[order.chunk] = self.kills.get(order.chunk, 0) + 1
            if kills >= MAX_KILLS:
                return actions + self._suspect(order.chunk, why) + self._deal(now)
            # A second worker lost on the same chunk speaks against the chunk.
            expected = kills > 1
        if not expected:
            rest = self.places.lost(place, now)
            if rest is not None:
                actions.append(Note(f"machine {place or 'here'} keeps losing workers: it rests for {rest:.0f} s"))
        if order is not None and wanted and not self._in_hand(order.chunk):
            self.waiting.appendleft(order.chunk)
        return actions + self._deal(now)

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

    def _check_lease(self, order: Order, now: float) -> list[Action]:
        held = now - order.since
        if now >= order.since + 2 * order.lease:
            return self._lost(order.worker, f"it did not answer for {held:.0f} s", now)
        if now < order.since + order.lease or order.late:
            return []
        order.late = True
        if order.round != self.round or not self._wanted(order.chunk) or self._in_hand(order.chunk):
            return []
        self.patience[order.chunk] = 2 * self.patience.get(order.chunk, 1.0)
        self.waiting.appendleft(order.chunk)
        return [Note(f"worker {order.worker} has {named(order.chunk)} for {held:.0f} s: it is dealt again")]

    def _copyable(self) -> list[Order]:
        """Orders of this round whose chunk is in one worker's hands alone."""
        orders = [order for order in self.busy.values() if order.round == self.round and self._wanted(order.chunk)]
        chunks = [order.chunk for order in orders]
        return [order for order in orders if chunks.count(order.chunk) == 1]

    def _copy(self, now: float) -> list[Action]:
        actions: list[Action] = []
        for order in sorted(self._copyable(), key=lambda one: one.since) if self.idle and not self.waiting else ():
            worker = self._rested(now)
            if worker is None or now < order.since + self.pace.copy_after(self.work):
                break
            actions.append(self._give(worker, order.chunk, now))
        return actions

    def _alone(self, now: float) -> list[Action]:
        """With no worker at all a round waits a while, says so, and is given up in the end."""
        if self.workers or self.finished:
            self.alone_since = None
            return []
        if self.alone_since is None:
            self.alone_since = self.told = now
        waited, limit = now - self.alone_since, self.limits.wait_s
        if waited >= limit:
            return [Abort(nobody(limit))]
        if now - self.told < self.limits.status_s:
            return []
        self.told = now
        return [Note(f"no worker is left: waiting for {waited:.0f} s, {limit:.0f} s at most")]

    # Poison.

    def _suspect(self, chunk: Chunk, why: str) -> list[Action]:
        """A chunk took ``MAX_KILLS`` workers with it: try its tasks alone, or pass the verdict."""
        number = chunk.number
        self.waiting = deque(other for other in self.waiting if other != chunk)
        if len(chunk.tickets) == 1 or number in self.tried:
            return self._condemn(chunk, why)
        self.tried.add(number)
        self.trials[number] = {chunk._replace(tickets=(ticket,)) for ticket in chunk.tickets}
        self.waiting.extendleft(chunk._replace(tickets=(ticket,)) for ticket in reversed(chunk.tickets))
        return [Note(f"{named(chunk)} took {MAX_KILLS} workers with it, the last: {why}; its tasks are tried alone")]

    def _acquit(self, task: Chunk) -> None:
        """A task did no harm alone. If none does, the chunk as a whole gets another chance."""
        self.waiting = deque(other for other in self.waiting if other != task)
        self.trials[task.number].discard(task)
        if not self.trials[task.number]:
            del self.trials[task.number]
            whole = self.open[task.number]
            self.kills[whole] = 0
            self.waiting.appendleft(whole)

    def _condemn(self, culprit: Chunk, why: str) -> list[Action]:
        whole = self.open[culprit.number]
        left = tuple(ticket for ticket in whole.tickets if ticket not in culprit.tickets)
        if self.on_poison == "abort" or self.work == "score" or not left:
            return [Abort(poison(culprit, why))]
        self.poisoned |= {ticket.id for ticket in culprit.tickets}
        self.trials.pop(culprit.number, None)
        self.tried.discard(culprit.number)
        self.waiting = deque(chunk for chunk in self.waiting if chunk.number != culprit.number)
        self.open[culprit.number] = whole._replace(tickets=left)
        self.waiting.appendleft(self.open[culprit.number])
        return [Note(f"{named(culprit)} kills its worker ({why}): it is skipped")]

    def _without_poison(self, chunk: Chunk) -> Chunk:
        left = tuple(ticket for ticket in chunk.tickets if ticket.id not in self.poisoned)
        return chunk._replace(tickets=left or chunk.tickets)

    # Dealing.

    def _wanted(self, chunk: Chunk) -> bool:
        """Whether an answer for it would be of use: it is open, or a task of a chunk under trial."""
        number = chunk.number
        return chunk in self.trials[number] if number in self.trials else self.open.get(number) == chunk

    def _in_hand(self, chunk: Chunk) -> bool:
        """Whether it waits to be dealt, or a worker has it that is not late."""
        return chunk in self.waiting or any(
            order.round == self.round and order.chunk == chunk and not order.late for order in self.busy.values()
        )

    def _rested(self, now: float) -> Id | None:
        """The worker that was idle longest, of those whose machine does not rest; of all, if all rest."""
        awake = {worker for worker, place in self.workers.items() if self.places.rested(place, now)}
        return next((worker for worker in self.idle if worker in awake or not awake), None)

    def _deal(self, now: float) -> list[Action]:
        actions: list[Action] = []
        while self.waiting and (worker := self._rested(now)) is not None:
            actions.append(self._give(worker, self.waiting.popleft(), now))
        return actions

    def _give(self, worker: Id, chunk: Chunk, now: float) -> Deal:
        self.idle.remove(worker)
        lease = self.pace.lease(self.work) * self.patience.get(chunk, 1.0)
        order = Order(next(self._numbers), worker, self.round, self.work, chunk, now, lease)
        self.busy[worker] = self.orders[order.number] = order
        return Deal(worker, order.number, chunk)
