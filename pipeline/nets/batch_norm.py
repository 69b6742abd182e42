"""Normalisation by a batch's own statistics, in few passes and right to any order of derivative.

torch's own batch norm has wrong second derivatives under ``vmap``, without an error. This one brings its rule of
``vmap``, and has the derivative of its gradient in closed form. Maps of half the bits go through torch's kernels.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from pipeline.nets.lift import Lift, as_in
from pipeline.nets.primitive import Primitive

EPSILON = 1e-5


def batch_norm(h: Tensor, scale: Tensor, shift: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """scale · (h - mean) / √(variance + ε) + shift, and the batch's mean [C] and (biased) variance [C].

    Args:
        h: [N, C, …], normalised over all dimensions but C.
        scale: [C].
        shift: [C].
    """
    kind = statistics_dtype(h)
    y, mean, variance = _BatchNorm.apply(h, scale.to(kind), shift.to(kind))  # type: ignore[no-untyped-call]
    return y, mean, variance


def statistics_dtype(h: Tensor) -> torch.dtype:
    """The type of a map's statistics: that of the map, and at least float32."""
    return torch.promote_types(h.dtype, torch.float32)


class _BatchNorm(Primitive):
    """y, mean and variance of h, scale and shift."""

    @staticmethod
    def forward(h: Tensor, scale: Tensor, shift: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        if h.dtype != scale.dtype:
            vectors = scale.contiguous(), shift.contiguous()  # torch's kernels read past the strides of a view
            y, mean, rate = torch.native_batch_norm(as_in(h, h), *vectors, None, None, True, 0.0, EPSILON)
            return y, mean, rate.pow(-2) - EPSILON
        mean, variance = _moments(h)
        centred, slope = h - _along(mean, h), scale * (variance + EPSILON).rsqrt()
        return torch.addcmul(_along(shift, h), centred, _along(slope, h)), mean, variance

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
        h, scale, _ = inputs
        _, mean, variance = output
        ctx.save_for_backward(h, scale, mean, variance)
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx: Any, g: Tensor | None, by_mean: Tensor | None, by_variance: Tensor | None) -> Any:
        h, scale, mean, variance = ctx.saved_tensors
        by_h = by_scale = by_shift = None
        if g is not None:
            by_h, by_scale, by_shift = _Gradient.apply(g, h, scale, mean.detach(), variance.detach())
        of_moments = _of_moments(h, by_mean, by_variance)
        if of_moments is not None:
            by_h = of_moments if by_h is None else by_h + of_moments
        return by_h, by_scale, by_shift

    @staticmethod
    def vmap(info: Any, dims: tuple[Any, ...], h: Tensor, scale: Tensor, shift: Tensor) -> Any:
        lift = Lift(info.batch_size)
        y, mean, variance = _BatchNorm.apply(
            lift.channels(h, dims[0]), lift.rows(scale, dims[1]), lift.rows(shift, dims[2])
        )
        return (lift.apart(y), lift.apart_rows(mean), lift.apart_rows(variance)), (1, 0, 0)


