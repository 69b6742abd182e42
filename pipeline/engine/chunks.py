"""Which tasks one call of a worker computes."""

from __future__ import annotations

from pipeline.core.seeding import Purpose, Split, Ticket
from pipeline.engine.interfaces import Chunk


def chunks_of(seed: int, step: int, count: int, chunk_size: int, *, purpose: Purpose, split: Split) -> list[Chunk]:
    """The ``count`` tasks of a step in chunks of ``chunk_size``: a function of the recipe alone."""
    tickets = [Ticket(seed, purpose, split, step, index) for index in range(count)]
    return [
        Chunk(step, number, tuple(tickets[start : start + chunk_size]))
        for number, start in enumerate(range(0, count, chunk_size))
    ]


def following(chunk: Chunk) -> Chunk:
    """The chunk of the same number in the next step."""
    step = chunk.step + 1
    return Chunk(step, chunk.number, tuple(ticket._replace(step=step) for ticket in chunk.tickets))
