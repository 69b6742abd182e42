"""What is tried before a run starts: one task, and the room in its folder."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import replace

from pipeline.build import Components, build_components, net_of, outer_of
from pipeline.config import Recipe, plain
from pipeline.core.failures import ConfigError
from pipeline.core.losses import LOSSES
from pipeline.core.network import DROPOUT, INNER
from pipeline.core.seeding import Split, Ticket
from pipeline.core.types import Phase
from pipeline.derived import validations
from pipeline.engine.dry_run import check_algorithm
from pipeline.engine.durability.disk_space import check_disk_space, checkpoint_bytes
from pipeline.engine.interfaces import Chunk, ScoreReport
from pipeline.engine.living import Living, counted
from pipeline.engine.numerics import Numerics
from pipeline.engine.worker import Worker
from pipeline.runs.footprint import Footprint, learning_bytes
from pipeline.storage.interface import Storage


def dry_run(
    recipe: Recipe,
    note: Callable[[str], None] = lambda text: None,
    *,
    learn: bool = True,
    outputs: int | None = None,
    weigh: Callable[[Components, Footprint], None] | None = None,
) -> Components:
    """Learn one training task and score one evaluation task, so that a mistake fails before the run starts.

    ``note`` receives hints, and ``weigh`` what memory a worker needs; components then have the work of a validation.
    Without ``learn`` it only scores, because evaluation must not train again. ``outputs`` is as ``build_components``
    has it.

    Raises:
        ConfigError: a head narrower than the evaluation tasks' ways, a split the source does not have, an algorithm
            whose loss, outputs or gradient are not what they should be, dropout without an effect.
        DataError: a split that cannot fill the tasks' shape.
        TaskError: the algorithm raised.
    """
    components = build_components(recipe, outputs)
    outer_of(recipe, components.layout, components.algorithm)
    splits: set[Split] = {recipe.evaluation.split} | ({"val"} if learn and recipe.evaluation.keeps_best else set())
    for split in sorted(splits - set(components.source.splits)):
        raise ConfigError(
            f"evaluation.split: the source has no {split!r}, it has {', '.join(components.source.splits)}"
        )
    shapes, needs = recipe.shapes(), components.algorithm.needs
    if needs.head and "classes" not in needs.targets and shapes.eval.ways > shapes.train.ways:
        raise ConfigError(
            f"task.eval.ways: {shapes.eval.ways}, but {recipe.algorithm.name} has a head of task.train.ways = "
            f"{shapes.train.ways} outputs; make them equal, or use a metric method"
        )
    if learn:
        check_algorithm(
            components.algorithm, components.source, components.layout.unpack(components.theta), recipe.seed, note
        )
        _check_dropout(recipe, components)
    _check_inner_dropout(recipe, components)
    # The driver may lack a GPU that the workers have.
    numerics = replace(plain(recipe.numerics, Numerics), device="cpu")
    worker = Worker(components.algorithm, components.source, components.layout, numerics, recipe.chunk_size)
    scored = [_scored(recipe, components, worker, split) for split in sorted(splits)]
    if weigh is None:
        return components
    first, further, made = learning_bytes(recipe, components, worker)
    weigh(components, Footprint(first, further, max(one.peak for one in scored)))
    return components._replace(work=max(one.made for one in scored) / max(made, 1))


def _scored(recipe: Recipe, components: Components, worker: Worker, split: Split) -> Living:
    """Score one evaluation task; returns the bytes of its tensors."""
    theta = components.theta.numpy()
    chunk = Chunk(0, 0, (Ticket(recipe.evaluation.seed, "evaluate", split, 0, 0),))
    reports: list[ScoreReport] = []
    needed = counted(lambda: reports.append(worker.score(theta, chunk)))
    _check_metric(recipe, components, reports[0].metrics)
    return needed


def _check_metric(recipe: Recipe, components: Components, measured: Collection[str]) -> None:
    name = components.source.spec().loss
    metric = LOSSES[name].metric
    if metric not in measured:
        raise ConfigError(
            f"source.name: {recipe.source.name} is judged by {metric}, the metric of its loss {name}, but a score of "
            f"{recipe.algorithm.name} has {', '.join(sorted(measured)) or 'none'}; let the loss or the source's judge "
            "give it"
        )


def _check_dropout(recipe: Recipe, components: Components) -> None:
    """Raises ``ConfigError`` where the network drops out values and the algorithm draws no masks for it."""
    ticket = Ticket(recipe.seed, "train", "train", 1, 0)
    if not net_of(recipe, components.source.spec()).draw_masks(ticket.rng("noise"), 1):
        return
    if _draws(components, ticket, "train", DROPOUT):
        return
    share = getattr(recipe.net, "dropout", None)
    found = f"net.dropout: {share} has" if share else f"net.name: {recipe.net.name} has dropout layers, which have"
    raise ConfigError(
        f"{found} no effect with algorithm.name: {recipe.algorithm.name}, which draws no dropout masks; "
        f"{'leave it at 0' if share else 'leave them out'}, or choose an algorithm whose draw includes model.draw"
    )


def _check_inner_dropout(recipe: Recipe, components: Components) -> None:
    """Raises ``ConfigError`` where the network leaves out numbers in inner steps and the algorithm draws no masks."""
    ticket = Ticket(recipe.evaluation.seed, "evaluate", recipe.evaluation.split, 0, 0)
    if not net_of(recipe, components.source.spec()).draw_inner_masks(ticket.rng("noise"), 1):
        return
    if _draws(components, ticket, "evaluate", INNER):
        return
    share = getattr(recipe.net, "eval_dropout", None)
    found = f"net.eval_dropout: {share}" if share else f"net.name: {recipe.net.name} drops values in inner steps, which"
    raise ConfigError(
        f"{found} has no effect with algorithm.name: {recipe.algorithm.name}, whose inner steps leave nothing out; "
        f"{'leave it at 0' if share else 'leave that out'}, or choose maml or pretrain"
    )


def _draws(components: Components, ticket: Ticket, phase: Phase, prefix: str) -> bool:
    """Whether the algorithm draws tensors whose names begin so for a task."""
    noise = components.algorithm.draw(ticket.rng("noise"), components.source.sample(ticket), phase)
    return any(name.startswith(prefix) for name in noise)


def check_folder(recipe: Recipe, components: Components, storage: Storage) -> None:
    """Raises ``ConfigError`` where the run's folder cannot be written, or has no room for it."""
    storage.probe()
    outer = outer_of(recipe, components.layout, components.algorithm).values()
    every, _ = validations(recipe, components.source, components.work)
    files = recipe.checkpoint.keep + int(recipe.evaluation.keeps_best) + 1  # one is written beside those that are kept
    size = checkpoint_bytes(components.layout.size, components.layout.dtype.itemsize, outer)
    check_disk_space(storage, size, files, recipe.steps + (recipe.steps // every if every else 0))
