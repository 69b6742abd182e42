"""A worker samples the tasks of a chunk, learns from them and packs one vector. Each call is pure."""

from __future__ import annotations

import time
import zlib
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from pipeline.core.algorithm import Algorithm
from pipeline.core.flat import Layout
from pipeline.core.losses import LOSSES
from pipeline.core.seeding import Ticket
from pipeline.core.source import Judge, StreamJudge, TaskSource, Versioned
from pipeline.core.types import Batch, Context, Contribution, MetaParams, Params, Score, Task
from pipeline.engine.answers import summary, task_answers
from pipeline.engine.chunks import following
from pipeline.engine.drawing import Drawing, SampledChunk, SampledTask, TaskBatch
from pipeline.engine.error_context import error_context
from pipeline.engine.interfaces import Block, Chunk, Report, ScoreReport
from pipeline.engine.numerics import Numerics
from pipeline.engine.outer.reduce import block_sum, tree_sum
from pipeline.engine.pieces import Pieces
from pipeline.engine.together import Together, vmap_tasks
from pipeline.engine.trace import scored_points
from pipeline.engine.usage import NodeUsage


class TaskResult(NamedTuple):
    """A used task: its slot in the chunk, loss, metrics and records."""

    slot: int
    loss: float
    metrics: dict[str, float]
    records: Params


