"""Random quadratics ‖W phi - y‖²: functions for an optimiser to learn on (arXiv 1606.04474, §3.1).

The paper draws W and y from a Gaussian. The authors' code draws them from U[0, 1), which gives one direction a far
larger curvature than all others.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import torch
from annotated_types import Ge, Le

from pipeline.core.failures import ConfigError
from pipeline.core.seeding import Split, Ticket
from pipeline.core.source import Spec, TaskShapes, require_support
from pipeline.core.types import Batch, Task


@dataclass(frozen=True)
class QuadraticsConfig:
    """The functions that are to be made small.

    Attributes:
        dimension: Numbers in phi.
        entries: What the entries of W and y are drawn from: N(0, 1) or U[0, 1).
    """

    dimension: Annotated[int, Ge(1), Le(1 << 12)] = 10
    entries: Literal["gaussian", "uniform"] = "gaussian"


class Quadratics:
    """Examples are the rows of W [shots, dimension] with y [shots, 1], float64; the query set is the support set.

    Raises:
        ConfigError: the shape of a task asks for ways or other queries than shots, or for no shots.
    """

    Config: ClassVar[type[QuadraticsConfig]] = QuadraticsConfig
    splits: tuple[Split, ...] = ("train", "val", "test")

    def __init__(self, config: QuadraticsConfig, shapes: TaskShapes) -> None:
        require_support(shapes)
        for phase, shape in (("train", shapes.train), ("eval", shapes.eval)):
            for field, found, wanted in (
                ("ways", shape.ways, 1),
                ("queries", shape.queries, shape.shots),
            ):
                if found != wanted:
                    raise ConfigError(
                        f"task.{phase}.{field}: {found}, but a quadratic has {wanted}: its support set is its query "
                        f"set; set it to {wanted}"
                    )
        self._config, self._shapes = config, shapes
        self.fingerprint = hashlib.sha256(repr(config).encode()).hexdigest()[:16]

    def spec(self) -> Spec:
        return Spec(Batch, (self._config.dimension,), 1, "values", "sum_of_squares")

    def sample(self, ticket: Ticket) -> Task[Batch]:
        """Drawn row by row, so that a smaller task consists of the first rows of a larger one."""
        rng, shape = ticket.rng("task"), (self._shapes.of(ticket).shots, self._config.dimension + 1)
        rows = torch.from_numpy(
            rng.normal(size=shape) if self._config.entries == "gaussian" else rng.uniform(size=shape)
        )
        examples = Batch(rows[:, :-1].contiguous(), rows[:, -1:].contiguous())
        return Task(ticket.id, examples, examples)
