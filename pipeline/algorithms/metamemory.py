"""A lasting memory: classes of earlier tasks correct the embeddings of the present one.

Kaiser, Nachum, Roy, Bengio: Learning to Remember Rare Events, arXiv 1703.03129. Their memory maps keys to labels and
lasts for all of training, since their labels do. Here a label is a slot, which means something inside one task only; so
there are two memories, both written by their rule of hit, miss and age (``nets/memory/keyvalue``):

* The *episode's* begins empty with each task, maps embeddings to slots, and answers by a softmax over the nearest, at
  sharpness 40. As published is the memory loss [cos(q, nearest wrong) - cos(q, nearest right) + alpha]+. Other than
  published: the answers' cross-entropy is added to it (theirs is the memory loss alone); only queries are judged, not
  support examples as they are written; the gradient flows into stored keys too, as all belong to one task; and no
  class loses its last slot, so that each one can be the answer. The support set is written in random order.
* The *lasting* one is a state group of theta. Its keys are support means of classes of earlier tasks, its values what
  those classes turned out to be: the means of their query embeddings. Each embedding z of a task looks it up, and
  becomes z + W r with a learned W. After a step ``fold`` writes the classes of all its tasks, one after the other. A
  hit is a cosine of ``same`` or more, as there are no labels to compare; ``forgetting`` says which slot is evicted on a
  miss.

Shapes: N support, Q query, C ways, D embedding, M slots, K nearest.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal, NamedTuple

import numpy as np
import torch
from annotated_types import Gt, Le
from torch import Tensor

from pipeline.core.algorithm import Differentiable
from pipeline.core.bounds import Count, Rate
from pipeline.core.effects import OnlyWith
from pipeline.core.failures import ConfigError
from pipeline.core.losses import LossFunction
from pipeline.core.network import Adapted, Network
from pipeline.core.types import About, Batch, Context, MetaParams, Needs, Params, Phase, Score, Task
from pipeline.nets.memory.cycle import Answered
from pipeline.nets.memory.forgetting import FORGETTING, LeastRecentlyUsed
from pipeline.nets.memory.keyvalue import ABSENT, NEVER, Code, Found, KeyValue, attention, empty
from pipeline.nets.net import fan_in_normal


@dataclass(frozen=True)
class MetaMemoryConfig:
    """The memory of a task and the one that lasts.

    ``forgetting: gate`` is no choice: ``fold`` has no gradient to learn it by.

    Attributes:
        slots: Slots of the lasting memory.
        same: The cosine from which on a class counts as one that is stored.
        forgetting: Which slot of the lasting memory is evicted on a miss.
        keep: The share of the content that stays at each step under ``forgetting: decay``.
        episode_slots: Slots of a task's memory; more classes and surprises than that lose the oldest of those whose
            class has another slot. A task of as many classes or more has one slot more than it has classes.
        nearest: How many of the nearest keys answer a query.
        sharpness: Inverse temperature of the softmax over them.
        margin: Alpha of the published memory loss.
    """

    slots: Count = 256
    same: Annotated[float, Gt(-1), Le(1)] = 0.95
    forgetting: Literal["lru", "none", "decay", "importance"] = "lru"
    keep: Annotated[float, Gt(0), Le(1), OnlyWith("forgetting", "decay")] = 0.99
    episode_slots: Count = 32
    nearest: Count = 256
    sharpness: Rate = 40.0
    margin: Rate = 0.1


class Episode(KeyValue):
    """The task's memory: values are labels [C], one-hot; the answer is a logit for each class."""

    def __init__(self, nearest: int, sharpness: float) -> None:
        super().__init__(LeastRecentlyUsed())
        self.nearest, self.sharpness = nearest, sharpness

    def right(self, code: Code, nearest: Tensor, value: Tensor) -> Tensor:
        return (code.value == value).all()

    def forget(self, params: Params, state: Params) -> Params:
        """The oldest slot of a class with several is evicted: there is one, as there are more slots than classes."""
        of_its_class_M = state["values"] @ state["values"].sum(0)
        spared = state | {"age": torch.where(of_its_class_M > 1, state["age"], -1.0)}
        return super().forget(params, spared) | {"age": state["age"]}

    def integrate(self, params: Params, code: Code, found: Found) -> Tensor:
        """log of the sums of exp(sharpness · cosine) over the nearest slots of each class: [..., C]."""
        top = found.cosine.topk(min(self.nearest, found.cosine.shape[-1]))
        of_KC = found.values[top.indices]
        return torch.where(of_KC > 0, self.sharpness * top.values.unsqueeze(-1), NEVER).logsumexp(-2)


class Lasting(KeyValue):
    """Of classes of earlier tasks; the answer is the vector and W times what they say it becomes."""

    def __init__(self, config: MetaMemoryConfig) -> None:
        super().__init__(FORGETTING[config.forgetting](config.keep))
        self.same = config.same

    def right(self, code: Code, nearest: Tensor, value: Tensor) -> Tensor:
        return nearest >= self.same

    def integrate(self, params: Params, code: Code, found: Found) -> Tensor:
        recalled = attention(found.cosine, params["sharpness"]) @ found.values
        return code.vector + recalled @ params["weight"].T