class Worker:
    """Computes chunks of one run. It holds only what is fixed for the run.

    With ``answers`` a score also reports what the queries of a classification were answered by ``predict``.
    """

    def __init__(
        self,
        algorithm: Algorithm[Any, Any],
        source: TaskSource[Any],
        layout: Layout,
        numerics: Numerics,
        chunk_size: int,
        *,
        answers: bool = False,
    ) -> None:
        numerics.configure_process()
        self.algorithm, self.layout = algorithm, layout
        self.together = Together(algorithm)
        versions = dict(source.versions) if isinstance(source, Versioned) else {}
        self.fingerprint = numerics.fingerprint(chunk_size) | versions
        loss = LOSSES[source.spec().loss]
        self.answers, self.reports_answers = loss.answers, answers and loss.logits
        self.device = numerics.torch_device()
        self.drawing = Drawing(algorithm, source, self.device, layout.dtype, stacks=numerics.vectorise)
        self.usage = NodeUsage(self.device)
        self.pieces = Pieces(self.device)
        self._first: Chunk | None = None
        """The chunk that was learned first in its step; in the next step it will likely be that of its number."""

    def learn(self, theta: np.ndarray, chunk: Chunk) -> tuple[Contribution, Report]:
        """The chunk's weighted sum of gradients, and a report for the driver.

        Raises:
            TaskError: the source or the algorithm raised; names the task and the line that reproduces it.
        """
        start = time.perf_counter()
        if self._first is None or self._first.step != chunk.step:
            self._first = chunk
        drawn = self.drawing.chunk(chunk)
        sampled = time.perf_counter()
        with error_context(chunk):
            gradient, learned = self._learn(self._theta(theta), drawn, chunk.step)
        slots = {one.slot for one in learned}
        packed = self.layout.pack(gradient).numpy()
        names = sorted({name for one in learned for name in one.metrics})
        report = Report(
            step=chunk.step,
            chunk=chunk.number,
            used=len(learned),
            loss=sum(one.loss for one in learned),
            metrics={name: sum(one.metrics[name] for one in learned) for name in names},
            skipped=tuple(ticket.id for slot, ticket in enumerate(chunk.tickets) if slot not in slots),
            seconds={"sampling": sampled - start, "inner_loop": time.perf_counter() - sampled},
            digest=zlib.crc32(packed.data),
            usage=self.usage.sample(),
        )
        contribution = Contribution(
            chunk=chunk.number,
            groups=tuple(gradient),
            gradient=packed,
            weight=sum(drawn.weights[slot] for slot in sorted(slots)),
            records=[
                {name: value.cpu().numpy() for name, value in one.records.items()} for one in learned if one.records
            ],
        )
        return contribution, report

    def learn_block(self, theta: np.ndarray, block: Block) -> tuple[Contribution, tuple[Report, ...]]:
        """The sum of the chunks' contributions over the tree, and each chunk's report."""
        reports: list[Report] = []

        def learned() -> Iterator[Contribution]:
            for chunk in block.chunks:
                contribution, report = self.learn(theta, chunk)
                reports.append(report)
                yield contribution

        return block_sum(block.number, learned()), tuple(reports)

    def score_block(self, theta: np.ndarray, block: Block) -> tuple[ScoreReport, ...]:
        """Each chunk's report."""
        return tuple(self.score(theta, chunk) for chunk in block.chunks)

    def draw_ahead(self) -> None:
        """Draw the tasks of the next step that this worker will likely be given, while it has nothing to do."""
        if self._first is not None:
            self.drawing.ahead(following(self._first))

    def learn_alone(self, theta: np.ndarray, ticket: Ticket) -> tuple[MetaParams, Score]:
        """The gradient and score of one task, for inspection."""
        task, noise = self.drawing.to_device(self.drawing.one(ticket, "train"))
        with error_context(ticket):
            return self.algorithm.learn(self._theta(theta), task, Context(ticket.step, "train", task.ways, noise))

    def score(self, theta: np.ndarray, chunk: Chunk) -> ScoreReport:
        """Metrics of evaluation tasks, before adaptation and after inner steps (see ``scored_points``).

        Raises:
            TaskError: the source or the algorithm raised; names the tasks.
        """
        drawn = [self.drawing.one(ticket, "evaluate") for ticket in chunk.tickets]
        values = self._theta(theta)
        points: tuple[int, ...] = ()
        milestones: Sequence[int] = ()

        def score(task: Task[Any], noise: Params) -> tuple[list[tuple[dict[str, Tensor], Params]], Params]:
            nonlocal points, milestones
            context = Context(chunk.step, "evaluate", task.ways, noise)
            milestones = self.algorithm.milestones(context)
            kept = scored_points(self.algorithm.trace(values, task.support, context), milestones)
            points = tuple(kept)
            scores = [self._scored(adapted, task, context) for adapted in kept.values()]
            return scores, self._answered(kept[points[-1]], task)

        with error_context(chunk), torch.no_grad():
            together = self.drawing.stack(drawn)
            if together is not None:
                ways, tensors = together
                scored, stacked = self.pieces(lambda some: vmap_tasks(score, TaskBatch(ways, some)), tensors)
                summaries = [{name: leaf[slot] for name, leaf in stacked.items()} for slot in range(len(drawn))]
            else:
                apart = [score(*self.drawing.to_device(one)) for one in drawn]
                scored, summaries = _stack_points([points for points, _ in apart]), [one for _, one in apart]
            rows = [metrics | self._judged(answers, drawn) for metrics, answers in scored]
        metrics = {name: np.stack([row[name].cpu().double().numpy() for row in rows], 1) for name in rows[0]}
        if milestones and points == (0, *milestones) and isinstance(self.drawing.source, StreamJudge):
            metrics |= self.drawing.source.judge_stream(metrics)
        digest = zlib.crc32(b"".join(metrics[name].tobytes() for name in sorted(metrics)))
        return ScoreReport(chunk.number, points, metrics, digest, task_answers(summaries, [one.task for one in drawn]))

    def _scored(self, adapted: Any, task: Task[Any], context: Context) -> tuple[dict[str, Tensor], Params]:
        """The metrics of an adapted value, and what the source judges on the host."""
        score = self.algorithm.score(adapted, task.query, context)
        if self.answers is None:
            return score.metrics, score.answers
        answers = self.algorithm.predict(adapted, task.query.x)
        return score.metrics | self.answers(answers, task.query.y), score.answers | {"answers": answers}

    def _answered(self, adapted: Any, task: Task[Any]) -> Params:
        """What the queries were answered, where that is asked for and the task is to classify a set of examples."""
        if not (self.reports_answers and isinstance(task.query, Batch)):
            return {}
        return summary(self.algorithm.predict(adapted, task.query.x), task.query.y)

    def _learn(self, theta: MetaParams, drawn: SampledChunk, step: int) -> tuple[MetaParams, list[TaskResult]]:
        if drawn.together is not None:
            weights = torch.tensor(drawn.weights, dtype=self.layout.dtype, device=self.device)
            gradient, score = self.together.learn(theta, weights, drawn.together, step)
            if _finite(gradient, score):
                return gradient, _learned(score, range(len(drawn.weights)))
        # Repeat task by task to find the one at fault; whether a task is used depends on that task alone.
        gradients: dict[int, Tensor] = {}
        groups: dict[str, None] = {}
        learned = []
        for slot, (task, noise) in enumerate(map(self.drawing.to_device, drawn.apart())):
            gradient, score = self.algorithm.learn(theta, task, Context(step, "train", task.ways, noise))
            if _finite(gradient, score):
                gradients[slot] = task.weight * self.layout.pack(gradient)
                groups |= dict.fromkeys(gradient)
                learned += _learned(pytree.tree_map(lambda leaf: leaf.unsqueeze(0), score), [slot])
        if not learned:
            return {}, []
        total = self.layout.unpack(tree_sum(gradients))
        return {group: total[group] for group in groups}, learned

    def _judged(self, answers: Params, drawn: list[SampledTask]) -> dict[str, Tensor]:
        """The metrics that the source computes on the host for each task; none where it has no ``judge``."""
        if not (answers and isinstance(self.drawing.source, Judge)):
            return {}
        host = {name: value.cpu() for name, value in answers.items()}
        per_task = [
            self.drawing.source.judge({name: value[slot] for name, value in host.items()}, one.task.query)
            for slot, one in enumerate(drawn)
        ]
        return {name: torch.tensor([one[name] for one in per_task], dtype=torch.float64) for name in per_task[0]}

    def _theta(self, theta: np.ndarray) -> MetaParams:
        # Copied: the received array lies in memory that other readers share, and torch would allow writes to it.
        return self.layout.unpack(torch.from_numpy(theta.copy()).to(self.device))


def _stack_points(per_task: list[list[Any]]) -> list[Any]:
    """[task][point] trees of tensors as [point] trees with a leading task dimension."""
    return [pytree.tree_map(lambda *leaves: torch.stack(leaves), *point) for point in zip(*per_task, strict=True)]


def _finite(gradient: MetaParams, score: Score) -> bool:
    """Whether each number is: then 0 times it is 0. It waits for the device once; ``isfinite`` took five to eight times
    as long.
    """
    parts = [leaf.flatten() for leaves in gradient.values() for leaf in leaves.values()]
    return not torch.cat([*parts, score.loss.flatten()]).mul_(0).sum().isnan()


def _learned(score: Score, slots: Sequence[int]) -> list[TaskResult]:
    """A score with a leading task dimension, task by task."""
    losses = score.loss.tolist()
    metrics = {name: values.tolist() for name, values in score.metrics.items()}
    return [
        TaskResult(
            slot,
            losses[row],
            {name: values[row] for name, values in metrics.items()},
            {name: values[row] for name, values in score.records.items()},
        )
        for row, slot in enumerate(slots)
    ]
