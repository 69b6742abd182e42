"""What a sweep was asked for: read, checked for each child before anything starts, and saved with the sweep."""

from __future__ import annotations

import json
import shlex
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

from pipeline import recipes
from pipeline.config import Recipe, load
from pipeline.core.failures import ConfigError, DataError, ResumeError
from pipeline.core.plugins import imported
from pipeline.core.redact import redact
from pipeline.runs.paths import absolute
from pipeline.runs.run import RunOptions
from pipeline.storage import named, storage_at
from pipeline.storage.interface import Storage
from pipeline.storage.texts import read_text
from pipeline.sweeps.search import Kind, planned
from pipeline.sweeps.space import Space, Values, corners, overrides_of, parse

REQUEST = "sweep.json"
"""The file that says that a folder holds a sweep."""
VALIDATIONS = 10
"""The validations of a child whose recipe asks for none."""
FREE = ("tracking.", "workers.", "checkpoint.")
"""Settings that may change when a sweep is resumed."""


@dataclass(frozen=True)
class Request:
    """The arguments of a sweep: a recipe, ``key=value`` of which some have several values, and how to search."""

    recipe: str
    arguments: tuple[str, ...]
    search: Kind = "grid"
    samples: int | None = None
    seed: int | None = None
    stop: bool = False


class Prepared(NamedTuple):
    """A request whose children can be trained."""

    request: Request
    space: Space
    fixed: tuple[str, ...]
    """The overrides that all children share, with the seed that a recipe without one was given."""
    recipe: Recipe
    """The recipe without the values that are varied."""
    total: int
    known: list[Values]
    """The values of all children, where they are known beforehand."""

    def child(self, number: int, values: Values, parent: str) -> Recipe:
        """The recipe that a child is trained with."""
        recipe = self.judged(absolute(load(self.request.recipe, [*self.fixed, *overrides_of(values)])))
        tracking = self.recipe.tracking.model_copy(update={"parent": parent})
        return recipe.model_copy(update={"name": f"{self.recipe.name}-{number:03d}", "tracking": tracking})

    def judged(self, recipe: Recipe) -> Recipe:
        """The recipe with validation on the way, and with validation tasks in place of test tasks at its end."""
        wanted = recipe.evaluation
        every = wanted.validate_every if wanted.keeps_best else max(1, recipe.steps // VALIDATIONS)
        evaluation = wanted.model_copy(update={"split": "val", "validate_every": every})
        return recipe.model_copy(update={"evaluation": evaluation})

    def child_folder(self, folder: Path | str, number: int) -> str:
        return f"{folder}/{self.recipe.name}-{number:03d}"

    def command(self, values: Values) -> str:
        """What trains a child again, alone and with the evaluation of the recipe."""
        plugins = [word for name in imported() for word in ("--import", name)]
        words = ["python", "-m", "jobs.train", self.request.recipe, *self.fixed, *overrides_of(values), *plugins]
        return redact(shlex.join(words))

    def params(self) -> dict[str, str]:
        """What MLflow shows of the request."""
        asked = self.request
        found: dict[str, Any] = {"recipe": asked.recipe, "search": asked.search, "children": self.total}
        found |= {"samples": asked.samples, "seed": asked.seed, "stop": "median" if asked.stop else "never"}
        shared = {f"fixed.{one.partition('=')[0]}": one.partition("=")[2] for one in self.fixed}
        varied = {f"varied.{axis.key}": axis for axis in self.space.axes}
        return {key: str(value) for key, value in {**found, **varied, **shared}.items() if value is not None}

    def save(self, storage: Storage) -> None:
        storage.write(REQUEST, (json.dumps(self.facts(), indent=2) + "\n").encode())

    def facts(self) -> dict[str, Any]:
        """What decides the children: a sweep is resumed with the same."""
        whole = recipes.flatten(self.recipe.public())
        arguments = [redact(one) for one in self.request.arguments if not one.startswith(FREE)]
        return {
            "request": asdict(self.request) | {"arguments": arguments},
            "seed": self.recipe.seed,
            "recipe": {key: text for key, text in whole.items() if not key.startswith(FREE)},
        }


def prepare(request: Request, storage: Storage) -> Prepared:
    """Check a request, and compare it with the one that ``storage`` holds.

    Raises:
        ConfigError: the recipe or a child's values are refused; names the values.
        ResumeError: the sweep there was begun with something else.
    """
    begun = _begun(storage)
    space = parse(request.arguments)
    count, known = planned(request.search, space.axes, request.samples, request.seed)
    recipe, fixed = absolute(load(request.recipe, space.fixed)), space.fixed
    drawn = recipes.read(request.recipe, space.fixed).get("seed", 0) is None
    if drawn and all(axis.key != "seed" for axis in space.axes):
        fixed = (*fixed, f"seed={begun.get('seed', recipe.seed)}")  # one seed for all children, drawn once
        recipe = absolute(load(request.recipe, fixed))
    for values in known or corners(space.axes):
        try:
            load(request.recipe, [*fixed, *overrides_of(values)])
        except ConfigError as error:
            raise ConfigError(f"child with {' '.join(overrides_of(values))}: {error}") from None
    prepared = Prepared(request, space, fixed, recipe, count, known)
    if begun:
        _compare(begun, prepared, storage)
    return prepared


def sweep_folder(recipe: str, options: RunOptions) -> Path | str:
    """The folder (or URI) of a sweep.

    Raises:
        ConfigError: it holds another sweep or a run.
        ResumeError: there is no sweep to resume.
    """
    folder: Path | str
    above = Path("runs", "sweeps", Path(recipe).stem).absolute()
    if options.output is not None:
        folder = named(options.output)
    elif options.resume:
        begun = sorted(path.parent for path in above.glob(f"*/{REQUEST}"))
        if not begun:
            raise ResumeError(f"--resume: no sweep of {recipe} under {above}; name it with --output DIR")
        folder = begun[-1]
    else:
        folder = above / datetime.now().strftime("%Y%m%d-%H%M%S")
    files = storage_at(folder).names("")
    if options.resume and REQUEST not in files:
        raise ResumeError(f"--resume: {folder} holds no sweep; leave --resume out to start one there")
    for name, what in ((REQUEST, "a sweep"), ("recipe.yaml", "a run")):
        if name in files and not (options.resume and name == REQUEST):
            fix = "pass --resume to continue it, or name" if name == REQUEST else "name"
            raise ConfigError(f"--output: {folder} already holds {what}; {fix} another folder")
    return folder


def _begun(storage: Storage) -> dict[str, Any]:
    text = read_text(storage, REQUEST)
    try:
        found: dict[str, Any] = json.loads(text or "{}")
        if text is not None and set(found) != {"request", "seed", "recipe"}:
            raise ValueError("other keys than a sweep writes")
    except ValueError as error:
        raise DataError(f"{storage.where}/{REQUEST}: is no request of a sweep ({error}); put back a copy") from None
    return found


def _compare(begun: dict[str, Any], prepared: Prepared, storage: Storage) -> None:
    """Raises ``ResumeError`` with each difference."""
    now = json.loads(json.dumps(prepared.facts()))
    pairs = [(part, key) for part in ("request", "recipe") for key in {**begun[part], **now[part]}]
    changed = [
        f"{key}: {begun[part].get(key)} -> {now[part].get(key)}"
        for part, key in pairs
        if begun[part].get(key) != now[part].get(key)
    ]
    if changed:
        raise ResumeError(
            f"--resume: the sweep in {storage.where} was begun with other values, {'; '.join(changed)}; repeat its "
            "command with --resume, or start another with another --output"
        )
