"""The pictures of a finished run: what each needs is computed here, in this process, on a few tasks."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from pipeline.build import Components
from pipeline.config import Recipe
from pipeline.core.algorithm import Remembers
from pipeline.core.seeding import Ticket
from pipeline.core.source import NamesClasses
from pipeline.core.types import Batch, MetaParams
from pipeline.engine.durability.journal import Journal
from pipeline.engine.evaluate import Scores
from pipeline.engine.interfaces import Span
from pipeline.pictures import curves, layers, slots, tasks, workers
from pipeline.pictures.canvas import png
from pipeline.runs.curves import curves_of
from pipeline.runs.looks import Answered, Looks, fit_of, is_curve
from pipeline.runs.report import title_of
from pipeline.storage.interface import Storage

PICTURES = "pictures"
"""The folder of the pictures."""
SHOWN, COUNTED = 4, 24
"""Evaluation tasks that are shown, and of which answers are counted by class."""


class Ended(NamedTuple):
    """What a finished run's pictures and description are made of.

    Args:
        recipe: the run's.
        components: its algorithm and source.
        vector: its last theta.
        scores: each evaluation task's, at the last theta.
        summary: what is written to ``summary.json``.
        spans: who computed which chunk.
        storage: its folder, where its journal is.
    """

    recipe: Recipe
    components: Components
    vector: np.ndarray
    scores: Scores
    summary: Mapping[str, Any]
    spans: Sequence[Span]
    storage: Storage


def pictures(ended: Ended, note: Callable[[str], None]) -> dict[str, bytes]:
    """PNG files by name, with slashes. Where one cannot be drawn ``note`` is told, and the run has the others."""
    drawn, files = _Drawn(ended), {}
    for name in ("adaptation", "training", "gradients", "rates", "episodes", "confusion", "fits", "memory", "workers"):
        try:
            figure = getattr(drawn, name)()
            if figure is not None:
                files[f"{PICTURES}/{name}.png"] = png(figure)
        except Exception as error:  # noqa: BLE001  (whatever a user's source or an odd run raises, the run itself is good)
            note(f"no picture of {name}: {type(error).__name__}: {error}".splitlines()[0])
    return files


class _Drawn:
    """The pictures of one run; each method draws one, or returns None where the run has none of that kind."""

    def __init__(self, ended: Ended) -> None:
        self.ended, self.recipe = ended, ended.recipe
        self.algorithm, self.source = ended.components.algorithm, ended.components.source
        self.looks = Looks(ended.recipe, ended.components, ended.vector)
        self.theta = self.looks.theta
        self.judged = ended.summary["evaluation"]

    def adaptation(self) -> Figure:
        metric, rows = self.judged["metric"], self.judged["rows"]
        names = {"last": "last theta", "best": "best theta on validation"}
        found = {}
        for theta in dict.fromkeys(row["theta"] for row in rows):
            own = [row for row in rows if row["theta"] == theta and row["metric"] == metric]
            parts = (np.array([row[key] for row in own]) for key in ("point", "mean", "ci95"))
            found[names[theta]] = curves.Curve(*parts)
        values = self.ended.scores.metrics[metric]
        return curves.adaptation(self._title("evaluation"), found, values, metric, self.judged["unit"])

    def training(self) -> Figure:
        found, metric, split = self._curves, self.judged["metric"], self.judged["split"]
        last = self.ended.scores.points[-1]
        judged = {
            "training tasks": found.get(f"train/{metric}"),
            "validation": found.get(f"val/{metric}/after_{last}_steps"),
            "validation, before adaptation": found.get(f"val/{metric}/after_0_steps") if last else None,
            f"evaluation ({split} split)": self._final(metric),
        }
        norms = {name.rpartition("/")[2]: curve for name, curve in found.items() if name.startswith("train/grad_norm/")}
        panels = {
            "loss": {"training tasks": found["train/loss"]},
            metric: {name: curve for name, curve in judged.items() if curve is not None},
            "gradient norm": norms,
        }
        units = {metric: self.judged["unit"], "gradient norm": "log"}
        title = f"{self.recipe.name}: training\n{self.recipe.steps} outer steps of {self.recipe.tasks_per_step} tasks"
        return curves.training(title, {name: panel for name, panel in panels.items() if panel}, units)

    def gradients(self) -> Figure | None:
        """What the last theta's gradient is in each layer, for the first tasks of one more step."""
        norms: dict[str, list[float]] = {}
        shown = min(SHOWN, self.recipe.tasks_per_step)
        for number in range(shown):
            ticket = Ticket(self.recipe.seed, "train", "train", self.recipe.steps + 1, number)
            task, context = self.looks.drawn(ticket, "train")
            gradient, _ = self.algorithm.learn(self.theta, task, context)
            for layer, leaves in _by_layer(gradient).items():
                norms.setdefault(layer, []).append(torch.cat([leaf.flatten() for leaf in leaves]).norm().item())
        if not norms:
            return None
        title = (
            f"{self.recipe.name}: meta-gradient by layer\nat the last theta, {shown} training tasks; of a method that "
            "sends theta - phi, that difference"
        )
        return layers.gradients(title, {name: np.array(values) for name, values in norms.items()})

    def rates(self) -> Figure | None:
        learned = self.theta.get("inner_lr")
        if learned is None:
            return None
        by_step = all(name not in self.theta["model"] for name in learned)  # else one for each weight of a leaf
        rates = {name: leaf.flatten().double().numpy() for name, leaf in learned.items()}
        title = f"{self.recipe.name}: learned rates of inner steps\nby layer, after {self.recipe.steps} outer steps"
        return layers.rates(title, rates, getattr(self.recipe.algorithm, "inner_lr", None), by_step=by_step)

    def episodes(self) -> Figure | None:
        if not self._classifies_images():
            return None
        shown = [_episode(f"task {number}", one) for number, one in enumerate(self._answered[:SHOWN], 1)]
        return tasks.episodes(self._title(f"the first {len(shown)} evaluation tasks"), shown)

    def confusion(self) -> Figure | None:
        if not self._classifies_images() or not isinstance(self.source, NamesClasses):
            return None
        names = self.source.class_names(self.recipe.evaluation.split)
        seen = np.unique([number for one in self._answered for number in one.task.classes])
        counts = np.zeros((len(seen), len(seen)))
        for one in self._answered:
            places = np.searchsorted(seen, one.task.classes)
            np.add.at(counts, (places[one.task.query.y], places[one.slots]), 1)
        title = self._title(f"the hardest classes of {len(self._answered)} evaluation tasks")
        return tasks.confusion(title, [names[number] for number in seen], counts)

    def fits(self) -> Figure | None:
        task, _ = self.looks.evaluation(0)
        if not is_curve(task.support) or not is_curve(task.query):
            return None
        shown = [fit_of(self.looks, number) for number in range(min(SHOWN, self.judged["tasks"]))]
        return tasks.fits(self._title(f"the first {len(shown)} evaluation tasks"), shown)

    def memory(self) -> Figure | None:
        if not isinstance(self.algorithm, Remembers):
            return None
        with torch.no_grad():
            found = self.algorithm.memory_weights(self.theta, *self.looks.evaluation(0))
        if found is None:
            return None
        if found.labels.is_floating_point():
            labels = [" ".join(f"{value:.1f}" for value in label.flatten().tolist()) for label in found.labels]
        else:
            labels = [str(slot + 1) for slot in found.labels.tolist()]
        return slots.memory(
            self._title("the memory in the first evaluation task"), found.read.numpy(), found.written.numpy(), labels
        )

    def workers(self) -> Figure | None:
        if not self.ended.spans:
            return None
        summary = self.ended.summary
        title = (
            f"{self.recipe.name}: workers\n{summary['executor']}, {summary['device']}, chunks of "
            f"{self.recipe.chunk_size} tasks, {self.recipe.tasks_per_step} tasks in a step"
        )
        return workers.timeline(title, self.ended.spans)

    def _title(self, what: str) -> str:
        return f"{self.recipe.name}: {what}\n{title_of(self.judged)}"

    @cached_property
    def _answered(self) -> list[Answered]:
        return [self.looks.answers(number) for number in range(min(COUNTED, self.judged["tasks"]))]

    @cached_property
    def _curves(self) -> dict[str, curves.Curve]:
        with closing(Journal(self.ended.storage)) as journal:
            return curves_of(journal.entries(), self.recipe.steps)

    def _final(self, metric: str) -> curves.Curve:
        mean, half = next(
            (row["mean"], row["ci95"])
            for row in reversed(self.judged["rows"])
            if row["theta"] == "last" and row["metric"] == metric
        )
        return curves.Curve(*(np.array([value]) for value in (self.recipe.steps, mean, half)))

    def _classifies_images(self) -> bool:
        task, _ = self.looks.evaluation(0)
        images = isinstance(task.support, Batch) and isinstance(task.query, Batch) and task.query.x.dim() == 4
        return bool(images and not task.query.y.is_floating_point())


def _by_layer(gradient: MetaParams) -> dict[str, list[Tensor]]:
    """The leaves of each layer: those whose names differ in the last part alone."""
    layers: dict[str, list[Tensor]] = {}
    for group, leaves in gradient.items():
        for name, leaf in leaves.items():
            layer = name.rpartition("/")[0] or name
            layers.setdefault(layer if group == "model" else f"{group}: {layer}", []).append(leaf)
    return layers


def _episode(name: str, one: Answered) -> tasks.Episode:
    support, query = one.task.support, one.task.query
    return tasks.Episode(name, support.x.numpy(), support.y.numpy(), query.x.numpy(), query.y.numpy(), one.slots)
