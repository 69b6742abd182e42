"""Which tasks one call of a worker computes."""

from __future__ import annotations

from collections.abc import Sequence

from pipeline.core.seeding import Purpose, Split, Ticket
from pipeline.engine.interfaces import Block, Chunk


def chunks_of(seed: int, step: int, count: int, chunk_size: int, *, purpose: Purpose, split: Split) -> list[Chunk]:
    """The ``count`` tasks of a step in chunks of ``chunk_size``: a function of the recipe alone."""
    tickets = [Ticket(seed, purpose, split, step, index) for index in range(count)]
    return [
        Chunk(step, number, tuple(tickets[start : start + chunk_size]))
        for number, start in enumerate(range(0, count, chunk_size))
    ]


LEAST = 8
"""The smallest block is about a worker's share of a step, divided by this: four messages a worker, and little waiting
for the last."""


def blocks_of(chunks: Sequence[Chunk], workers: int) -> list[Block]:
    """The chunks in aligned blocks: about half of those that are left are cut into one block for each worker.

    How chunks are cut changes no bit of a sum over the tree.
    """
    blocks: list[Block] = []
    first = 0
    while first < len(chunks):
        share = max(-(-(len(chunks) - first) // (2 * workers)), len(chunks) // (LEAST * workers))
        size = 1 << (share - 1).bit_length()
        while not _aligned(chunks[first : first + size], size):
            size //= 2
        blocks.append(Block(tuple(chunks[first : first + size])))
        first += size
    return blocks


def _aligned(chunks: Sequence[Chunk], size: int) -> bool:
    """Whether these are all the chunks of a block of ``size``."""
    step, start = chunks[0].step, chunks[0].number
    wanted = [(step, number) for number in range(start, start + size)]
    return start % size == 0 and [(chunk.step, chunk.number) for chunk in chunks] == wanted


def following(chunk: Chunk) -> Chunk:
    """The chunk of the same number in the next step."""
    step = chunk.step + 1
    return Chunk(step, chunk.number, tuple(ticket._replace(step=step) for ticket in chunk.tickets))
