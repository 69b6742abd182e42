"""The blocks of one submission that are not finished: what waits, what was lost, what is looked at task by task."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from pipeline.core.seeding import Ticket
from pipeline.engine.interfaces import Block, Place, Work

MAX_LOSSES = 3
"""Workers that may be lost on one chunk before the chunk counts as poison."""


class Submission:
    """Blocks to be computed, by their place. Tasks of an isolated chunk wait in its place.

    What waits and is no longer wanted is passed over when its turn comes.
    """

    def __init__(self, number: int, work: Work, blocks: Sequence[Block]) -> None:
        self.number, self.work = number, work
        self.waiting = deque(blocks)
        self.open = {block.place: block for block in blocks}
        self.losses: dict[Block, int] = {}
        self.patience: dict[Block, float] = {}
        self.isolated: dict[Place, set[Block]] = {}
        self.isolated_once: set[Place] = set()

    def wanted(self, block: Block) -> bool:
        """Whether a result for it is of use: it is open, or a task of an isolated chunk."""
        place = block.place
        return block in self.isolated[place] if place in self.isolated else self.open.get(place) == block

    def done(self, block: Block) -> bool:
        """A result has come; whether it is that of an open block."""
        place = block.place
        if self.open.get(place) == block:
            del self.open[place]
            self.isolated.pop(place, None)
            return True
        if block in self.isolated.get(place, ()):
            self._clear(block)
        return False

    def again(self, block: Block) -> None:
        """Assign it next, chunk by chunk."""
        parts = [block]
        if len(block.chunks) > 1:
            parts = [Block((chunk,)) for chunk in block.chunks]
            self.open |= {part.place: part for part in parts}
            self.losses |= dict.fromkeys(parts, self.losses.get(block, 0))
            self.patience |= dict.fromkeys(parts, self.patience.get(block, 1.0))
        self.waiting.extendleft(reversed(parts))

    def be_patient(self, block: Block) -> None:
        """Its next lease is twice as long."""
        self.patience[block] = 2 * self.patience.get(block, 1.0)

    def count_loss(self, block: Block) -> int:
        """A worker was lost on it; how many were."""
        self.losses[block] = self.losses.get(block, 0) + 1
        return self.losses[block]

    def isolate(self, block: Block) -> bool:
        """Have the tasks of a chunk run alone; False if that cannot help: it is one task, or it was done before."""
        (chunk,), place = block.chunks, block.place
        self.waiting = deque(other for other in self.waiting if other != block)
        if len(chunk.tickets) == 1 or place in self.isolated_once:
            return False
        self.isolated_once.add(place)
        tasks = [Block((chunk._replace(tickets=(ticket,)),)) for ticket in chunk.tickets]
        self.isolated[place] = set(tasks)
        self.waiting.extendleft(reversed(tasks))
        return True

    def beside(self, culprit: Block) -> tuple[Ticket, ...]:
        """The other tasks of the culprit's chunk."""
        return tuple(ticket for ticket in self.open[culprit.place].tickets if ticket not in culprit.tickets)

    def leave_out(self, culprit: Block) -> None:
        """Go on with the other tasks of its chunk."""
        place, left = culprit.place, self.beside(culprit)
        self.isolated.pop(place, None)
        self.isolated_once.discard(place)
        self.waiting = deque(other for other in self.waiting if other.place != place)
        self.open[place] = Block((culprit.chunks[0]._replace(tickets=left),))
        self.waiting.appendleft(self.open[place])

    def _clear(self, task: Block) -> None:
        """A task finished alone. When all have, the whole chunk is tried again."""
        self.waiting = deque(other for other in self.waiting if other != task)
        self.isolated[task.place].discard(task)
        if not self.isolated[task.place]:
            del self.isolated[task.place]
            whole = self.open[task.place]
            self.losses[whole] = 0
            self.waiting.appendleft(whole)
