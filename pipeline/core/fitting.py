"""Which tasks the classes of one's own data can fill."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Literal, NamedTuple

Phase = Literal["train", "eval"]
Size = int | Literal["auto"]

WAYS, TRAINING_WAYS = 5, 20
SHOTS, QUERIES, TRAINING_QUERIES = 5, 15, 5


class Room(NamedTuple):
    """What the classes of a split can fill: the fewest classes that there are, and the sizes of all by name."""

    ways: int
    sizes: Sequence[tuple[str, int]]

    @classmethod
    def of(cls, sizes: Sequence[tuple[str, int]]) -> Room:
        """The room of classes of these names and sizes."""
        return cls(len(sizes), sizes)

    @property
    def examples(self) -> int:
        """Those of the smallest class."""
        return min((size for _, size in self.sizes), default=0)

    def within(self, other: Room) -> Room:
        """What both can fill."""
        return Room(min(self.ways, other.ways), [*self.sizes, *other.sizes])

    def fewer(self, examples: int) -> str:
        """How many classes have fewer examples, and the first of them."""
        few = [f"{name!r} ({size})" for name, size in self.sizes if size < examples]
        return f"{len(few)} classes have fewer: {', '.join(few[:3])}"


def fit(asked: Mapping[Phase, Mapping[str, Size]], rooms: Mapping[Phase, Room], *, head: bool) -> dict[str, int]:
    """Numbers for the sizes that are ``auto``, by ``PHASE.NAME``; the others are as they were asked for.

    Args:
        asked: ways, shots and queries of each phase.
        rooms: what the splits of each phase can fill.
        head: whether the network has one output per way, so that evaluation tasks have no more ways than training.
    """
    given: dict[Phase, dict[str, int]] = {
        phase: {name: size for name, size in one.items() if isinstance(size, int)} for phase, one in asked.items()
    }
    both = rooms["train"].within(rooms["eval"])
    ways: dict[Phase, int] = {"train": min(TRAINING_WAYS, rooms["train"].ways), "eval": min(WAYS, rooms["eval"].ways)}
    if head:
        ways = dict.fromkeys(ways, min(WAYS, both.ways))
    shots = SHOTS if both.examples >= 2 * SHOTS else 1
    queries: dict[Phase, int] = {"train": TRAINING_QUERIES, "eval": QUERIES}
    others: dict[Phase, Phase] = {"train": "eval", "eval": "train"}
    found: dict[str, int] = {}
    for phase, other in others.items():
        own, beside = given[phase], given[other]
        chosen = {"ways": min(beside.get("ways", ways[phase]), rooms[phase].ways) if head else ways[phase]}
        chosen["shots"] = own.get("shots", beside.get("shots", shots))
        chosen["queries"] = max(1, min(queries[phase], rooms[phase].examples - chosen["shots"]))
        found |= {f"{phase}.{name}": own.get(name, size) for name, size in chosen.items()}
    return found


def misfits(sizes: Mapping[str, int], rooms: Mapping[Phase, Room]) -> Iterator[tuple[str, list[str]]]:
    """What cannot be filled: a sentence, and the ``key=value`` that would fit.

    Args:
        sizes: as ``fit`` gives them.
        rooms: what the splits of each phase can fill.
    """
    for phase, room in rooms.items():
        ways, shots, queries = (sizes[f"{phase}.{name}"] for name in ("ways", "shots", "queries"))
        key, each = f"task.{phase}", shots + queries
        if ways > room.ways:
            yield f"{key}.ways is {ways}, and there are {room.ways} classes", [f"{key}.ways={room.ways}"]
        if each > room.examples:
            fewer = min(shots, room.examples - 1)
            changes = {"shots": (shots, fewer), "queries": (queries, room.examples - fewer)}
            fixes = [f"{key}.{name}={new}" for name, (old, new) in changes.items() if new != old]
            yield f"{key} takes {shots} shots + {queries} queries of each class, and {room.fewer(each)}", fixes
