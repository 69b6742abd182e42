"""The contract of a network: a pure function of its parameters."""

from __future__ import annotations

import copy
import math
from abc import ABC, abstractmethod
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from pipeline.core.source import Spec
from pipeline.core.types import Batch, Params, Points, Sets, Stream
from pipeline.nets.normalisation import Normaliser


class Net(ABC):
    """Holds shapes, never weights. Built with the shape of one input, the width of its output and whether its hidden
    layers are normalised; ``outputs=None`` asks for an embedding without a head."""

    Config: ClassVar[type[Any]]
    takes: ClassVar[tuple[type, ...]] = (Batch, Stream, Sets, Points)
    """The types of the sets of examples that it reads."""
    outputs: int | None
    feature_shape: tuple[int, ...]
    """What ``embed`` flattens: (features,), or the (channels, height, width) of a map."""

    @property
    def features(self) -> int:
        """The width of the embedding."""
        return math.prod(self.feature_shape)

    @abstractmethod
    def __init__(self, config: Any, input_shape: tuple[int, ...], outputs: int | None, *, normalised: bool) -> None: ...

    @classmethod
    def for_tasks(cls, config: Any, spec: Spec, *, head: bool, normalised: bool) -> Net:
        """The network for tasks of ``spec``. Raises ``ConfigError`` where it does not fit them."""
        return cls(config, spec.input_shape, spec.outputs if head else None, normalised=normalised)

    @abstractmethod
    def init(self, rng: np.random.Generator) -> Params:
        """Fresh leaves. A bias stands after a normalisation, never before: there its gradient is only rounding."""

    @abstractmethod
    def embed(self, params: Params, x: Tensor, normalise: Normaliser) -> Tensor:
        """The body: [N, *input] -> [N, features]."""

    def reads(self, data: Any) -> Any:
        """What a forward pass reads of a set of examples: its inputs, or more where its outputs depend on more."""
        return data.x

    def answer(self, params: Params, x: Tensor, normalise: Normaliser) -> Tensor:
        """What is answered for inputs [N, *input]. Default: the outputs."""
        return self(params, x, normalise)

    def is_adapted(self, leaf: str) -> bool:
        """Whether an inner loop changes the leaf of this name. Default: each one."""
        return True

    def draw_masks(self, rng: np.random.Generator, rows: int) -> Params:
        """Dropout masks ``dropout/NAME`` for at most ``rows`` examples. Default: no dropout, no masks."""
        return {}

    def draw_inner_masks(self, rng: np.random.Generator, rows: int) -> Params:
        """The same for one inner step at evaluation. Default: none, an evaluation drops nothing."""
        return {}

    def read_out(self, params: Params, features: Tensor) -> Tensor:
        """The head, the leaves ``head/…``: linear, or nothing at all without ``outputs``."""
        return features if self.outputs is None else features @ params["head/weight"].T + params["head/bias"]

    def __call__(self, params: Params, x: Tensor, normalise: Normaliser) -> Tensor:
        """[N, *input] -> [N, outputs], or [N, features]."""
        return self.read_out(params, self.embed(params, x, normalise))

    def body(self) -> Net:
        """The same network without its head: its outputs are the features. Raises ``ConfigError`` where it has none."""
        net = copy.copy(self)
        net.outputs = None
        return net

    def init_head(self, rng: np.random.Generator, features: int) -> Params:
        """Fresh leaves of the head."""
        if self.outputs is None:
            return {}
        weight = fan_in_normal(rng, (self.outputs, features), features, 1.0)
        return {"head/weight": weight, "head/bias": torch.zeros(self.outputs)}


def fan_in_normal(rng: np.random.Generator, shape: tuple[int, ...], fan_in: int, gain: float = 2.0) -> Tensor:
    """N(0, gain / fan_in): He et al. (arXiv 1502.01852, eq. 10) with gain 2 before a ReLU."""
    return torch.from_numpy(rng.normal(0.0, math.sqrt(gain / fan_in), size=shape))
