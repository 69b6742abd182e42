"""One Ray for several runs that one process makes one after the other."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext

from pipeline.build import worker_count
from pipeline.config import Recipe
from pipeline.runs.run import RunOptions


def shared_cluster(recipes: Iterable[Recipe], options: RunOptions) -> AbstractContextManager[None]:
    """Join or start the Ray of these runs once, with room for the largest of them."""
    if options.executor != "ray":
        return nullcontext()
    from pipeline.runtime.cluster import Workers, joined

    wanted = [Workers(worker_count(one, one.tasks_at_one_theta), one.workers.gpus) for one in recipes]
    return joined(options.address, max(wanted, key=lambda workers: workers.count))
