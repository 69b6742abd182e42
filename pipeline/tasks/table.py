"""Few-shot classification of a table's rows: embeddings, or other numbers of each example."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar, Literal

import numpy as np
import numpy.typing as npt
import torch

from pipeline.core.seeding import Split, Ticket
from pipeline.core.source import Spec, TaskShapes, require_support
from pipeline.core.types import Batch, FilePath, Task
from pipeline.tasks import tablefile
from pipeline.tasks.class_rows import ClassRows, Examples
from pipeline.tasks.tablefile import TableFile

_ROWS = Examples(
    "rows",
    "`python -m jobs.ingest table FILE --to {path}` from a CSV, Parquet or .npz file of your own",
    "python -m jobs.ingest table --min-rows",
)


@dataclass(frozen=True)
class TableConfig:
    """An ingested table.

    With ``labels: classes`` an example of a training task is labelled with its class's number in the split ``train``:
    for methods that train one classifier for them all.

    Attributes:
        path: The file that jobs.ingest wrote.
        split: The name of one of its split sets, such as ``random`` or ``given``.
        labels: What labels of training tasks count: a class's slot in its task, or its number among all of the split's.
    """

    path: Annotated[str, FilePath()]
    split: str = "random"
    labels: Literal["slots", "classes"] = "slots"


class Table:
    """Classes and their rows as ``ClassRows`` draws them; each class's first ``shots`` rows are its support set.

    ``x`` is float32 [N, F], standardised; ``y`` is int64 [N], the slot (of training tasks, the class's number if
    ``labels`` says so). A support set is ordered by slot, queries are shuffled.

    Raises:
        DataError: the file is missing, damaged or has no such split set.
        ConfigError: tasks have no shots.
    """

    Config: ClassVar[type[TableConfig]] = TableConfig

    def __init__(self, config: TableConfig, shapes: TaskShapes) -> None:
        require_support(shapes)
        self._rows: ClassRows[TableFile] = ClassRows(Path(config.path), config.split, tablefile.read, _ROWS)
        self._shapes, self._labels = shapes, config.labels
        self.splits: tuple[Split, ...] = self._rows.splits
        self.fingerprint = self._rows.fingerprint
        self.preparation = self._rows.file.preparation.saved()

    def spec(self) -> Spec:
        # A file of new classes alone, to evaluate a trained run on, has none to train on.
        classes = len(self._rows.sizes("train")) if "train" in self.splits else 0
        outputs = self._shapes.train.ways if self._labels == "slots" else classes
        return Spec(Batch, self._rows.file.features.shape[1:], outputs, self._labels, "cross_entropy")

    def class_sizes(self, split: Split, *, training: bool) -> list[tuple[str, int]]:
        return self._rows.sizes(split)

    def contents(self, split: Split) -> frozenset[str]:
        return self._rows.contents(split)

    def class_names(self, split: Split) -> list[str]:
        return self._rows.class_names(split)

    def sample(self, ticket: Ticket) -> Task[Batch]:
        shape, rng = self._shapes.of(ticket), ticket.rng("task")
        rows_WN, numbers = self._rows.draw_rows(rng, ticket.split, shape)
        labels = numbers if ticket.purpose == "train" and self._labels == "classes" else np.arange(shape.ways)
        support, query = (self._batch(part, labels) for part in np.split(rows_WN, [shape.shots], axis=1))
        order = torch.from_numpy(rng.permutation(len(query.y)))
        query = Batch(query.x[order], query.y[order])
        return Task(ticket.id, support, query, shape.ways, classes=tuple(numbers.tolist()))

    def _batch(self, rows_WN: npt.NDArray[np.int64], labels_W: npt.NDArray[np.int64]) -> Batch:
        x = torch.from_numpy(self._rows.file.features[rows_WN.flatten()])
        return Batch(x, torch.from_numpy(labels_W.repeat(rows_WN.shape[1])))
