"""Memory-based methods: a sequence model reads a task, and its state answers the queries.

An input is an example to be answered and, beside it, one that is shown with its label. In a sequence that is the one
before: (x_1; 0, 0), (x_2; x_1, y_1) … So each label comes one step late, as published. Its example comes with it:
without it the sequence model has to keep the example for a step, and MANN bound nothing on Omniglot within 25,000
sequences. Every step is scored. Published is the label alone beside the next example, (x_2; y_1): ``previous: label``.

A support set is read in random order, each example with its own label at the same step, and no label comes late:
(x_1; 0, y_1), (x_2; 0, y_2) … Queries are answered from the state after it, (x; 0, 0), each by itself, and nothing is
written. Support sets that come one after the other are read so, each of them in random order.

Shapes: T steps, F features, I inputs (one or two examples and a label), Y outputs, A width of an answer.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, NamedTuple, Protocol, final

import numpy as np
import torch
from torch import Tensor

from pipeline.core.algorithm import Differentiable, MemoryWeights
from pipeline.core.batches import rows_of_sets
from pipeline.core.inner import last
from pipeline.core.losses import LossFunction
from pipeline.core.network import HEAD, Network
from pipeline.core.types import Batch, Context, MetaParams, Needs, Params, Phase, Score, Sets, Stream, Task
from pipeline.nets.memory.reader import MemoryReader
from pipeline.nets.net import fan_in_normal
from pipeline.nets.normalisation import refuse_batches

Support = Batch | Stream | Sets
"""What can be read."""


@dataclass(frozen=True, kw_only=True)
class ReadingConfig:
    """``previous``: what of the example before stands beside an example of a sequence.

    ``example`` is that example with its label; ``label`` is its label alone, as published.
    """

    previous: Literal["example", "label"] = "example"


class SequenceModel(Protocol):
    """Reads one input after the other; holds shapes, never weights. ``width`` is that of an answer [A]."""

    width: int

    def init(self, rng: np.random.Generator) -> Params: ...

    def start(self, params: Params) -> Any:
        """The state before the first input."""
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


class MemoryState(NamedTuple):
    """The weights, the state after what was read, and what the next input is shown beside it: 0 for nothing.

    ``labels`` are those of all that was read, in order.
    """

    phi: Params
    state: Any
    shown: Tensor
    labels: Tensor


class MemoryBased(Differentiable[Support, MemoryState]):
    """The network embeds; a sequence_model of ``config`` reads features and labels; a linear head reads its answers.

    ``config`` is a ``ReadingConfig``.

    Raises:
        ConfigError: a normalisation by statistics of examples that were not shown yet.
    """

    needs: ClassVar[Needs] = Needs(data=(Batch, Stream, Sets), targets=("slots", "values"), head=True)

    def __init__(self, config: Any, model: Network, loss: LossFunction) -> None:
        refuse_batches(model.mode, f"{type(self).__name__} sees one example of a sequence at a time")
        assert model.net.outputs is not None, "built with a head, so the network knows its outputs"
        super().__init__(config, model, loss)
        self.outputs: int = model.net.outputs
        self.beside = self.outputs + (model.net.features if config.previous == "example" else 0)
        self.sequence_model = self.make_sequence_model(model.net.features + self.beside)

    @abstractmethod
    def make_sequence_model(self, inputs: int) -> SequenceModel:
        """What reads inputs [I]."""

    @final
    def init(self, rng: np.random.Generator) -> MetaParams:
        # The head stands on the sequence_model's answers, not on the network's features.
        body = {name: leaf for name, leaf in self.model.init(rng).items() if not name.startswith(HEAD)}
        width = self.sequence_model.width
        head = {
            f"{HEAD}weight": fan_in_normal(rng, (self.outputs, width), width, 1.0),
            f"{HEAD}bias": torch.zeros(self.outputs),
        }
        return {"model": body | self.sequence_model.init(rng) | head}

    @final
    def draw(self, rng: np.random.Generator, task: Task[Support], phase: Phase) -> Params:
        rows = len(task.support.x) + len(task.query.x)
        if isinstance(task.support, Stream):
            return self.model.draw(rng, rows, phase)
        if isinstance(task.support, Sets):
            order = torch.from_numpy(rng.permuted(rows_of_sets(task.support).numpy(), axis=1))
        else:
            order = torch.from_numpy(rng.permutation(len(task.support.x)))
        return {"order": order} | self.model.draw(rng, rows, phase)

    def adapt(self, theta: MetaParams, support: Support, context: Context) -> MemoryState:
        return last(self._states(theta, support, context))

    def trace(self, theta: MetaParams, support: Support, context: Context) -> Iterable[MemoryState]:
        """Before and after each of ``Sets``; of another support set, after all of it."""
        states = self._states(theta, support, context)
        return states if isinstance(support, Sets) else (last(states),)

    def milestones(self, context: Context) -> Sequence[int]:
        """The ends of support sets that come one after the other."""
        order = context.noise.get("order", torch.empty(0))
        return range(1, len(order) + 1) if order.dim() == 2 else ()

    def _states(self, theta: MetaParams, support: Support, context: Context) -> Iterator[MemoryState]:
        """What is known before the support set, and after each part of it."""
        phi, x, y = theta["model"] | self.model.masks(context.noise), support.x, support.y
        nothing_shown = phi[f"{HEAD}bias"].new_zeros(self.beside)
        before = MemoryState(phi, self.sequence_model.start(phi), nothing_shown, y[:0])
        yield before
        if not len(x):
            return
        if isinstance(support, Stream):
            yield self._read(before, x, y)[1]
            return
        order = context.noise["order"]
        for rows in order.reshape(-1, order.shape[-1]):
            features = self.model.embed(phi, x[rows])
            inputs = torch.cat([features, self._shown(torch.zeros_like(features), y[rows])], -1)
            state = self._run(before, inputs)[1]
            before = before._replace(state=state, labels=torch.cat([before.labels, y[rows]]))
            yield before

    def memory_weights(self, theta: MetaParams, task: Task[Support], context: Context) -> MemoryWeights | None:
        """Where the sequence model reads and writes while it reads a task's support set, and after it a sequence."""
        model = self.sequence_model
        if not isinstance(model, MemoryReader):
            return None
        phi, support = theta["model"] | self.model.masks(context.noise), task.support
        if isinstance(support, Stream):
            x, y = torch.cat([support.x, task.query.x]), torch.cat([support.y, task.query.y])
            features = self.model.embed(phi, x)
            shown = self._shown(features, y)
            beside = torch.cat([torch.zeros_like(shown[:1]), shown[:-1]])
        else:
            rows = context.noise["order"].flatten()
            y, features = support.y[rows], self.model.embed(phi, support.x[rows])
            beside = self._shown(torch.zeros_like(features), y)
        state, weights = model.start(phi), []
        for one in model.see(phi, torch.cat([features, beside], -1)).unbind():
            weights.append(model.weights(phi, one, state))
            state = model.read(phi, one, state)[1]
        read, written = (torch.stack(part) for part in zip(*weights, strict=True))
        return MemoryWeights(read, written, y)

    def predict(self, adapted: MemoryState, x: Tensor) -> Tensor:
        phi, state, shown, _ = adapted
        inputs = torch.cat([self.model.embed(phi, x), shown.expand(len(x), -1)], -1)
        answers = torch.func.vmap(lambda one: self.sequence_model.answer(phi, one, state))(
            self.sequence_model.see(phi, inputs)
        )
        return self._read_out(phi, answers)

    def score(self, adapted: MemoryState, query: Support, context: Context) -> Score:
        if not isinstance(query, Stream):
            return self.loss(self.predict(adapted, query.x), query.y)
        logits = self._read(adapted, query.x, query.y)[0]
        score = self.loss(logits, query.y)
        by_instance = accuracy_by_instance(logits.detach(), query.y, context.ways, adapted.labels)
        return score._replace(metrics=score.metrics | by_instance)

    def _read(self, before: MemoryState, x: Tensor, y: Tensor) -> tuple[Tensor, MemoryState]:
        """Outputs [T, Y] at each step, each before its label is shown, and what is known after the last."""
        features = self.model.embed(before.phi, x)
        examples = self._shown(features, y)
        shown = torch.cat([before.shown.unsqueeze(0), examples[:-1]])
        outputs, state = self._run(before, torch.cat([features, shown], -1))
        return outputs, MemoryState(before.phi, state, examples[-1], torch.cat([before.labels, y]))

    def _run(self, before: MemoryState, inputs_TI: Tensor) -> tuple[Tensor, Any]:
        """Outputs [T, Y] at each step, and the state after the last."""
        phi, state = before.phi, before.state
        answers = []
        for one in self.sequence_model.see(phi, inputs_TI).unbind():
            answer, state = self.sequence_model.read(phi, one, state)
            answers.append(answer)
        return self._read_out(phi, torch.stack(answers)), state

    def _shown(self, features: Tensor, y: Tensor) -> Tensor:
        """Examples as they are shown beside another: slots are one-hot rows, values as they are."""
        slots = torch.arange(self.outputs, device=y.device)
        labels = (y.unsqueeze(-1) == slots).to(features.dtype) if y.dim() == 1 else y
        return torch.cat([features, labels], -1) if self.config.previous == "example" else labels

    def _read_out(self, phi: Params, answers: Tensor) -> Tensor:
        return answers @ phi[f"{HEAD}weight"].T + phi[f"{HEAD}bias"]


def accuracy_by_instance(logits_TC: Tensor, y_T: Tensor, ways: int, before_S: Tensor) -> Params:
    """``accuracy_k``: the share of right answers to what is the k-th of its class in the sequence; 0 where none is.

    ``before_S`` are the labels of the support set, which come first and are counted: after one shot of each class the
    first answer is to a second image.
    """
    support, y_L = len(before_S), torch.cat([before_S, y_T])
    earlier = torch.ones(len(y_L), len(y_L), dtype=torch.int64, device=y_L.device).tril(-1)
    instance_T = ((y_L.unsqueeze(1) == y_L.unsqueeze(0)) * earlier).sum(1)[support:]
    right_T = (logits_TC.argmax(-1) == y_T).to(logits_TC.dtype)
    shares = {}
    for k in range(support // ways, len(y_L) // ways):
        is_kth_T = instance_T == k
        shares[f"accuracy_{k + 1}"] = (is_kth_T * right_T).sum() / is_kth_T.sum().clamp_min(1)
    return shares
