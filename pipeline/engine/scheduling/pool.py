"""Workers behind a scheduler: the one loop that carries out its actions.

The serial executor, the Ray executor and the tests' transport in virtual time differ in their ``Transport`` and
``Clock`` alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

from pipeline.engine.interfaces import Block, Chunk, Clock, Report, ScoreReport, Span, Work
from pipeline.engine.scheduling.events import Abort, Accept, Action, Assign, Done, Event, Id, Note, Replace
from pipeline.engine.scheduling.scheduler import Scheduler
from pipeline.engine.scheduling.timeline import Timeline
from pipeline.engine.stop import Stop


class Transport(Protocol):
    """Sends chunks to workers and brings back what happened."""

    stop: Stop

    def send(self, worker: Id, lease: int, work: Work, theta: Any, block: Block) -> None: ...

    def replace(self, worker: Id) -> None:
        """Stop this worker and start another with a new number."""
        ...

    def poll(self, seconds: float) -> Sequence[Event]:
        """What happened since the last call; waits ``seconds`` at most. Raises ``Stopped`` if asked to."""
        ...

    def close(self) -> None: ...


class WorkerPool:
    """The pool of workers of every executor. ``note`` receives lines to print."""

    def __init__(self, transport: Transport, clock: Clock, scheduler: Scheduler, *, workers: int) -> None:
        self.transport, self.clock, self.scheduler, self.workers = transport, clock, scheduler, workers
        self.note: Callable[[str], None] = lambda text: None
        self.actions: list[Action] = []
        self.timeline = Timeline()

    @property
    def spans(self) -> Sequence[Span]:
        """Who computed which chunk, and when."""
        return list(self.timeline.spans)

    @property
    def stop(self) -> Stop:
        """What a signal sets, and every wait looks at."""
        return self.transport.stop

    def take(self, events: Sequence[Event]) -> None:
        """The actions for events between two calls; the next call starts with them."""
        self.actions += [action for event in events for action in self.scheduler.on(event, self.clock.now())]

    def learn(self, theta: Any, chunks: Sequence[Chunk]) -> Iterator[tuple[Any, Sequence[Report]]]:
        """Contributions (handles) as they come, each with the reports of its block's chunks."""
        for handle, reports in self._run("learn", theta, chunks):
            yield handle, self._with_poison(chunks, reports) if self.scheduler.poisoned else reports

    def _with_poison(self, chunks: Sequence[Chunk], reports: Sequence[Report]) -> Sequence[Report]:
        """The reports with the tasks that were left out."""
        names = {(chunk.step, chunk.number): [ticket.id for ticket in chunk.tickets] for chunk in chunks}
        poisoned = self.scheduler.poisoned
        return tuple(
            report._replace(
                skipped=(*report.skipped, *(id for id in names[report.step, report.chunk] if id in poisoned))
            )
            for report in reports
        )

    def score(self, theta: Any, chunks: Sequence[Chunk]) -> Iterator[ScoreReport]:
        return (report for reports in self._run("score", theta, chunks) for report in reports)

    def _run(self, work: Work, theta: Any, chunks: Sequence[Chunk]) -> Iterator[Any]:
        """Run these chunks; yields the results of blocks as they come.

        Raises:
            PipelineError: what the scheduler aborts with, or what a task raised.
        """
        scheduler, transport, clock = self.scheduler, self.transport, self.clock
        actions, self.actions = [*self.actions, *scheduler.submit(work, chunks, clock.now())], []
        while True:
            results: list[Any] = []
            for action in actions:
                match action:
                    case Assign(worker, lease, block):
                        self.timeline.begin(worker, lease, work, block, clock.now())
                        transport.send(worker, lease, work, theta, block)
                    case Replace(worker):
                        transport.replace(worker)
                    case Note(text):
                        self.note(text)
                    case Accept(_, result):
                        results.append(result)
                    case Abort(error):
                        raise error
            yield from results  # last: whoever leaves the loop here leaves no action undone
            if scheduler.finished:
                return
            events = transport.poll(scheduler.wait(clock.now()))
            for event in events:
                if isinstance(event, Done):
                    node = scheduler.workers.get(event.worker, "")
                    self.timeline.end(event.worker, event.lease, node, clock.now())
            actions = [action for event in events for action in scheduler.on(event, clock.now())]
            actions += scheduler.tick(clock.now())
