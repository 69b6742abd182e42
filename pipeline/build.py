"""The composition root: the only file that imports every part and puts them together."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pipeline import recipes
from pipeline.algorithms import ALGORITHMS
from pipeline.config import Recipe, plain, validate
from pipeline.core.algorithm import Algorithm
from pipeline.core.failures import ConfigError
from pipeline.core.flat import Layout
from pipeline.core.losses import LOSSES
from pipeline.core.plugins import import_plugins, imported, instead_of, plugin_file
from pipeline.core.seeding import init_rng
from pipeline.core.source import Counted, Spec, TaskSource, Varied
from pipeline.core.types import Needs
from pipeline.derived import data_set, validations
from pipeline.engine.clock import Monotonic
from pipeline.engine.durability.coordinator import Coordinator, Durability
from pipeline.engine.durability.journal import Journal
from pipeline.engine.durability.publisher import Publisher, TrackedRun
from pipeline.engine.evaluate import EvaluationPlan
from pipeline.engine.interfaces import DataSet, Executor, Tracker
from pipeline.engine.loop import Plan
from pipeline.engine.numerics import Numerics
from pipeline.engine.outer.optimizer import Outer
from pipeline.engine.outer.store import Store
from pipeline.engine.scheduling.pool import WorkerPool
from pipeline.engine.scheduling.scheduler import Scheduler
from pipeline.engine.scheduling.timeouts import Timeouts
from pipeline.engine.serial import InProcess, SerialExecutor
from pipeline.engine.worker import Worker
from pipeline.nets import NETS
from pipeline.nets.model import NormalisedNet
from pipeline.nets.net import Net
from pipeline.serving.task import SERVED, task_file
from pipeline.storage import storage_at
from pipeline.storage.interface import Storage
from pipeline.tasks import SOURCES
from pipeline.tracking.commit import git_commit


class Components(NamedTuple):
    """A recipe's algorithm and source, and its first theta; ``work`` is as ``validations`` has it."""

    algorithm: Algorithm[Any, Any]
    source: TaskSource[Any]
    layout: Layout
    theta: Tensor
    work: float = 1.0


def build_components(recipe: Recipe, outputs: int | None = None) -> Components:
    """Raises ``ConfigError`` or ``DataError`` where components do not fit. ``outputs`` replaces the source's number."""
    source = source_of(recipe)
    spec = source.spec()
    algorithm, layout, theta = build_model(recipe, spec if outputs is None else spec._replace(outputs=outputs))
    return Components(algorithm, source, layout, theta)


def build_model(recipe: Recipe, spec: Spec) -> tuple[Algorithm[Any, Any], Layout, Tensor]:
    """A recipe's algorithm for tasks of ``spec``, and its first theta.

    Raises:
        ConfigError: they do not fit each other.
    """
    kind = ALGORITHMS[recipe.algorithm.name]
    _check_fit(recipe, spec, kind.needs)
    model = NormalisedNet(net_of(recipe, spec), recipe.normalisation, spec.input_shape)
    algorithm = kind(plain(recipe.algorithm, kind.Config), model, LOSSES[spec.loss].function)
    try:
        first = algorithm.init(init_rng(recipe.seed))
        layout = Layout.of(first, plain(recipe.numerics, Numerics).torch_dtype)
        return algorithm, layout, layout.pack(first)
    except MemoryError as error:
        raise ConfigError(f"net: its parameters do not fit into this machine's memory ({error})") from None


def _check_fit(recipe: Recipe, spec: Spec, needs: Needs) -> None:
    """Raises ``ConfigError`` where the algorithm does not take the source's tasks."""
    algorithm, source = recipe.algorithm.name, recipe.source.name
    if spec.data not in needs.data:
        taken = " or ".join(one.__name__ for one in needs.data)
        raise ConfigError(
            f"algorithm.name: {algorithm} takes tasks of {taken}, the source {source} gives {spec.data.__name__}; "
            "choose another of the two"
        )
    if spec.targets not in needs.targets:
        fix = f"; use source.labels={needs.targets[0]}" if hasattr(recipe.source, "labels") else ""
        raise ConfigError(
            f"source.name: {source} gives {spec.targets} as training targets, {algorithm} learns "
            f"{' or '.join(needs.targets)}{fix or '; choose another of the two'}"
        )
    if spec.loss not in LOSSES:
        raise ConfigError(f"source.name: {source} names the loss {spec.loss!r}; {instead_of(spec.loss, LOSSES)}")