class _Gradient(Primitive):
    """The gradient of ⟨y, g⟩ by h, scale and shift. ``mean`` and ``variance`` are those of h, which determines them."""

    @staticmethod
    def forward(g: Tensor, h: Tensor, scale: Tensor, mean: Tensor, variance: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        rate = (variance + EPSILON).rsqrt()
        if h.dtype != scale.dtype:
            by_h, by_scale, by_shift = torch.ops.aten.native_batch_norm_backward(
                as_in(g, h), as_in(h, h), scale.contiguous(), None, None, mean, rate, True, EPSILON, [True, True, True]
            )
            return by_h, by_scale, by_shift
        over, n = _all_but_channels(h), h.numel() / mean.numel()
        centred, by_shift = h - _along(mean, h), g.sum(over)
        by_scale = rate * (g * centred).sum(over)
        # Centred first: a batch of one value has no gradient by it, to the bit.
        left = torch.addcmul(g - _along(by_shift / n, h), centred, _along(-rate * by_scale / n, h))
        return left * _along(scale * rate, h), by_scale, by_shift

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
        ctx.save_for_backward(*inputs, *output[1:])

    @staticmethod
    def backward(ctx: Any, u: Tensor, v: Tensor, w: Tensor) -> Any:
        """The derivative of ⟨u, by_h⟩ + ⟨v, by_scale⟩ + ⟨w, by_shift⟩ by g, h and scale.

        With x = (h - mean) · rate and m(·) the mean over a batch: by_h = scale · rate · (g - m(g) - x · m(g x)).
        """
        g, h, scale, mean, variance, by_scale, by_shift = ctx.saved_tensors
        over, n = _all_but_channels(h), h.numel() / mean.numel()
        if torch.is_grad_enabled():  # a third derivative is asked for: what was computed before has no graph
            mean = h.mean(over)
            variance = (h - _along(mean, h)).square().mean(over)
            by_shift = g.sum(over)
            by_scale = (variance + EPSILON).rsqrt() * ((g * h).sum(over) - mean * by_shift)
        rate = (variance + EPSILON).rsqrt()
        mean_g, gx, mean_u, ug = by_shift / n, by_scale / n, u.mean(over), (u * g).mean(over)
        ux = rate * ((u * h).mean(over) - mean * mean_u)
        slope, inner = scale * rate, ug - mean_u * mean_g - ux * gx
        of_u, of_g = -slope * gx, v - slope * ux
        of_x = slope * (2 * ux * gx - inner) - v * gx
        constant = -rate * (of_u * mean_u + of_g * mean_g) - rate.square() * of_x * mean
        by_g = _weighted(h, w - slope * mean_u - of_g * rate * mean, (u, slope), (h, of_g * rate))
        by_h = _weighted(h, constant, (u, rate * of_u), (g, rate * of_g), (h, rate.square() * of_x))
        return by_g, by_h, rate * n * inner, None, None

    @staticmethod
    def vmap(info: Any, dims: tuple[Any, ...], *inputs: Tensor) -> Any:
        lift = Lift(info.batch_size)
        maps = (lift.channels(one, dim) for one, dim in zip(inputs[:2], dims[:2], strict=True))
        vectors = (lift.rows(one, dim) for one, dim in zip(inputs[2:], dims[2:], strict=True))
        by_h, by_scale, by_shift = _Gradient.apply(*maps, *vectors)
        return (lift.apart(by_h), lift.apart_rows(by_scale), lift.apart_rows(by_shift)), (1, 0, 0)


def _moments(h: Tensor) -> tuple[Tensor, Tensor]:
    """The mean and variance of a batch.

    torch's own kernel adds up ``channels_last`` rows one after the other, which loses digits where there are many.
    So it is given many times the channels and few rows, whose moments are put together, in less time than sums over
    dimensions take.
    """
    over = _all_but_channels(h)
    if h.dim() != 4 or h.is_contiguous() or h.is_cuda:
        mean = h.mean(over)
        return mean, (h - _along(mean, h)).square().mean(over)
    parts, channels = h.shape[3], h.shape[1]
    rows = h.permute(0, 2, 3, 1).reshape(-1, parts * channels)
    means, variances = (one.view(parts, channels) for one in torch.batch_norm_update_stats(rows, None, None, 0.0))
    mean = means.mean(0)
    return mean, variances.mean(0) + (means - mean).square().mean(0)


def _of_moments(h: Tensor, by_mean: Tensor | None, by_variance: Tensor | None) -> Tensor | None:
    """The gradient by h of the moments themselves; None where nobody asks for one."""
    if by_mean is None and by_variance is None:
        return None
    mean = h.mean(_all_but_channels(h))
    n = h.numel() / mean.numel()
    by_h = torch.zeros_like(h) if by_mean is None else _along(by_mean / n, h).expand_as(h)
    return by_h if by_variance is None else by_h + _along(by_variance * (2 / n), h) * (h - _along(mean, h))


def _all_but_channels(h: Tensor) -> tuple[int, ...]:
    return (0, *range(2, h.dim()))


def _along(vector: Tensor, h: Tensor) -> Tensor:
    """One number a channel, along the maps."""
    return vector.reshape(-1, *(1,) * (h.dim() - 2))


def _weighted(h: Tensor, constant: Tensor, *parts: tuple[Tensor, Tensor]) -> Tensor:
    """The sum of maps, each times one number a channel, and of a constant a channel."""
    total = _along(constant, h)
    for maps, weight in parts:
        total = torch.addcmul(total, maps, _along(weight, h))
    return total
