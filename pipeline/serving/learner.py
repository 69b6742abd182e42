"""A trained theta that adapts and predicts with the algorithm's own ``adapt`` and ``predict``."""

from __future__ import annotations

from collections import abc
from collections.abc import Hashable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pipeline.core.agent import Agent
from pipeline.core.algorithm import Algorithm, Searches
from pipeline.core.failures import ConfigError, DataError
from pipeline.core.flat import cast
from pipeline.core.seeding import Ticket
from pipeline.core.source import Preparation, Spec, TextTasks
from pipeline.core.types import Context, MetaParams, Points, Sets, Task
from pipeline.serving.agent import Actor
from pipeline.serving.arrays import as_tensor, check_bounds, check_outputs, numbers
from pipeline.serving.texts import TextPredictor, text_pairs

SERVED = Ticket(0, "serve", "test", 0, 0)
"""One fixed ticket: serving is deterministic."""


class Learner:
    """Holds theta; each ``adapt`` gives a predictor of its own and changes nothing here.

    Args:
        algorithm: the run's, on its network.
        theta: its meta-parameters.
        spec: that of the tasks of training.
        texts: what serves tasks of pairs of texts.
        preparation: what makes inputs of raw ones, such as pictures.
    """

    def __init__(
        self,
        algorithm: Algorithm[Any, Any],
        theta: MetaParams,
        spec: Spec,
        texts: TextTasks | None = None,
        preparation: Preparation | None = None,
    ) -> None:
        self.algorithm, self.theta, self.spec, self.texts = algorithm, theta, spec, texts
        self.preparation = preparation
        self.dtype = next(iter(next(iter(theta.values())).values())).dtype
        self._rng = SERVED.rng("noise")

    def adapt(self, support_x: Any = None, support_y: Any = None) -> Any:
        """A predictor for the task of this support set.

        Args:
            support_x: inputs [N, *input], anything that ``numpy.asarray`` takes, in the range of the training inputs;
                or N pictures of any sizes: paths, files' bytes, PIL images, or arrays of uint8 [H, W], [H, W, 3] or
                [H, W, 4], which are prepared as ingest prepared the training pictures; of a language N texts, or N
                pairs of texts; of an agent's world a list of episodes, each (observations, actions, rewards), or
                nothing for the agent before any experience.
            support_y: N labels of any hashable kind, or values [N, outputs] for a regression; of a language N texts, or
                nothing beside pairs.

        Returns:
            A ``Predictor``, for a language a ``TextPredictor``, for an agent an ``Actor``.

        Raises:
            DataError: shapes or values that do not fit; more classes than the head has outputs.

        >>> import pipeline
        >>> learner = pipeline.load("runs/first")
        >>> predictor = learner.adapt(support_x=[[-1.0], [0.5]], support_y=[[0.8], [-0.4]])
        """
        if self.texts is not None:
            language = self.texts.language(*text_pairs(support_x, support_y))
            return TextPredictor(language, self._adapted(language.support, 1), self.algorithm)
        if isinstance(self.algorithm, Agent):
            if support_y is not None:
                raise DataError("support_y: an agent has none; give episodes of (observations, actions, rewards)")
            actor = Actor(self.algorithm, self.algorithm.begin(self.theta), self.spec, self.dtype, self._rng)
            return actor if support_x is None else actor.adapt(support_x)
        x = self.inputs(support_x, "support_x")
        labels, y = self._targets(support_y, len(x))
        # As in training, a sequence is read in the given order, each label after its answer. What is given together is
        # one of the sets that come one after the other.
        every: dict[type, tuple[Tensor, ...]] = {
            Points: (torch.ones(len(x), dtype=self.dtype),),
            Sets: (torch.zeros(len(x), dtype=torch.int64),),
        }
        support = self.spec.data(x, y, *every.get(self.spec.data, ()))
        return Predictor(self, self._adapted(support, max(len(labels), 1)), labels)

    def _adapted(self, support: Any, ways: int) -> Any:
        drawn = self.algorithm.draw(SERVED.rng("noise"), Task("serve", support, support, ways), "serve")
        with torch.no_grad():
            return self.algorithm.adapt(self.theta, support, Context(0, "serve", ways, cast(drawn, self.dtype)))

    def inputs(self, values: Any, name: str) -> Tensor:
        """``values`` as a tensor [N, *input] of theta's dtype; integers stay integers where the tasks' inputs are."""
        expected = f"expected (N, {', '.join(map(str, self.spec.input_shape))}) with N >= 1"
        if self.preparation is not None and self.preparation.takes(values):
            values = self.preparation.prepare(values, name)
        array = numbers(values, name, expected)
        if array.ndim != 1 + len(self.spec.input_shape) or array.shape[1:] != self.spec.input_shape or not len(array):
            raise DataError(f"{name}: shape {array.shape}, {expected}")
        if not self.spec.integers:
            check_bounds(array, name, self.spec.bounds)
            return as_tensor(array, self.dtype, name)
        if not np.issubdtype(array.dtype, np.integer):
            raise DataError(f"{name}: dtype {array.dtype}, expected whole numbers, as the tasks of training have them")
        return torch.from_numpy(np.array(array))

    def _targets(self, values: Any, rows: int) -> tuple[abc.Sequence[Hashable], Tensor]:
        if not hasattr(values, "__len__") or len(values) != rows:
            found = f"{len(values)} labels" if hasattr(values, "__len__") else repr(values)
            raise DataError(f"support_y: {found} for {rows} rows of support_x; expected one for each")
        if self.spec.targets == "values":
            expected = f"expected finite values ({rows}, {self.spec.outputs})"
            array = numbers(values, "support_y", expected).reshape(rows, -1)
            if array.shape[1] != self.spec.outputs:
                raise DataError(f"support_y: shape {np.shape(values)}, {expected}")
            return [], as_tensor(array, self.dtype, "support_y")
        if self.spec.tokens is not None:
            expected = f"expected tokens ({rows}, {self.spec.tokens.target_length}), whole numbers"
            array = numbers(values, "support_y", expected)
            if array.shape != (rows, self.spec.tokens.target_length) or not np.issubdtype(array.dtype, np.integer):
                raise DataError(f"support_y: shape {array.shape} and dtype {array.dtype}, {expected}")
            return [], torch.from_numpy(np.array(array, np.int64))
        given = [
            value.item() if isinstance(value, np.generic | Tensor) and np.ndim(value) == 0 else value
            for value in values
        ]
        odd = [value for value in given if not _can_be_label(value)]
        if odd:
            raise DataError(f"support_y: {odd[0]!r} cannot be a label; expected one text or number for each row")
        labels = list(dict.fromkeys(given))
        if self.algorithm.needs.head and self.spec.targets == "slots" and len(labels) > self.spec.outputs:
            raise DataError(
                f"support_y: {len(labels)} classes, but this model was trained with a head of {self.spec.outputs}"
            )
        return labels, torch.tensor([labels.index(label) for label in given])


