"""How much memory a worker of a recipe needs, and the chunk size that keeps it small.

Both are told before a run begins. The bytes of one task and of two are counted from their tensors, so they are the same
on any machine; a chunk of more needs as much more for each further task.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from pipeline.build import Components, build_components, build_worker, outer_of, worker_count
from pipeline.config import Recipe
from pipeline.core.failures import ConfigError
from pipeline.engine.chunks import chunks_of
from pipeline.engine.durability.disk_space import checkpoint_bytes
from pipeline.engine.living import Living, counted
from pipeline.engine.pieces import piece_of
from pipeline.engine.worker import Worker
from pipeline.runtime.job import cluster_address
from pipeline.storage.sizes import all_memory, size_text

CHUNK_BYTES = {"cpu": 1 << 26, "cuda": 1 << 33}
"""What the tensors of a chunk may need where ``chunk_size`` is ``auto``, unless one task needs more."""
CHUNKS = {"cpu": 4, "cuda": 1}
"""Chunks that a step then has at least, so that as many workers have something to do."""
PROCESS_BYTES = 450_000_000
"""What a worker's process needs beside its tensors: Python, torch and Ray."""
HELD = 1.7
"""Bytes that a process holds for each byte of tensors, with gaps between blocks and what libraries take: measured."""


class Footprint(NamedTuple):
    """Bytes of tensors: of learning from one task, of each further one of a chunk, and of scoring one."""

    first: int
    further: int
    scoring: int

    def learning(self, tasks: int) -> int:
        return self.first + self.further * (tasks - 1)

    def evaluating(self, tasks: int, device: str) -> int:
        return self.scoring * min(tasks, piece_of(self.scoring, device))


def resident(tensors: float) -> float:
    """The bytes of a worker's process with so many bytes of tensors."""
    return PROCESS_BYTES + HELD * tensors


def device_of(recipe: Recipe) -> str:
    """Where the recipe's workers compute, according to the recipe alone: the driver may have another machine."""
    return "cuda" if recipe.workers.gpus or recipe.numerics.device == "cuda" else "cpu"


def learning_bytes(recipe: Recipe, components: Components, worker: Worker) -> tuple[int, int, int]:
    """What learning from one task needs, what each further task of a chunk adds, and all that the one makes."""

    def learnt(tasks: int) -> Living:
        (chunk,) = chunks_of(recipe.seed, 1, tasks, tasks, purpose="train", split="train")
        return counted(lambda: worker.learn(components.theta.numpy(), chunk))

    one = learnt(1)
    # Worlds are played one after the other, and take long.
    together = recipe.numerics.vectorise and components.source.spec().actions is None
    return one.peak, max(learnt(2).peak - one.peak, 0) if together else 0, one.made


def sized(recipe: Recipe, note: Callable[[str], None] = lambda text: None) -> Recipe:
    """The recipe with a number for ``chunk_size: auto``; ``note`` receives it.

    It is the largest power of two of tasks whose tensors need at most ``CHUNK_BYTES``, of which a step has at least
    ``CHUNKS`` chunks: a function of the recipe, so that the same recipe gives the same bits on other machines.
    """
    if recipe.chunk_size != "auto":
        return recipe
    here = recipe.numerics.model_copy(update={"device": "cpu"})  # the driver may lack a GPU that the workers have
    trial = recipe.model_copy(update={"chunk_size": 1, "numerics": here})
    components = build_components(trial)
    first, further, _ = learning_bytes(trial, components, build_worker(trial, components))
    device = device_of(recipe)
    fitting = 1 + max(CHUNK_BYTES[device] - first, 0) // max(further, 1)
    most = max(min(fitting, recipe.tasks_per_step // CHUNKS[device]), 1)
    size = 1 << most.bit_length() - 1
    note(f"chunk_size: auto is {size}, of {size_text(first + further * (size - 1))} of tensors")
    return recipe.model_copy(update={"chunk_size": size})


def weighing(
    recipe: Recipe, executor: str, address: str | None, note: Callable[[str], None]
) -> Callable[[Components, Footprint], None]:
    """What tells ``note`` what a worker needs, and refuses workers that are all on this machine and do not fit."""

    def weigh(components: Components, footprint: Footprint) -> None:
        note(told(recipe, components, footprint))
        serial = executor == "serial"
        if serial or cluster_address(address) == "local":
            check_memory(recipe, footprint, 1 if serial else worker_count(recipe, recipe.tasks_at_one_theta))

    return weigh


def told(recipe: Recipe, components: Components, footprint: Footprint) -> str:
    """The estimate in a line."""
    layout, chunk = components.layout, min(recipe.chunk_size, recipe.tasks_per_step)
    learning, evaluating = footprint.learning(chunk), footprint.evaluating(chunk, device_of(recipe))
    itemsize, outer = layout.dtype.itemsize, outer_of(recipe, layout, components.algorithm).values()
    return (
        f"a worker needs about {size_text(resident(learning))} to learn (chunks of {chunk}: "
        f"{size_text(learning)} of tensors) and {size_text(resident(evaluating))} to evaluate; {layout.size:,} "
        f"parameters, a contribution of {size_text(layout.size * itemsize)}, a checkpoint of "
        f"{size_text(checkpoint_bytes(layout.size, itemsize, outer))}"
    )


def check_memory(recipe: Recipe, footprint: Footprint, workers: int) -> None:
    """Raises ``ConfigError`` where a chunk of each of so many workers does not fit into this machine's memory."""
    if device_of(recipe) != "cpu":
        return
    total = all_memory()
    room, need = (
        (total / workers - PROCESS_BYTES) / HELD,
        footprint.learning(min(recipe.chunk_size, recipe.tasks_per_step)),
    )
    if need <= room or recipe.chunk_size == 1:
        return
    fitting = 1 + int(max(room - footprint.first, 0) // max(footprint.further, 1))
    raise ConfigError(
        f"chunk_size: {recipe.chunk_size} needs about {size_text(resident(need))} in each of {workers} workers, "
        f"and this machine has {size_text(total)}; use chunk_size={1 << fitting.bit_length() - 1}, chunk_size=auto or "
        "fewer workers"
    )
