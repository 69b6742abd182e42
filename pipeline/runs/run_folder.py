"""Reads a run's folder: its recipe and its newest theta, to serve it or to replay a task."""

from __future__ import annotations

import json
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pipeline import recipes
from pipeline.build import build_components, build_model, build_worker, source_of
from pipeline.config import Recipe, validate
from pipeline.core.failures import ConfigError, DataError, InternalError, ResumeError
from pipeline.core.flat import Layout
from pipeline.core.plugins import PLUGINS, imported
from pipeline.core.seeding import Ticket
from pipeline.core.source import HasClasses, HasTexts, Preparation, Spec, TaskSource, TextTasks
from pipeline.core.types import MetaParams, Score
from pipeline.engine.durability.checkpoint import FORMAT, Checkpoint, Checkpoints, name_of
from pipeline.engine.durability.identity import is_identity
from pipeline.engine.durability.journal import last_step
from pipeline.runs.older import as_today
from pipeline.serving.learner import Learner, refuse_transductive
from pipeline.serving.task import TASK, spec_of
from pipeline.storage import storage_at
from pipeline.storage.texts import read_text
from pipeline.tasks.preparation import PicturePreparation
from pipeline.tasks.texts import Texts


def validate_folder(folder: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """The recipe that a run's folder holds."""
    text = read_text(storage_at(folder), "recipe.yaml")
    if text is None:
        raise ConfigError(f"{folder}: no run (no recipe.yaml); expected the --output of a training run")
    where = f"{folder}/recipe.yaml"
    require_plugins(folder)
    saved, changed = (as_today(recipes.parse(text, where)) for _ in range(2))
    recipes.override(changed, overrides)
    return validate(changed, where, saved)


def require_plugins(folder: str | Path) -> None:
    """Raise ``ConfigError`` where this process has not imported what the run did: a run's folder imports no code."""
    text = read_text(storage_at(folder), PLUGINS)
    try:
        named = json.loads(text or "[]")
    except ValueError as error:
        raise ConfigError(f"{folder}/{PLUGINS}: is no JSON ({error}); put back a copy") from None
    missing = [one for one in named if one not in imported()] if isinstance(named, list) else []
    if missing:
        wanted = " ".join(f"--import {one}" for one in missing)
        raise ConfigError(f"{folder}: was trained with plug-ins; add {wanted} (in Python: plugins={missing})")


def newest(folder: str | Path, data: str | None = None) -> tuple[Checkpoint, str]:
    """The newest valid checkpoint of a run, and a line which says that the run had gone further, if it had.

    Raises:
        ResumeError: there is none, or ``require_origin`` refuses it.
    """
    storage = storage_at(folder)
    checkpoint, warnings = Checkpoints(storage, 1).newest()
    if checkpoint is None:
        raise ResumeError(f"{folder}: no valid checkpoint{': ' if warnings else ''}{'; '.join(warnings)}")
    require_origin(folder, name_of(checkpoint.step), checkpoint, data)
    reached = last_step(storage)
    if reached <= checkpoint.step and not warnings:
        return checkpoint, ""
    further = f", and the run has reached step {reached}" if reached > checkpoint.step else ""
    passed_over = f"; passed over: {'; '.join(warnings)}" if warnings else ""
    return checkpoint, f"{folder}: this is the theta of step {checkpoint.step}{further}{passed_over}"


def require_origin(folder: str | Path, name: str, checkpoint: Checkpoint, data: str | None = None) -> None:
    """Raise ``ResumeError`` where a checkpoint is not of the recipe in ``folder``, or not of ``data`` if that is given.

    Checkpoints of the first format have no identity.
    """
    found = checkpoint.metadata.get("identity")
    if not is_identity(found):
        if checkpoint.metadata["format"] < FORMAT:
            return
        raise ResumeError(f"{folder}/{name}: has no identity; no version of this program wrote it")
    ours = validate_folder(folder).identity(found["fixed"].get("data", "") if data is None else data)
    ours.check_theta(found, f"{folder}/{name}")


def pack(layout: Layout, checkpoint: Checkpoint) -> np.ndarray:
    """A checkpoint's theta as one vector in this layout.

    Moments of the group ``running`` may be dropped: another normalisation mode does not use them.

    Raises:
        ResumeError: it holds the theta of another recipe, or leaves that would be dropped.
    """
    theta: dict[str, dict[str, torch.Tensor]] = {}
    for name, tensor in checkpoint.tensors.items():
        kind, _, rest = name.partition("/")
        group, _, leaf = rest.partition("/")
        if kind == "theta":
            theta.setdefault(group, {})[leaf] = tensor
    try:
        missing = [group for group in layout.groups if group not in theta]
        if missing:
            raise InternalError(f"theta has no group {missing[0]}")
        kept = {f"{leaf.group}/{leaf.name}" for leaf in layout.leaves}
        learned = [f"{group}/{name}" for group, leaves in theta.items() if group != "running" for name in leaves]
        dropped = sorted(set(learned) - kept)
        if dropped:
            raise InternalError(f"{', '.join(dropped)} would be dropped")
        return layout.pack(theta).numpy()
    except InternalError as error:
        raise ResumeError(
            f"the checkpoint of step {checkpoint.step} does not hold this recipe's theta: {error}; "
            "leave out what changes the network, the algorithm or the normalisation"
        ) from None


OTHER_DATA = "other data than trained on"


def other_data(folder: str | Path, recipe: Recipe, source: TaskSource[Any], checkpoint: Checkpoint) -> str:
    """The mark of scores on other data than the run's own; empty on its own data.

    Raises:
        ConfigError: the split to evaluate on has classes that the run was trained on.
    """
    trained = checkpoint.metadata.get("identity", {}).get("fixed", {}).get("data")
    if trained == source.fingerprint:
        return ""
    if not isinstance(source, HasClasses):
        return OTHER_DATA
    own, split = validate_folder(folder), recipe.evaluation.split
    seen = _classes_trained_on(own, recipe, trained)
    if seen is None:
        return f"{OTHER_DATA}, whose classes cannot be compared: {getattr(own.source, 'path', '')} is not as it was"
    both, classes = seen & source.contents(split), source.contents(split)
    if both:
        raise ConfigError(
            f"source.split: {recipe.source.split}: {len(both)} of the {len(classes)} classes of its split {split} were "
            f"trained on, in the split train of {own.source.split}; evaluate on {own.source.split}, or on classes that "
            "the run has not seen"
        )
    return OTHER_DATA


def _classes_trained_on(own: Recipe, given: Recipe, trained: object) -> frozenset[str] | None:
    """The classes of the file that the run was trained on, at its old or its present path; none where it is gone."""
    for path in (getattr(own.source, "path", None), getattr(given.source, "path", None)):
        try:
            source = source_of(own.model_copy(update={"source": own.source.model_copy(update={"path": path})}))
        except DataError:
            continue
        if isinstance(source, HasClasses) and source.fingerprint == trained:
            return source.contents("train")
    return None


def load_learner(folder: str | Path, normalisation: str | None) -> Learner:
    """The learner at a run's newest checkpoint, under its own normalisation or another."""
    recipe = validate_folder(folder, [] if normalisation is None else [f"normalisation={normalisation}"])
    if normalisation is None:
        refuse_transductive(recipe.normalisation)
    served = _served_tasks(folder, recipe)
    algorithm, layout, _ = build_model(recipe, served[0])
    checkpoint, note = newest(folder)
    if note:
        warnings.warn(note, stacklevel=3)
    return Learner(algorithm, layout.unpack(torch.from_numpy(pack(layout, checkpoint))), *served)


def _served_tasks(folder: str | Path, recipe: Recipe) -> tuple[Spec, TextTasks | None, Preparation | None]:
    """The spec of a run's tasks, and what serves their texts and prepares their pictures.

    Only runs of before this file need their data.
    """
    text = read_text(storage_at(folder), TASK)
    if text is None:
        source = source_of(recipe)
        return source.spec(), source.texts if isinstance(source, HasTexts) else None, None
    try:
        told = json.loads(text)
        texts, preparation = told["texts"], told.get("preparation")
        return (
            spec_of(told),
            None if texts is None else Texts.restored(texts),
            None if preparation is None else PicturePreparation.restored(preparation),
        )
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{folder}/{TASK}: is damaged ({error!r}); put back a copy, or remove it") from None


def replay_task(folder: str | Path, step: int, number: int) -> tuple[MetaParams, Score]:
    """One training task of a run, learned at its newest theta."""
    recipe = validate_folder(folder)
    components = build_components(recipe)
    checkpoint, note = newest(folder, components.source.fingerprint)
    if note:
        warnings.warn(note, stacklevel=3)
    theta = pack(components.layout, checkpoint)
    return build_worker(recipe, components).learn_alone(theta, Ticket(recipe.seed, "train", "train", step, number))
