"""What the methods share that adapt by reading: all but what reads.

A support set is read in random order, each label with its example: (x_1, y_1), (x_2, y_2) … Queries are answered from
the state after it, (x, 0), each by itself; nothing is written. In a sequence each label comes one step late, (x_1, 0),
(x_2, y_1) …, and every step is judged. Shapes: T steps, I inputs (features and label), Y outputs, A width of an answer.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, ClassVar, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from pipeline.core.algorithm import Differentiable
from pipeline.core.failures import ConfigError
from pipeline.core.types import Batch, Context, Kind, MetaParams, Params, Phase, Score, Sequence, Task
from pipeline.nets.losses import Loss
from pipeline.nets.model import Model
from pipeline.nets.net import fan_in_normal
from pipeline.nets.normalisation import BATCH_MODES

HEAD = "head/"


class Reader(Protocol):
    """Reads one input after the other; holds shapes, never weights. ``width`` is that of an answer [A]."""

    width: int

    def init(self, rng: np.random.Generator) -> Params: ...

    def start(self, params: Params) -> Any:
        """The state of nothing read yet."""
        ...

    def see(self, params: Params, inputs_TI: Tensor) -> Tensor:
        """Of each input what does not depend on the state, [T, …]: all at once, which is fast."""
        ...

    def answer(self, params: Params, seen: Tensor, state: Any) -> Tensor:
        """The answer to an input, without reading it."""
        ...

    def read(self, params: Params, seen: Tensor, state: Any) -> tuple[Tensor, Any]:
        """The answer to an input, and the state after it."""
        ...


class Read(NamedTuple):
    """The weights, the state after the support set, and the label [Y] that the next input comes with: 0 for none."""

    phi: Params
    state: Any
    label: Tensor


class Reading(Differentiable[Batch | Sequence, Read]):
    """The network embeds; a reader of ``config`` reads features and labels; a linear head reads its answers.

    Raises:
        ConfigError: a normalisation by statistics of examples that were not shown yet.
    """

    kinds: ClassVar[frozenset[Kind]] = frozenset({"classification", "regression", "sequence"})
    head: ClassVar[bool] = True

    def __init__(self, config: Any, model: Model, loss: Loss) -> None:
        if model.mode in BATCH_MODES:
            raise ConfigError(
                f"normalisation: {model.mode!r} looks at examples that a sequence has not shown yet;"
                f" {type(self).__name__} takes none, layer or group"
            )
        assert model.net.outputs is not None, "built with a head, so the network knows its outputs"
        self.config, self.model, self.loss, self.outputs = config, model, loss, model.net.outputs
        self.reader = self.make_reader(model.net.features + self.outputs)

    @abstractmethod
    def make_reader(self, inputs: int) -> Reader:
        """What reads inputs [I]."""

    def init(self, rng: np.random.Generator) -> MetaParams:
        # The head stands on the reader's answers, not on the network's features.
        body = {name: leaf for name, leaf in self.model.init(rng).items() if not name.startswith(HEAD)}
        width = self.reader.width
        head = {
            f"{HEAD}weight": fan_in_normal(rng, (self.outputs, width), width, 1.0),
            f"{HEAD}bias": torch.zeros(self.outputs),
        }
        return {"model": body | self.reader.init(rng) | head}

    def draw(self, rng: np.random.Generator, task: Task[Batch | Sequence], phase: Phase) -> Params:
        if isinstance(task.support, Sequence):
            return {}
        return {"order": torch.from_numpy(rng.permutation(len(task.support.x)))}

    def adapt(self, theta: MetaParams, support: Batch | Sequence, context: Context) -> Read:
        phi, (x, y) = theta["model"], support
        nothing = Read(phi, self.reader.start(phi), phi[f"{HEAD}bias"].new_zeros(self.outputs))
        if not len(x):
            return nothing
        if isinstance(support, Sequence):
            return self._read(nothing, x, y)[1]
        order = context.noise["order"]
        return nothing._replace(state=self._run(nothing, x[order], self._labels(y, nothing.label)[order])[1])

    def predict(self, adapted: Read, x: Tensor) -> Tensor:
        phi, state, label = adapted
        seen = self.reader.see(phi, self._inputs(phi, x, label.expand(len(x), -1)))
        answers = torch.func.vmap(lambda one: self.reader.answer(phi, one, state))(seen)
        return self._read_out(phi, answers)

    def score(self, adapted: Read, query: Batch | Sequence, context: Context) -> Score:
        if not isinstance(query, Sequence):
            return self.loss(self.predict(adapted, query.x), query.y)
        logits = self._read(adapted, query.x, query.y)[0]
        score = self.loss(logits, query.y)
        return score._replace(metrics=score.metrics | accuracy_by_instance(logits.detach(), query.y, context.ways))

    def _read(self, before: Read, x: Tensor, y: Tensor) -> tuple[Tensor, Read]:
        """Outputs [T, Y] at each step, each before its label is shown, and what is known after the last."""
        labels = torch.cat([before.label.unsqueeze(0), self._labels(y, before.label)])
        outputs, state = self._run(before, x, labels[:-1])
        return outputs, Read(before.phi, state, labels[-1])

    def _run(self, before: Read, x: Tensor, labels_TY: Tensor) -> tuple[Tensor, Any]:
        """Outputs [T, Y] at each step, and the state after the last."""
        phi, state, _ = before
        seen = self.reader.see(phi, self._inputs(phi, x, labels_TY))
        answers = []
        for one in seen.unbind():
            answer, state = self.reader.read(phi, one, state)
            answers.append(answer)
        return self._read_out(phi, torch.stack(answers)), state

    def _inputs(self, phi: Params, x: Tensor, labels_TY: Tensor) -> Tensor:
        return torch.cat([self.model.embed(phi, x), labels_TY], -1)

    def _labels(self, y: Tensor, like: Tensor) -> Tensor:
        """Slots as one-hot rows, values as they are."""
        slots = torch.arange(self.outputs, device=y.device)
        return (y.unsqueeze(-1) == slots).to(like.dtype) if y.dim() == 1 else y

    def _read_out(self, phi: Params, answers: Tensor) -> Tensor:
        return answers @ phi[f"{HEAD}weight"].T + phi[f"{HEAD}bias"]


def accuracy_by_instance(logits_TC: Tensor, y_T: Tensor, ways: int) -> Params:
    """``accuracy_k``: the share of right answers to what is the k-th of its class in the sequence; 0 where none is."""
    earlier = torch.ones(len(y_T), len(y_T), dtype=torch.int64, device=y_T.device).tril(-1)
    instance_T = ((y_T.unsqueeze(1) == y_T.unsqueeze(0)) * earlier).sum(1)
    right_T = (logits_TC.argmax(-1) == y_T).to(logits_TC.dtype)
    shares = {}
    for k in range(len(y_T) // ways):
        is_kth_T = instance_T == k
        shares[f"accuracy_{k + 1}"] = (is_kth_T * right_T).sum() / is_kth_T.sum().clamp_min(1)
    return shares
