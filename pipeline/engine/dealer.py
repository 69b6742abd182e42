"""Who computes which chunk: a pure, event-driven decision. Events go in, actions come out; nothing here waits or sends.

``deal`` is the one loop that carries the actions out. The serial executor, the Ray executor and the tests' transport in
virtual time differ in their ``Transport`` and ``Clock`` alone.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, Protocol

from pipeline.core.failures import ClusterError, PipelineError, PoisonError
from pipeline.engine.protocols import Chunk, Clock, Report, ScoreReport, Work
from pipeline.engine.stop import Stop

Id = int
MAX_KILLS = 3
"""A chunk that took this many workers with it is not given to another."""


class Joined(NamedTuple):
    """A worker is ready."""

    worker: Id


class Done(NamedTuple):
    """A worker finished a chunk of a round."""

    worker: Id
    round: int
    chunk: int
    result: Any


class Lost(NamedTuple):
    """A worker is gone; ``why`` is for people."""

    worker: Id
    why: str


Event = Joined | Done | Lost


class Deal(NamedTuple):
    """Give this chunk to this worker."""

    worker: Id
    round: int
    chunk: Chunk


class Accept(NamedTuple):
    """This result counts; any later one for the same chunk does not."""

    chunk: int
    result: Any


class Replace(NamedTuple):
    """Start a worker in place of a lost one."""

    worker: Id


class Abort(NamedTuple):
    """The round cannot be finished."""

    error: PipelineError


Action = Deal | Accept | Replace | Abort


class Transport(Protocol):
    """Carries orders to workers and brings back what happened."""

    stop: Stop

    def send(self, worker: Id, round: int, work: Work, theta: Any, chunk: Chunk) -> None: ...

    def replace(self, worker: Id) -> None: ...

    def poll(self) -> Sequence[Event]:
        """What happened since the last call; waits a while when nothing did. Raises ``Stopped`` if asked to."""
        ...

    def close(self) -> None: ...


class Dealer:
    """Deals a round's chunks in order to idle workers and deals lost ones again."""

    def __init__(self, patience: float) -> None:
        # Fixed at construction: seconds to wait for a worker when there is none.
        self.patience = patience
        # Changes as workers come and go.
        self.idle: deque[Id] = deque()
        self.busy: dict[Id, tuple[int, Chunk]] = {}
        self.alone_since: float | None = None
        # Changes every round.
        self.round = 0
        self.waiting: deque[Chunk] = deque()
        self.open: set[int] = set()
        self.kills: dict[int, list[str]] = {}

    @property
    def finished(self) -> bool:
        return not self.open

    def submit(self, chunks: Sequence[Chunk]) -> list[Action]:
        """Begin a round; what workers still compute for an earlier one will be dropped."""
        self.round += 1
        self.waiting = deque(chunks)
        self.open = {chunk.number for chunk in chunks}
        self.kills = {}
        return self._deal()

    def on(self, event: Event) -> list[Action]:
        match event:
            case Joined(worker):
                self.alone_since = None
                self.idle.append(worker)
                return self._deal()
            case Done():
                return self._done(event)
            case Lost():
                return self._lost(event)

    def tick(self, now: float) -> list[Action]:
        """Time passes: with no worker at all for ``patience`` seconds, the round is given up."""
        if self.idle or self.busy:
            return []
        if self.alone_since is None:
            self.alone_since = now
        if now - self.alone_since < self.patience:
            return []
        return [
            Abort(ClusterError(f"no worker was ready for {self.patience:.0f} s; is there room for one on the cluster?"))
        ]

    def _done(self, event: Done) -> list[Action]:
        # An answer that comes late says nothing about what its worker, or the one in its place, does now.
        round_, chunk = self.busy.get(event.worker, (0, None))
        if chunk is not None and (round_, chunk.number) == (event.round, event.chunk):
            del self.busy[event.worker]
            self.idle.append(event.worker)
        actions: list[Action] = []
        if event.round == self.round and event.chunk in self.open:
            self.open.remove(event.chunk)
            self.waiting = deque(chunk for chunk in self.waiting if chunk.number != event.chunk)
            actions.append(Accept(event.chunk, event.result))
        return actions + self._deal()

    def _lost(self, event: Lost) -> list[Action]:
        if event.worker in self.idle:
            self.idle.remove(event.worker)
        round_, chunk = self.busy.pop(event.worker, (0, None))
        actions: list[Action] = [Replace(event.worker)]
        if chunk is not None and round_ == self.round and chunk.number in self.open:
            kills = self.kills.setdefault(chunk.number, [])
            kills.append(event.why)
            if len(kills) >= MAX_KILLS:
                names = ", ".join(ticket.id for ticket in chunk.tickets)
                where = f"chunk {chunk.number} of step {chunk.step} ({names})"
                return [Abort(PoisonError(f"{len(kills)} workers were lost on {where}; the last: {event.why}"))]
            self.waiting.appendleft(chunk)
        return actions + self._deal()

    def _deal(self) -> list[Action]:
        actions: list[Action] = []
        while self.idle and self.waiting:
            worker, chunk = self.idle.popleft(), self.waiting.popleft()
            self.busy[worker] = (self.round, chunk)
            actions.append(Deal(worker, self.round, chunk))
        return actions


def deal(
    dealer: Dealer, transport: Transport, clock: Clock, work: Work, theta: Any, chunks: Sequence[Chunk]
) -> Iterator[tuple[int, Any]]:
    """Carry out one round; yields (chunk, result) as they come.

    Raises:
        PipelineError: what the dealer aborts with, or what a task raised.
    """
    actions = dealer.submit(chunks)
    while True:
        for action in actions:
            match action:
                case Deal(worker, round_, chunk):
                    transport.send(worker, round_, work, theta, chunk)
                case Replace(worker):
                    transport.replace(worker)
                case Accept(chunk_index, result):
                    yield chunk_index, result
                case Abort(error):
                    raise error
        if dealer.finished:
            return
        actions = [action for event in transport.poll() for action in dealer.on(event)]
        actions += dealer.tick(clock.now())


class Crew:
    """Workers behind a dealer: what every executor learns and scores with."""

    def __init__(self, transport: Transport, clock: Clock, *, workers: int, patience: float) -> None:
        self.transport, self.clock, self.workers = transport, clock, workers
        self.dealer = Dealer(patience)

    @property
    def stop(self) -> Stop:
        """What a signal sets, and every wait looks at."""
        return self.transport.stop

    def learn(self, theta: Any, chunks: Sequence[Chunk]) -> Iterator[tuple[Any, Report]]:
        """Each chunk's contribution (a handle) and report, as they come."""
        return (result for _, result in deal(self.dealer, self.transport, self.clock, "learn", theta, chunks))

    def score(self, theta: Any, chunks: Sequence[Chunk]) -> Iterator[ScoreReport]:
        return (result for _, result in deal(self.dealer, self.transport, self.clock, "score", theta, chunks))