class Predictor:
    """One task's adapted value. ``labels`` are the support set's, in order of first appearance."""

    def __init__(self, learner: Learner, adapted: Any, labels: abc.Sequence[Hashable]) -> None:
        self.learner, self.adapted, self.labels = learner, adapted, labels

    def outputs(self, x: Any) -> np.ndarray:
        """Raw outputs for inputs x [N, *input].

        Returns:
            Logits [N, classes] in the order of ``labels``, or values [N, outputs] of a regression; of a neural process
            the means, and beside them the deviations, [N, 2 · outputs]; of a transduction tokens [N, T].

        Raises:
            DataError: x has another shape, or values that are not finite.

        >>> import pipeline
        >>> predictor = pipeline.load("runs/first").adapt([[-1.0], [0.5]], [[0.8], [-0.4]])
        >>> predictor.outputs([[1.0], [1.5], [2.0]]).shape
        (3, 1)
        """
        with torch.no_grad():
            answer = self.learner.algorithm.predict(self.adapted, self.learner.inputs(x, "x"))
        return check_outputs(answer[:, : len(self.labels)] if self.labels else answer).numpy()

    def probabilities(self, x: Any) -> np.ndarray:
        """The probability of each label for inputs x [N, *input].

        Returns:
            [N, classes] in the order of ``labels``: the softmax of ``outputs``, as the loss of training has it.

        Raises:
            DataError: x has another shape, or values that are not finite; or the tasks have no labels.

        >>> import pipeline
        >>> predictor = pipeline.load("runs/images").adapt(support_x, ["oak", "elm"])  # doctest: +SKIP
        >>> predictor.probabilities(x).sum(1)  # doctest: +SKIP
        """
        if not self.labels:
            raise DataError(
                "support_y: these tasks have no labels, and so no probabilities; predict gives their values"
            )
        return self.shares(self.outputs(x))

    def shares(self, outputs: np.ndarray) -> np.ndarray:
        """The probabilities that outputs [N, classes] stand for."""
        return torch.softmax(torch.from_numpy(outputs).double(), 1).numpy()

    def predict(self, x: Any) -> Any:
        """Answers for inputs x [N, *input].

        Returns:
            A list of N labels, as the support set names them; for a regression what ``outputs`` gives.

        Raises:
            DataError: x has another shape, or values that are not finite.

        >>> import pipeline
        >>> predictor = pipeline.load("runs/first").adapt([[-1.0], [0.5]], [[0.8], [-0.4]])
        >>> predictor.predict([[1.0], [1.5], [2.0]]).shape
        (3, 1)
        """
        answer = self.outputs(x)
        return [self.labels[slot] for slot in answer.argmax(1)] if self.labels else answer

    @property
    def cell(self) -> tuple[str, ...]:
        """The op that this task's architecture has on each edge, of a mixture the one with the largest share.

        Raises:
            ConfigError: the run searched no architecture.
        """
        algorithm = self.learner.algorithm
        if not isinstance(algorithm, Searches):
            raise ConfigError(f"algorithm.name: {type(algorithm).__name__} searches no architecture; tnas does")
        return algorithm.cell(self.adapted)


def _can_be_label(value: Any) -> bool:
    missing = value is None or value != value  # only a nan differs from itself
    return isinstance(value, Hashable) and not isinstance(value, Tensor) and not missing


def refuse_transductive(mode: str) -> None:
    """Raises ``ConfigError`` for a mode whose answers depend on the other rows of the request."""
    if mode == "transductive":
        raise ConfigError(
            "normalisation: this run is transductive, so a row's answer depends on the other rows asked with it; "
            "load it with normalisation='support', or with normalisation='transductive' if that is what you want"
        )