def source_of(recipe: Recipe) -> TaskSource[Any]:
    """Raises ``ConfigError`` or ``DataError`` where it cannot fill the recipe's tasks."""
    kind = SOURCES[recipe.source.name]
    source: TaskSource[Any] = kind(plain(recipe.source, kind.Config), recipe.shapes())
    return source


def net_of(recipe: Recipe, spec: Spec) -> Net:
    """The recipe's network for tasks of this spec. Raises ``ConfigError`` where it does not fit them."""
    kind, needs = NETS[recipe.net.name], ALGORITHMS[recipe.algorithm.name].needs
    if spec.data not in kind.takes:
        fitting = ", ".join(name for name, net in NETS.items() if spec.data in net.takes)
        raise ConfigError(
            f"net.name: {recipe.net.name} does not read {spec.data.__name__}, which the source {recipe.source.name} "
            f"gives; use one of {fitting}"
        )
    config, normalised = plain(recipe.net, kind.Config), recipe.normalisation != "none"
    return kind.for_tasks(config, spec, head=needs.head, normalised=normalised)


def build_worker(recipe: Recipe, components: Components, *, answers: bool = False) -> Worker:
    """The worker that learns and scores a recipe's tasks, and reports their ``answers`` if asked to."""
    return Worker(*components[:3], plain(recipe.numerics, Numerics), recipe.chunk_size, answers=answers)


def received(text: str) -> Recipe:
    """Parse a recipe from another process.

    Raises:
        ConfigError: the code here knows other keys than the code there.
    """
    return validate(json.loads(text), "as the driver sent it (does this node have the driver's code?)")


@dataclass(frozen=True)
class BuildWorker:
    """Builds a worker in the calling process. It is sent as text."""

    recipe: str
    plugins: tuple[str, ...] = ()
    answers: bool = False
    outputs: int | None = None

    def __call__(self) -> Worker:
        import_plugins(self.plugins)
        recipe = received(self.recipe)
        return build_worker(recipe, build_components(recipe, self.outputs), answers=self.answers)


@dataclass(frozen=True)
class BuildCoordinator:
    """Builds the coordinator of a run's theta in the process that will hold it."""

    recipe: str
    folder: str
    commit: str
    accept_numerics: bool
    plugins: tuple[str, ...] = ()

    def __call__(self) -> Coordinator:
        import_plugins(self.plugins)
        from pipeline.tracking.mlflow_tracker import MLflowTracker

        recipe = received(self.recipe)
        torch.set_num_threads(1)
        algorithm, source, layout, theta, _ = build_components(recipe)
        storage = storage_at(self.folder)
        journal = Journal(storage)
        tags = {"git_commit": self.commit, "data": source.fingerprint, "normalisation": recipe.normalisation}
        tags["folder"] = self.folder
        if recipe.tracking.parent:
            tags["mlflow.parentRunId"] = recipe.tracking.parent
        if self.plugins:
            tags["plugins"] = ", ".join(self.plugins)
        tracker = MLflowTracker(recipe.tracking.uri, recipe.tracking.experiment)
        data = data_set(recipe, source.fingerprint, source.counts() if isinstance(source, Counted) else {})
        return Coordinator(
            Store(algorithm, layout, theta, outer_of(recipe, layout, algorithm), recipe.steps),
            storage,
            durability(recipe, layout.size, storage),
            recipe.identity(source.fingerprint),
            journal,
            publisher_of(recipe, tags, data, tracker, journal, storage),
            {"recipe.yaml": recipes.dump(recipe.public()), **plugin_file(self.plugins), **task_file(source)},
            accept_numerics=self.accept_numerics,
        )


def durability(recipe: Recipe, parameters: int, storage: Storage) -> Durability:
    """When checkpoints are written. For ``auto`` the size of theta decides, never a timing."""
    every = recipe.checkpoint.every
    if every == "auto":
        every = 1 if parameters <= storage.cheap_parameters else 0
    return Durability(every, recipe.steps, recipe.checkpoint.keep)


def publisher_of(
    recipe: Recipe, tags: dict[str, str], data: DataSet, tracker: Tracker, journal: Journal, storage: Storage
) -> Publisher:
    """What sends a run's journal and end to the tracker."""
    run = TrackedRun(recipe.name, recipes.flatten(recipe.public()), tags, data)
    served = SERVED if recipe.tracking.report else ()
    return Publisher(tracker, journal, run, storage, recipe.tracking.log_every, served)


