"""A plug-in as a user may have one: factories of torch modules, right ones and wrong ones."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F


def small(outputs, width=4):
    """On images, with all that is replaced: batch normalisation and both kinds of dropout."""
    return nn.Sequential(
        nn.Conv2d(1, width, 3, stride=2, padding=1, bias=False),
        nn.BatchNorm2d(width),
        nn.Tanh(),
        nn.Dropout2d(0.5),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Dropout(0.25),
        nn.Linear(width, outputs),
    )


def plain(outputs, input_shape, width=5, dropout=0.0):
    """On vectors."""
    return nn.Sequential(
        nn.Linear(input_shape[0], width),
        nn.BatchNorm1d(width),
        nn.Tanh(),
        nn.Dropout(dropout),
        nn.Linear(width, outputs),
    )


def dropping(outputs, input_shape):
    """On anything, with dropout and without normalisation."""
    width = torch.Size(input_shape).numel()
    return nn.Sequential(nn.Flatten(), nn.Linear(width, 6), nn.Tanh(), nn.Dropout(0.5), nn.Linear(6, outputs))


class Counting(nn.Linear):
    """Its forward pass counts itself in a buffer."""

    def __init__(self, inputs, outputs):
        super().__init__(inputs, outputs)
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x):
        self.calls += 1
        return super().forward(x)


def counting(outputs):
    return nn.Sequential(Counting(3, outputs))


def recurrent(outputs):
    return nn.ModuleDict({"reader": nn.GRU(3, outputs)})


def alpha(outputs):
    return nn.Sequential(nn.Linear(3, outputs), nn.AlphaDropout(0.5))


def everything_dropped(outputs):
    return nn.Sequential(nn.Linear(3, 4), nn.Dropout(1.0), nn.Linear(4, outputs))


def no_module(outputs):
    return [outputs]


def three_wide():
    return nn.Linear(3, 3)


def a_map():
    return nn.Unflatten(1, (1, 3))


def other_inputs(outputs):
    return nn.Linear(7, outputs)


def breaks(outputs):
    raise ValueError("no weights\nfor you")


class Looks(nn.Module):
    """Its forward pass raises what is no error of torch's."""

    def forward(self, x):
        return self.missing(x)


class Named(nn.Module):
    """A layer is called as the leaves of the last layer or of dropout masks are."""

    def __init__(self, name, outputs):
        super().__init__()
        self.name = name
        self.add_module(name, nn.Linear(3, 3))
        self.fc = nn.Linear(3, outputs)

    def forward(self, x):
        return self.fc(torch.tanh(self.get_submodule(self.name)(x)))


class Functional(nn.Module):
    """Calls a function where there is a layer."""

    def __init__(self, name, outputs):
        super().__init__()
        self.name, self.fc = name, nn.Linear(3, outputs)

    def forward(self, x):
        if self.name == "dropout":
            x = F.dropout(x, 0.5, self.training)
        if self.name == "layer_norm":
            x = F.layer_norm(x, (3,))
        if self.name == "batch_norm":
            x = F.batch_norm(x, None, None, training=True)
        return self.fc(F.dropout(x, p=0.0))


class Attentive(nn.Module):
    """Reads the rows of an image as a sequence, with each way to torch's fused attention.

    Transformer layers drop attention weights if they drop anything; ``weights`` leaves that so.
    """

    def __init__(self, kind, outputs, dropout=0.0, weights=False):
        super().__init__()
        self.kind, self.fc = kind, nn.Linear(8, outputs)
        if kind == "function":
            self.mix = nn.Linear(8, 8)
        if kind == "layer":
            self.mix = nn.MultiheadAttention(8, 2, batch_first=True)
        if kind == "encoder":
            self.mix = nn.TransformerEncoderLayer(8, 2, 12, dropout, batch_first=True)
            self.mix.self_attn.dropout *= weights

    def forward(self, x):
        x = x.squeeze(1)
        if self.kind == "function":
            heads = self.mix(x).unflatten(-1, (2, 4)).transpose(1, 2)
            mixed = F.scaled_dot_product_attention(heads, heads.sin(), heads).transpose(1, 2).flatten(2)
        else:
            mixed = self.mix(x, x, x, need_weights=False)[0] if self.kind == "layer" else self.mix(x)
        return self.fc(torch.tanh(mixed).mean(1))


def tracking(outputs):
    return nn.Sequential(nn.InstanceNorm2d(1, track_running_stats=True), nn.Flatten(), nn.Linear(64, outputs))


CONSTANT = 3
