"""The report of what ingest read: classes and their sizes, what fits, and the command to go on with."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping
from pathlib import Path

from pipeline.core.fitting import Phase, Room, Size, fit
from pipeline.core.seeding import Split
from pipeline.tasks.arrowfile import SplitSet
from pipeline.tasks.class_index import ClassIndexed

_OPEN: dict[str, Size] = {"ways": "auto", "shots": "auto", "queries": "auto"}


def report(file: ClassIndexed, path: Path, kind: str, rows: str) -> list[str]:
    """Lines about a file that was just written.

    Args:
        file: what was written.
        path: where it is.
        kind: ``images`` or ``table``, as recipes of one's own data are named.
        rows: what its rows are called.
    """
    sizes = [last - first for first, last in (file.rows(index) for index in range(len(file.names)))]
    spread = f"{min(sizes)} to {max(sizes)}, median {statistics.median(sizes):g}"
    ((name, split_set),) = file.splits.items()
    lines = [f"{rows} of a class: {spread}", *_of_splits(file, split_set)]
    if "train" not in split_set:
        return [
            *lines,
            f"to evaluate a trained run on it: python -m jobs.evaluate RUN source.path={path} source.split={name}",
        ]
    return [*lines, *_next(file, split_set, f"own_{kind}_protonet source.path={path} source.split={name}")]


def _of_splits(file: ClassIndexed, split_set: SplitSet) -> Iterator[str]:
    for split, room in _rooms(file, split_set).items():
        yield f"the largest tasks of {split}: {room.ways} ways, {room.examples} shots + queries"


def _next(file: ClassIndexed, split_set: SplitSet, asked: str) -> Iterator[str]:
    rooms = _rooms(file, split_set)
    judged = rooms.get("test", rooms["train"])
    both: Mapping[Phase, Room] = {"train": rooms["train"], "eval": judged}
    if min(room.examples for room in rooms.values()) < 2 or min(room.ways for room in rooms.values()) < 2:
        yield "no task fits: each split needs 2 classes or more, of 2 examples or more"
        return
    sizes = fit({"train": _OPEN, "eval": _OPEN}, both, head=False)
    yield "own recipes take: " + "; ".join(
        f"{phase} {sizes[f'{phase}.ways']} ways, {sizes[f'{phase}.shots']} shots, {sizes[f'{phase}.queries']} queries"
        for phase in both
    )
    yield f"next: python -m jobs.train {asked}"


def _rooms(file: ClassIndexed, split_set: SplitSet) -> dict[Split, Room]:
    def size(index: int) -> int:
        first, last = file.rows(index)
        return last - first

    return {split: Room.of([(file.names[at], size(at)) for at in split_set[split]]) for split in split_set}
