"""Fits the tasks of a recipe to the classes of its data, before anything starts."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import reduce
from typing import Any

from pipeline.algorithms import ALGORITHMS
from pipeline.config.recipe import Recipe
from pipeline.config.sections import plain
from pipeline.core.failures import ConfigError, DataError
from pipeline.core.fitting import Phase, Room, fit, misfits
from pipeline.core.seeding import Split
from pipeline.core.source import HasSizes, TaskShape, TaskShapes
from pipeline.tasks import SOURCES


def fitted(recipe: Recipe, note: Callable[[str], None] = lambda text: None, *, learn: bool = True) -> Recipe:
    """The recipe with numbers for the sizes of tasks that are ``auto``, if its data can fill all of them.

    ``note`` receives the numbers. Without ``learn`` only evaluation tasks must be filled.

    Raises:
        ConfigError: ``auto`` with a source that has no classes to count.
        DataError: the classes are too few or too small; the message has the ``key=value`` that would fit.
    """
    asked, source = recipe.open_sizes(), _source_of(recipe)
    if source is None:
        if asked:
            name = recipe.source.name
            raise ConfigError(f"{asked[0]}: auto, but the source {name} has no classes to fit it to; give a number")
        return recipe
    rooms = _rooms(recipe, source, learn=learn)
    needs = ALGORITHMS[recipe.algorithm.name].needs
    phases: dict[Phase, Mapping[str, Any]] = {"train": vars(recipe.task.train), "eval": vars(recipe.task.eval)}
    sizes = fit(phases, rooms, head=needs.head and "classes" not in needs.targets)
    _refuse(recipe, sizes, rooms if learn else {"eval": rooms["eval"]})
    if not asked:
        return recipe
    chosen = " ".join(f"{key}={sizes[key.removeprefix('task.')]}" for key in asked)
    note(f"fitted to the classes of {recipe.source.path}: {chosen}")
    return _with_sizes(recipe, sizes)


def _source_of(recipe: Recipe) -> HasSizes | None:
    """The source, whatever the sizes of its tasks, where it has classes to fit them to."""
    kind = SOURCES[recipe.source.name]
    if not issubclass(kind, HasSizes):
        return None
    one = TaskShape()
    source: HasSizes = kind(plain(recipe.source, kind.Config), TaskShapes(one, one))
    return source


def _rooms(recipe: Recipe, source: HasSizes, *, learn: bool) -> dict[Phase, Room]:
    """What the splits of each phase can fill."""
    splits: list[Split] = [recipe.evaluation.split]
    if learn and recipe.evaluation.validate_every:
        splits.append("val")
    each = [Room.of(source.class_sizes(split, training=False)) for split in splits]
    judged = reduce(Room.within, each)
    return {"train": Room.of(source.class_sizes("train", training=True)) if learn else judged, "eval": judged}


def _refuse(recipe: Recipe, sizes: Mapping[str, int], rooms: Mapping[Phase, Room]) -> None:
    """Raises ``DataError`` with everything that cannot be filled, and what would fit."""
    splits = {"train": "train", "eval": recipe.evaluation.split}
    place = f"{recipe.source.path}, split set {recipe.source.split!r}"
    for phase, room in rooms.items():
        if min(room.ways, room.examples) < 2:
            few = f", and {room.fewer(2)}" if room.examples < 2 else ""
            raise DataError(
                f"{place}: the split {splits[phase]} has {room.ways} classes{few}; a task needs 2 classes of 2 examples"
                " or more: add some, or leave small classes out with `python -m jobs.ingest … --min-images 2` (of a "
                "table --min-rows 2)"
            )
    found = list(misfits(sizes, rooms))
    if found:
        fixes = " ".join(fix for _, some in found for fix in some)
        raise DataError(f"{place}: {'; '.join(problem for problem, _ in found)}; use {fixes}")


def _with_sizes(recipe: Recipe, sizes: Mapping[str, int]) -> Recipe:
    phases = {
        phase: getattr(recipe.task, phase).model_copy(
            update={key.removeprefix(f"{phase}."): size for key, size in sizes.items() if key.startswith(f"{phase}.")}
        )
        for phase in ("train", "eval")
    }
    return recipe.model_copy(update={"task": recipe.task.model_copy(update=phases)})