class Remembered(NamedTuple):
    """The task's memory, the lasting one with the weights that integrate it, support means [C, D] and the encoder."""

    episode: Params
    lasting: Params
    integrate: Params
    means: Tensor
    encoder: Adapted


class MetaMemory(Differentiable[Batch, Remembered]):
    """p(class | x) ~ Σ exp(40 cos(q, key)) over the nearest keys of the class, with q = z + W Σ a_m value_m.

    Raises:
        ConfigError: ``normalisation: running``: embeddings of training and of evaluation would not be the same.
    """

    Config: ClassVar[type[MetaMemoryConfig]] = MetaMemoryConfig
    about: ClassVar[About] = About("memory", "Kaiser et al. 2017, arXiv 1703.03129")
    needs: ClassVar[Needs] = Needs(data=(Batch,), targets=("slots",), head=False)
    state_groups = frozenset({"memory"})

    def __init__(self, config: MetaMemoryConfig, model: Network, loss: LossFunction) -> None:
        if model.mode == "running":
            raise ConfigError("normalisation: MetaMemory gathers no 'running' moments; use support or transductive")
        super().__init__(config, model, loss)
        self.episode, self.lasting = Episode(config.nearest, config.sharpness), Lasting(config)

    def init(self, rng: np.random.Generator) -> MetaParams:
        params = self.model.init(rng)
        some = next(iter(params.values()))
        width = self.model.embed(params, some.new_zeros(2, *self.model.input_shape)).shape[1]
        # Small, so that training begins as it would without the lasting memory.
        integrate = {
            "weight": fan_in_normal(rng, (width, width), width, 1e-4),
            "sharpness": torch.tensor(10.0, dtype=torch.float64),
        }
        return {"model": params, "integrate": integrate, "memory": empty(self.config.slots, width, width, some)}

    def draw(self, rng: np.random.Generator, task: Task[Batch], phase: Phase) -> Params:
        return {"order": torch.from_numpy(rng.permutation(len(task.support.x)))}

    def adapt(self, theta: MetaParams, support: Batch, context: Context) -> Remembered:
        phi, lasting, integrate = theta["model"], theta["memory"], theta["integrate"]
        z_ND = self.model.embed(phi, support.x)
        member_NC = torch.eye(context.ways, dtype=z_ND.dtype, device=z_ND.device)[support.y]
        joined_ND = self.lasting.look(integrate, z_ND, lasting).answer
        nothing = empty(max(self.config.episode_slots, context.ways + 1), z_ND.shape[1], context.ways, z_ND)
        rows = torch.cat([joined_ND, member_NC], 1)[context.noise["order"]]
        episode = self.episode.write({}, rows, nothing)
        return Remembered(episode, lasting, integrate, _means(z_ND, member_NC), self.model.adapted(phi, support.x))

    def predict(self, adapted: Remembered, x: Tensor) -> Tensor:
        return self._ask(adapted, self.model.predict(adapted.encoder, x)).answer

    def score(self, adapted: Remembered, query: Batch, context: Context) -> Score:
        z_QD = self.model.predict(adapted.encoder, query.x)
        seen = self._ask(adapted, z_QD)
        member_QC = torch.eye(context.ways, dtype=z_QD.dtype, device=z_QD.device)[query.y]
        answers = self.loss(seen.answer, query.y)
        loss = answers.loss + triplet(seen.found, member_QC, self.config.margin)
        records = {"classes": torch.cat([adapted.means, _means(z_QD, member_QC)], 1).detach()}
        return answers._replace(loss=loss, records=records)

    def fold(self, theta: MetaParams, records: list[Params]) -> MetaParams:
        """The lasting memory after all classes of all used tasks, one after the other."""
        memory = theta["memory"]
        for record in records:
            memory = self.lasting.write(theta["integrate"], record["classes"], memory)
        return {"memory": memory}

    def _ask(self, adapted: Remembered, z_QD: Tensor) -> Answered[Code, Found]:
        joined_QD = self.lasting.look(adapted.integrate, z_QD, adapted.lasting).answer
        return self.episode.look({}, joined_QD, adapted.episode)


def triplet(found: Found, member_QC: Tensor, margin: float) -> Tensor:
    """Mean over queries of [cos(q, nearest wrong key) - cos(q, nearest right key) + margin]+."""
    right_QM, held_QM = member_QC @ found.values.T > 0, found.cosine > ABSENT
    nearest_right_Q = torch.where(right_QM, found.cosine, ABSENT).amax(-1)
    nearest_wrong_Q = torch.where(held_QM & ~right_QM, found.cosine, ABSENT).amax(-1)
    return torch.relu(nearest_wrong_Q - nearest_right_Q + margin).mean()


def _means(z_ND: Tensor, member_NC: Tensor) -> Tensor:
    return (member_NC.T @ z_ND) / member_NC.sum(0).clamp_min(1).unsqueeze(1)