def outer_of(recipe: Recipe, layout: Layout, algorithm: Algorithm[Any, Any]) -> dict[str, Outer]:
    """One outer optimizer for each stepped group. A group that the recipe does not name uses that of ``model``.

    ``outer.model`` is therefore allowed in any recipe, even where no group is stepped.
    """
    stepped = layout.without(algorithm.unstepped)
    unknown = sorted(set(recipe.outer) - {*stepped, "model"})
    if unknown:
        raise ConfigError(
            f"outer.{unknown[0]}: {recipe.algorithm.name} has no such group, it has {', '.join(stepped) or 'none'}"
        )
    chosen = {group: recipe.outer.get(group) or recipe.outer.get("model") for group in stepped}
    missing = [group for group, outer in chosen.items() if outer is None]
    if missing:
        raise ConfigError(f"outer: no optimizer for the group {missing[0]}; add outer.{missing[0]} or outer.model")
    return {group: plain(outer, Outer) for group, outer in chosen.items() if outer is not None}


def evaluation_plan(recipe: Recipe, source: TaskSource[Any]) -> EvaluationPlan:
    """The final table's tasks."""
    wanted = recipe.evaluation
    return EvaluationPlan(
        wanted.split,
        wanted.tasks,
        wanted.seed,
        recipe.chunk_size,
        recipe.shapes().eval,
        source.fingerprint,
        adaptation=json.dumps(recipe.adaptation(), sort_keys=True),
        settings=source.evaluation if isinstance(source, Varied) else {},
    )


def plan_of(recipe: Recipe, components: Components) -> Plan:
    """What the loop trains."""
    every, tasks = validations(recipe, components.source, components.work)
    final = evaluation_plan(recipe, components.source)
    loss = LOSSES[components.source.spec().loss]
    return Plan(
        seed=recipe.seed,
        steps=recipe.steps,
        tasks_per_step=recipe.tasks_per_step,
        chunk_size=recipe.chunk_size,
        validation=replace(final, split="val", tasks=tasks) if every else None,
        validate_every=every,
        keeps_best=recipe.evaluation.keeps_best,
        max_staleness=recipe.max_staleness,
        metric=loss.metric,
        higher_is_better=loss.higher_is_better,
    )


def build_executor(
    recipe: Recipe, kind: str, folder: str, address: str | None, timeouts: Timeouts, *, accept_numerics: bool
) -> Executor:
    """The executor of a run: ``serial`` in this process, ``ray`` on the cluster at ``address``."""
    # Workers do not write to MLflow, so they get no password.
    worker = BuildWorker(json.dumps(recipe.public()), imported())
    coordinator = BuildCoordinator(recipe.model_dump_json(), folder, git_commit(), accept_numerics, imported())
    if kind == "serial":
        return SerialExecutor(worker(), coordinator(), recipe.workers.on_poison)
    from pipeline.runtime.executor import RayExecutor
    from pipeline.tracking.uri import is_web

    anywhere = "://" in folder and is_web(recipe.tracking.uri)
    scheduler = Scheduler(timeouts, recipe.workers.on_poison)
    return RayExecutor(
        worker, coordinator, _wanted(recipe, recipe.tasks_at_one_theta), address, scheduler, pinned=not anywhere
    )


def build_pool(recipe: Recipe, kind: str, address: str | None, timeouts: Timeouts, outputs: int | None) -> WorkerPool:
    """A pool of workers without a parameter actor, to evaluate a theta on disk. They report answers too."""
    worker = BuildWorker(json.dumps(recipe.public()), imported(), answers=True, outputs=outputs)
    if kind == "serial":
        return WorkerPool(InProcess(worker()), Monotonic(), Scheduler(timeouts), workers=1)
    from pipeline.runtime.transport import RayTransport

    wanted = _wanted(recipe, recipe.evaluation.tasks)
    transport = RayTransport(worker, wanted, address, timeouts.start_s)
    return WorkerPool(transport, Monotonic(), Scheduler(timeouts), workers=wanted.count)


def worker_count(recipe: Recipe, tasks: int) -> int:
    """The number of workers to start: as many as asked for, and at most one for each chunk of these tasks."""
    return min(recipe.workers.count, -(-tasks // recipe.chunk_size))


def _wanted(recipe: Recipe, tasks: int) -> Any:
    from pipeline.runtime.cluster import Workers

    return Workers(worker_count(recipe, tasks), recipe.workers.gpus, mixed=recipe.numerics.mixed)
