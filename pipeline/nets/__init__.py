"""Networks as pure functions of their parameters. To add one: a file here, and a line in ``NETS``."""

from __future__ import annotations

from pipeline.nets.conv4 import Conv4
from pipeline.nets.function_cells import FunctionCells
from pipeline.nets.image_cells import ImageCells
from pipeline.nets.linear import Linear
from pipeline.nets.mlp import MLP
from pipeline.nets.module import OwnModule
from pipeline.nets.net import Net
from pipeline.nets.policy import Policy
from pipeline.nets.resnet12 import ResNet12
from pipeline.nets.seq2seq import Seq2Seq

NETS: dict[str, type[Net]] = {
    "mlp": MLP,
    "conv4": Conv4,
    "linear": Linear,
    "resnet12": ResNet12,
    "module": OwnModule,
    "seq2seq": Seq2Seq,
    "function_cells": FunctionCells,
    "image_cells": ImageCells,
    "policy": Policy,
}
