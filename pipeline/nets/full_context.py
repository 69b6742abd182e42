"""Full context embeddings: the embedding of each example depends on the whole support set.

Vinyals et al. (arXiv 1606.04080). Shapes: N support, Q query, D embedding.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from pipeline.core.types import Params
from pipeline.nets.cells import LSTM


class FullContext:
    """Holds shapes, never weights. Its output is *added* to an embedding, so that zero weights do nothing."""

    def __init__(self, features: int, reads: int) -> None:
        self.ahead, self.back = LSTM("ahead", features, features), LSTM("back", features, features)
        self.reader, self.reads = LSTM("reader", 2 * features, features), reads

    def init(self, rng: np.random.Generator) -> Params:
        return self.ahead.init(rng) | self.back.init(rng) | self.reader.init(rng)

    def support(self, params: Params, z_ND: Tensor, order_N: Tensor) -> Tensor:
        """g(x_i) = z_i + h_i ahead + h_i back, of an LSTM each way along ``order_N``, a permutation of the rows."""
        sequence = z_ND[order_N].unbind(0)
        nothing = self.ahead.start(sequence[0])
        ahead = self.ahead.read(params, sequence, nothing)
        back = self.back.read(params, sequence[::-1], nothing)[::-1]
        added_ND = torch.stack([one["h"] + other["h"] for one, other in zip(ahead, back, strict=True)])
        return z_ND + added_ND[order_N.argsort()]

    def query(self, params: Params, z_QD: Tensor, g_ND: Tensor) -> Tensor:
        """f(x) after ``reads`` times attending to the support set, each query alone.

        A read is r = softmax(h · g) g, and a step h = z + LSTM(z, [h, r]). That h starts as z and c as 0 is our choice.
        Our cell takes r beside its input, which is the same product.
        """
        state = self.reader.start(z_QD) | {"h": z_QD}
        for _ in range(self.reads):
            r_QD = torch.softmax(state["h"] @ g_ND.T, -1) @ g_ND
            stepped = self.reader(params, torch.cat([z_QD, r_QD], -1), state)
            state = stepped | {"h": z_QD + stepped["h"]}
        return state["h"]
