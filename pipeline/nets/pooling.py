"""Max pooling of many tasks at once: torch's own under ``vmap`` copies its maps into another order."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from pipeline.nets.lift import Lift, as_in
from pipeline.nets.primitive import Primitive


def max_pool2d(h: Tensor, size: int) -> Tensor:
    """[N, C, H, W] -> [N, C, H // size, W // size]: the largest of each ``size`` × ``size`` square."""
    largest: Tensor = _MaxPool.apply(h, size)[0]  # type: ignore[no-untyped-call]
    return largest


class _MaxPool(Primitive):
    """The largest number of each square, and where in its map it stands."""

    @staticmethod
    def forward(h: Tensor, size: int) -> tuple[Tensor, Tensor]:
        return torch.ops.aten.max_pool2d_with_indices(as_in(h, h), [size, size])

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        h, ctx.size = inputs
        ctx.mark_non_differentiable(output[1])
        ctx.save_for_backward(h, output[1])

    @staticmethod
    def backward(ctx: Any, g: Tensor, _: Tensor) -> tuple[Tensor, None]:
        h, places = ctx.saved_tensors
        return _Scatter.apply(g, h.detach(), places, ctx.size), None

    @staticmethod
    def vmap(info: Any, dims: tuple[Any, ...], h: Tensor, size: int) -> Any:
        lift = Lift(info.batch_size)
        largest, places = _MaxPool.apply(lift.channels(h, dims[0]), size)
        return (lift.apart(largest), lift.apart(places)), (1, 1)


class _Scatter(Primitive):
    """Each number of g in the place of the largest, zeros elsewhere; of h only the shape is read."""

    @staticmethod
    def forward(g: Tensor, h: Tensor, places: Tensor, size: int) -> Tensor:
        scattered: Tensor = torch.ops.aten.max_pool2d_with_indices_backward(
            as_in(g, h), as_in(h, h), [size, size], [], [0, 0], [1, 1], False, as_in(places, h)
        )
        return scattered

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.save_for_backward(inputs[2])

    @staticmethod
    def backward(ctx: Any, u: Tensor) -> tuple[Tensor, None, None, None]:
        (places,) = ctx.saved_tensors
        return u.flatten(2).gather(2, places.flatten(2)).unflatten(2, places.shape[2:]), None, None, None

    @staticmethod
    def vmap(info: Any, dims: tuple[Any, ...], g: Tensor, h: Tensor, places: Tensor, size: int) -> Any:
        lift = Lift(info.batch_size)
        lifted = (lift.channels(one, dim) for one, dim in zip((g, h, places), dims[:3], strict=True))
        return lift.apart(_Scatter.apply(*lifted, size)), 1
