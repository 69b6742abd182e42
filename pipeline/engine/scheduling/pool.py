"""Workers behind a dealer: the one loop that carries its orders out.

The serial executor, the Ray executor and the tests' transport in virtual time differ in their ``Transport`` and
``Clock`` alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

from pipeline.engine.interfaces import Chunk, Clock, Report, ScoreReport, Work
from pipeline.engine.scheduling.events import Abort, Accept, Action, Deal, Event, Id, Note, Replace
from pipeline.engine.scheduling.scheduler import Dealer
from pipeline.engine.stop import Stop


class Transport(Protocol):
    """Carries orders to workers and brings back what happened."""

    stop: Stop

    def send(self, worker: Id, order: int, work: Work, theta: Any, chunk: Chunk) -> None: ...

    def replace(self, worker: Id) -> None:
        """See that this worker is gone, and start another under a number of its own."""
        ...

    def poll(self, seconds: float) -> Sequence[Event]:
        """What happened since the last call; waits ``seconds`` at most. Raises ``Stopped`` if asked to."""
        ...

    def close(self) -> None: ...


class Crew:
    """What every executor learns and scores with. ``note`` is told what people want to know."""

    def __init__(self, transport: Transport, clock: Clock, dealer: Dealer, *, workers: int) -> None:
        self.transport, self.clock, self.dealer, self.workers = transport, clock, dealer, workers
        self.note: Callable[[str], None] = lambda text: None
        self.actions: list[Action] = []

    @property
    def stop(self) -> Stop:
        """What a signal sets, and every wait looks at."""
        return self.transport.stop

    def take(self, events: Sequence[Event]) -> None:
        """What happened between two rounds: the next one begins with what the dealer makes of it."""
        self.actions += [action for event in events for action in self.dealer.on(event, self.clock.now())]

    def learn(self, theta: Any, chunks: Sequence[Chunk]) -> Iterator[tuple[Any, Report]]:
        """Each chunk's contribution (a handle) and report, as they come."""
        for number, (handle, report) in self._deal("learn", theta, chunks):
            (chunk,) = (chunk for chunk in chunks if chunk.number == number)
            left_out = tuple(ticket.id for ticket in chunk.tickets if ticket.id in self.dealer.poisoned)
            yield handle, report._replace(skipped=(*report.skipped, *left_out))

    def score(self, theta: Any, chunks: Sequence[Chunk]) -> Iterator[ScoreReport]:
        return (result for _, result in self._deal("score", theta, chunks))

    def _deal(self, work: Work, theta: Any, chunks: Sequence[Chunk]) -> Iterator[tuple[int, Any]]:
        """Carry out one round; yields (chunk, result) as they come.

        Raises:
            PipelineError: what the dealer aborts with, or what a task raised.
        """
        dealer, transport, clock = self.dealer, self.transport, self.clock
        actions, self.actions = [*self.actions, *dealer.submit(work, chunks, clock.now())], []
        while True:
            for action in actions:
                match action:
                    case Deal(worker, order, chunk):
                        transport.send(worker, order, work, theta, chunk)
                    case Replace(worker):
                        transport.replace(worker)
                    case Note(text):
                        self.note(text)
                    case Accept(number, result):
                        yield number, result
                    case Abort(error):
                        raise error
            if dealer.finished:
                return
            events = transport.poll(dealer.wait(clock.now()))
            actions = [action for event in events for action in dealer.on(event, clock.now())]
            actions += dealer.tick(clock.now())
