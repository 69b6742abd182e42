"""ResNet-12: four residual blocks of three 3×3 convolutions, the few-shot field's second image network.

Oreshkin, Rodriguez, Lacoste: TADAM, arXiv 1805.10123, with widths 64, 128, 256, 512; Lee, Maji, Ravichandran, Soatto:
Meta-Learning with Differentiable Convex Optimization, arXiv 1904.03758, with 64, 160, 320, 640, which are the default.
Dropout stands behind each block; theirs is DropBlock.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Annotated, ClassVar

from annotated_types import Ge, Len, Lt
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.core.bounds import Width
from pipeline.core.failures import ConfigError
from pipeline.nets.convolution import conv2d
from pipeline.nets.module import ModuleNet
from pipeline.nets.pooling import max_pool2d
from pipeline.nets.pure_layers import BatchNorm, Dropout

SLOPE = 0.1


@dataclass(frozen=True)
class ResNet12Config:
    """Four residual blocks.

    Attributes:
        channels: Channels of the four blocks.
        dropout: The share of values that training leaves out behind each block.
    """

    channels: Annotated[tuple[Width, ...], Len(4, 4)] = (64, 160, 320, 640)
    dropout: Annotated[float, Ge(0), Lt(1)] = 0.0


class Convolution(nn.Conv2d):
    """torch's without a bias, which keeps the sides of a map; fast with weights of each task's own."""

    def __init__(self, inputs: int, channels: int, size: int) -> None:
        super().__init__(inputs, channels, size, padding=size // 2, bias=False)

    def forward(self, h: Tensor) -> Tensor:
        return conv2d(h, self.weight, padding=self.weight.shape[-1] // 2)


class Block(nn.Module):
    """[N, C, H, W] -> [N, channels, H/2, W/2]."""

    def __init__(self, inputs: int, channels: int, dropout: float) -> None:
        super().__init__()
        widths = (inputs, channels, channels, channels)
        self.convolutions = nn.ModuleList(Convolution(wide, channels, 3) for wide in widths[:3])
        self.norms = nn.ModuleList(BatchNorm(channels) for _ in range(3))
        self.shortcut = Convolution(inputs, channels, 1)
        self.shortcut_norm = BatchNorm(channels)
        self.dropout: nn.Module = Dropout(dropout) if dropout else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        h = x
        for number, (convolution, norm) in enumerate(zip(self.convolutions, self.norms, strict=True)):
            h = norm(convolution(h))
            if number < 2:
                h = F.leaky_relu(h, SLOPE)
        h = F.leaky_relu(h + self.shortcut_norm(self.shortcut(x)), SLOPE)
        answer: Tensor = self.dropout(max_pool2d(h, 2))
        return answer


class ResNet12Module(nn.Module):
    """[N, C, H, W] -> [N, outputs]; without ``outputs`` the mean over positions, [N, channels]."""

    def __init__(self, config: ResNet12Config, inputs: int, outputs: int | None) -> None:
        super().__init__()
        widths = (inputs, *config.channels)
        blocks = [Block(a, b, config.dropout) for a, b in zip(widths, widths[1:], strict=False)]
        self.blocks = nn.ModuleList(blocks)
        if outputs is not None:
            self.fc = nn.Linear(widths[-1], outputs)
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="leaky_relu")

    def forward(self, x: Tensor) -> Tensor:
        h = x
        for block in self.blocks:
            h = block(h)
        features = h.mean((2, 3))
        return self.fc(features) if hasattr(self, "fc") else features


class ResNet12(ModuleNet):
    """The module as a network.

    Raises:
        ConfigError: the input is no image, or its sides are shorter than 16.
    """

    Config: ClassVar[type[ResNet12Config]] = ResNet12Config

    def __init__(
        self, config: ResNet12Config, input_shape: tuple[int, ...], outputs: int | None, *, normalised: bool
    ) -> None:
        if len(input_shape) != 3:
            raise ConfigError(
                f"net.name: resnet12 needs images [channels, height, width], the source gives {input_shape}; use mlp"
            )
        if min(input_shape[1:]) < 16:
            raise ConfigError(
                f"net.name: resnet12 halves an image four times, {input_shape[1:]} is too small; 16×16 is enough"
            )
        make = partial(ResNet12Module, config, input_shape[0], outputs)
        head = "fc" if outputs is not None else ""
        super().__init__(make, head, input_shape, outputs, normalised=normalised, where="net.name")
