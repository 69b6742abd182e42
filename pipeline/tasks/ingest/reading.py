"""The report of what ingest read: classes and their sizes, what fits, and the command to go on with."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from pathlib import Path

from pipeline.core.fitting import Phase, Room, Size, fit
from pipeline.core.seeding import Split
from pipeline.tasks.class_index import ClassIndexed

_OPEN: dict[str, Size] = {"ways": "auto", "shots": "auto", "queries": "auto"}


def report(file: ClassIndexed, rows: str) -> list[str]:
    """Lines about a file that was just written, whose rows are called ``rows``."""
    sizes, rooms = _sizes(file), _rooms(file)
    return [
        f"{rows} of a class: {min(sizes)} to {max(sizes)}, median {statistics.median(sizes):g}",
        *(
            f"the largest tasks of {split}: {room.ways} ways, {room.examples} shots + queries"
            for split, room in rooms.items()
        ),
        *([_fitted(rooms)] if "train" in rooms else []),
    ]


def next_command(file: ClassIndexed, path: Path, kind: str) -> str:
    """The command to go on with. ``kind`` is ``images`` or ``table``, as recipes of one's own data are named."""
    ((name, split_set),) = file.splits.items()
    own = f"source.path={path} source.split={name}"
    if "train" not in split_set:
        return f"to evaluate a trained run on it: python -m jobs.evaluate RUN {own}"
    return f"next: python -m jobs.train own_{kind}_protonet {own}"


def _fitted(rooms: Mapping[Split, Room]) -> str:
    if min(min(room.examples, room.ways) for room in rooms.values()) < 2:
        return "no task fits: each split needs 2 classes or more, of 2 examples or more"
    both: Mapping[Phase, Room] = {"train": rooms["train"], "eval": rooms.get("test", rooms["train"])}
    sizes = fit({"train": _OPEN, "eval": _OPEN}, both, head=False)
    return "own recipes take: " + "; ".join(
        f"{phase} {sizes[f'{phase}.ways']} ways, {sizes[f'{phase}.shots']} shots, {sizes[f'{phase}.queries']} queries"
        for phase in both
    )


def _sizes(file: ClassIndexed) -> list[int]:
    return [last - first for first, last in (file.rows(index) for index in range(len(file.names)))]


def _rooms(file: ClassIndexed) -> dict[Split, Room]:
    """What the splits of the file's only split set can fill."""
    sizes = _sizes(file)
    (split_set,) = file.splits.values()
    return {split: Room.of([(file.names[at], sizes[at]) for at in some]) for split, some in split_set.items()}
