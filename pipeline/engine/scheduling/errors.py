"""The scheduler's texts: names of chunks, notes, and the errors that end a run."""

from __future__ import annotations

from pipeline.core.failures import ClusterError, CorruptionError, PoisonError
from pipeline.engine.interfaces import Block
from pipeline.engine.scheduling.events import Lease


def named(block: Block) -> str:
    names, more = ", ".join(ticket.id for ticket in block.tickets), len(block.chunks) - 1
    if more:
        return f"chunks {block.number} to {block.number + more} of step {block.step}"
    return f"chunk {block.number} of step {block.step} ({names})" if len(block.tickets) > 1 else f"task {names}"


def poison(culprit: Block, why: str) -> PoisonError:
    first = culprit.tickets[0]
    return PoisonError(
        f"{named(culprit)} of seed {first.seed} kills every worker that computes it, the last: {why}. "
        f"Look at it alone: pipeline.replay(DIR, step={first.step}, number={first.number}); "
        "or leave such tasks out: workers.on_poison=skip"
    )


def corrupt(lease: Lease) -> CorruptionError:
    return CorruptionError(
        f"{named(lease.block)}: worker {lease.worker} computed other numbers than a worker before it; one of the two "
        "machines is faulty, or not what its numerics say. Go on with --resume, without it"
    )


def nobody(seconds: float) -> ClusterError:
    return ClusterError(
        f"no worker was ready for {seconds:.0f} s; is there room for one on the cluster? "
        "What was done before is saved: go on with --resume"
    )


def backed_off(node: str, seconds: float) -> str:
    where = f"node {node}" if node else "this machine"
    return f"{where} keeps losing workers: no chunks are sent to it for {seconds:.0f} s"
