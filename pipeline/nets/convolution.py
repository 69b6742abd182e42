"""Convolution of many tasks at once, right and fast to any order of derivative.

⟨conv(x, w), g⟩ is linear in the inputs x, the weights w and the outputs' gradient g. Its three partial maps are the
convolution, its gradient by x and its gradient by w, and the derivatives of each are the other two. So three functions
suffice for inner gradients, for Hessian-vector products and for what lies beyond.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from pipeline.nets.lift import Lift, channels_last
from pipeline.nets.primitive import Primitive

FEW_INPUTS = 32
"""With fewer weights to an output, the gradient by the weights is a matrix product; oneDNN takes thrice as long."""


class Geometry(NamedTuple):
    """How square kernels of ``size`` lie on inputs of ``sides`` [height, width]; both directions are alike."""

    stride: int
    padding: int
    size: int
    sides: tuple[int, int]
    groups: int


def conv2d(x: Tensor, weight: Tensor, stride: int = 1, padding: int = 0, groups: int = 1) -> Tensor:
    """[N, I, H, W] and a kernel [O, I / groups, K, K] -> [N, O, H', W'].

    >>> conv2d(torch.ones(1, 1, 3, 3), torch.ones(1, 1, 3, 3), padding=1)[0, 0].tolist()
    [[4.0, 6.0, 4.0], [6.0, 9.0, 6.0], [4.0, 6.0, 4.0]]
    """
    geometry = Geometry(stride, padding, weight.shape[-1], (x.shape[-2], x.shape[-1]), groups)
    out: Tensor = _Outputs.apply(x, weight, geometry)  # type: ignore[no-untyped-call]
    return out


class _Bilinear(Primitive):
    """A map of two tensors, linear in each; its backward pass needs both."""

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        first, second, ctx.geometry = inputs
        ctx.save_for_backward(first, second)


class _Outputs(_Bilinear):
    """conv(x, w)."""

    @staticmethod
    def forward(x: Tensor, w: Tensor, of: Geometry) -> Tensor:
        return F.conv2d(channels_last(x), channels_last(w), stride=of.stride, padding=of.padding, groups=of.groups)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        x, w = ctx.saved_tensors
        by_x, by_w, _ = ctx.needs_input_grad
        return (
            _ByInputs.apply(w, g, ctx.geometry) if by_x else None,
            _ByWeights.apply(x, g, ctx.geometry) if by_w else None,
            None,
        )

    @staticmethod
    def vmap(info: Any, dims: tuple[Any, ...], x: Tensor, w: Tensor, of: Geometry) -> tuple[Tensor, int]:
        lift = Lift(info.batch_size)
        if _folds(lift, x, w, dims[1], of):
            return lift.apart_rows(_Outputs.apply(lift.rows(x, dims[0]), w, of)), 0
        grouped = of._replace(groups=of.groups * lift.size)
        return lift.apart(_Outputs.apply(lift.channels(x, dims[0]), lift.rows(w, dims[1]), grouped)), 1


class _ByInputs(_Bilinear):
    """The gradient of ⟨conv(x, w), g⟩ by x."""

    @staticmethod
    def forward(w: Tensor, g: Tensor, of: Geometry) -> Tensor:
        x = _empty((len(g), of.groups * w.shape[1], *of.sides), g)
        return _gradients(g, x, w, of, [True, False, False])[0]

    @staticmethod
    def backward(ctx: Any, v: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        w, g = ctx.saved_tensors
        by_w, by_g, _ = ctx.needs_input_grad
        return (
            _ByWeights.apply(v, g, ctx.geometry) if by_w else None,
            _Outputs.apply(v, w, ctx.geometry) if by_g else None,
            None,
        )

    @staticmethod
    def vmap(info: Any, dims: tuple[Any, ...], w: Tensor, g: Tensor, of: Geometry) -> tuple[Tensor, int]:
        lift = Lift(info.batch_size)
        if _folds(lift, g, w, dims[0], of):
            return lift.apart_rows(_ByInputs.apply(w, lift.rows(g, dims[1]), of)), 0
        grouped = of._replace(groups=of.groups * lift.size)
        return lift.apart(_ByInputs.apply(lift.rows(w, dims[0]), lift.channels(g, dims[1]), grouped)), 1


class _ByWeights(_Bilinear):
    """The gradient of ⟨conv(x, w), g⟩ by w."""

    @staticmethod
    def forward(x: Tensor, g: Tensor, of: Geometry) -> Tensor:
        inputs, outputs = x.shape[1] // of.groups, g.shape[1]
        if inputs * of.size**2 < FEW_INPUTS:
            return _of_columns(x, g, of)
        return _gradients(g, x, _empty((outputs, inputs, of.size, of.size), g), of, [False, True, False])[1]

    @staticmethod
    def backward(ctx: Any, u: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        x, g = ctx.saved_tensors
        by_x, by_g, _ = ctx.needs_input_grad
        return (
            _ByInputs.apply(u, g, ctx.geometry) if by_x else None,
            _Outputs.apply(x, u, ctx.geometry) if by_g else None,
            None,
        )

    @staticmethod
    def vmap(info: Any, dims: tuple[Any, ...], x: Tensor, g: Tensor, of: Geometry) -> tuple[Tensor, int]:
        lift = Lift(info.batch_size)
        grouped = of._replace(groups=of.groups * lift.size)
        return lift.apart_rows(_ByWeights.apply(lift.channels(x, dims[0]), lift.channels(g, dims[1]), grouped)), 0


def _folds(lift: Lift, maps: Tensor, w: Tensor, dim: int | None, of: Geometry) -> bool:
    """Whether the tasks join the batch. Weights that all tasks share allow it.

    Maps are then copied into another order, and else the weights once for each task: a CPU copies what is less. A GPU
    convolves one large batch many times as fast as groups.
    """
    numbers = maps.numel() * of.stride**2 if maps.shape[-2:] != of.sides else maps.numel()
    return dim is None and (maps.is_cuda or lift.size * w.numel() > numbers)


def _of_columns(x: Tensor, g: Tensor, of: Geometry) -> Tensor:
    """The gradient by the weights as one matrix product for each group."""
    columns_NGKP = F.unfold(x, of.size, padding=of.padding, stride=of.stride).unflatten(1, (of.groups, -1))
    rows_RGO = g.permute(0, 2, 3, 1).flatten(0, 2).unflatten(1, (of.groups, -1))
    found_GKO = columns_NGKP.permute(1, 2, 0, 3).flatten(2) @ rows_RGO.transpose(0, 1)
    return found_GKO.mT.flatten(0, 1).unflatten(1, (-1, of.size, of.size))


def _gradients(g: Tensor, x: Tensor, w: Tensor, of: Geometry, wanted: list[bool]) -> tuple[Tensor, Tensor, Tensor]:
    found: tuple[Tensor, Tensor, Tensor] = torch.ops.aten.convolution_backward(
        channels_last(g), channels_last(x), channels_last(w), None, [of.stride] * 2, [of.padding] * 2, [1, 1], False,
        [0, 0], of.groups, wanted,
    )  # fmt: skip
    return found


def _empty(shape: tuple[int, ...], like: Tensor) -> Tensor:
    """Only its shape is read."""
    return torch.empty(shape, dtype=like.dtype, device=like.device, memory_format=torch.channels_last)
