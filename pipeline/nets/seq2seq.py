"""An LSTM encoder–decoder from sequences of tokens to sequences of tokens, with or without attention.

Sutskever, Vinyals, Le: Sequence to Sequence Learning with Neural Networks, arXiv 1409.3215; Cho et al.,
arXiv 1406.1078, whose decoder reads the encoder's vector at each step; Bahdanau, Cho, Bengio, arXiv 1409.0473; Luong,
Pham, Manning, arXiv 1508.04025. The cell is our own: torch's fused LSTM cannot be vectorised over tasks.

Shapes: N pairs, S and T tokens of source and target, H hidden, C = H for each direction of the encoder.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal, NamedTuple

import numpy as np
import torch
from annotated_types import Ge, Lt
from torch import Tensor

from pipeline.core.bounds import Count, Width
from pipeline.core.failures import ConfigError
from pipeline.core.network import DROPOUT
from pipeline.core.source import Spec, Tokens
from pipeline.core.types import END, PADDING, UNKNOWN, MayChange, Pairs, Params
from pipeline.nets.cells import LSTM
from pipeline.nets.net import Net, fan_in_normal
from pipeline.nets.normalisation import Normaliser

FAR = -1e9
"""The score of a masked position: finite, so that a row of padding alone has a softmax."""
EMBEDDINGS = ("source/", "target/")
ENCODER = (*EMBEDDINGS, "forward/", "backward/")

Dropped = Annotated[float, Ge(0), Lt(1)]


@dataclass(frozen=True)
class Seq2SeqConfig:
    """Widths, attention, what an inner loop adapts, and the search for an answer.

    Attributes:
        embedding: Width of a token's vector.
        hidden: Width of the LSTM's state.
        bidirectional: Whether a second encoder reads the source backwards.
        attention: What the decoder sees of the source: ``none`` is one vector, the encoder's last state; ``dot`` reads
            the source's states after each step of the decoder (Luong), ``bahdanau`` before it.
        adapted: What inner steps change: ``all`` leaves, the ``embeddings``, or the embeddings and the ``encoder`` (Gu
            et al. 2018, arXiv 1808.08437, §3.3).
        dropout: The share of the numbers of each embedding, and of what the head sees, that training leaves out: the
            same ones at each token of a pair (Gal & Ghahramani 2016, arXiv 1512.05287).
        eval_dropout: The share that each inner step leaves out at evaluation and in serving. Answers use all numbers.
        beam: Answers that the search keeps at each step; 1 is greedy.
    """

    embedding: Width = 64
    hidden: Width = 128
    bidirectional: bool = True
    attention: Literal["none", "dot", "bahdanau"] = "dot"
    adapted: Literal["all", "embeddings", "encoder"] = "all"
    dropout: Dropped = 0.0
    eval_dropout: Annotated[Dropped, MayChange()] = 0.0
    beam: Annotated[Count, MayChange()] = 1


class Encoded(NamedTuple):
    """Sources as the decoder sees them: ``states`` [N, S, C], ``mask`` [N, S], ``keys`` [N, S, H], ``last`` [N, C]."""

    states: Tensor
    mask: Tensor
    keys: Tensor
    last: Tensor


class Seq2Seq(Net):
    """Outputs are logits [N, T, outputs] of each target token, given those before it; features are [N, T, hidden].

    An answer is a sequence [N, T] that beam search finds. Every row takes T steps; after ``END`` it only pads.

    Raises:
        ConfigError: a normalisation is asked for.
    """

    Config: ClassVar[type[Seq2SeqConfig]] = Seq2SeqConfig
    takes = (Pairs,)

    def __init__(
        self,
        config: Seq2SeqConfig,
        input_shape: tuple[int, ...],
        outputs: int | None,
        *,
        normalised: bool,
        tokens: Tokens,
    ) -> None:
        if normalised:
            raise ConfigError("normalisation: seq2seq has no layer to normalise; set normalisation to none")
        self.config, self.outputs, self.tokens = config, outputs, tokens
        self.targets = outputs  # how many tokens are embedded, with a head or without
        self.feature_shape = (config.hidden,)
        width = config.hidden
        self.code = width * (1 + config.bidirectional)
        self.forward = LSTM("forward", config.embedding, width)
        self.backward = LSTM("backward", config.embedding, width)
        self.decoder = LSTM("decoder", config.embedding, width)

    @classmethod
    def for_tasks(cls, config: Any, spec: Spec, *, head: bool, normalised: bool) -> Net:
        if spec.tokens is None:
            raise ConfigError("net.name: seq2seq reads tokens, and the source gives none; choose another network")
        net = cls(config, spec.input_shape, spec.outputs, normalised=normalised, tokens=spec.tokens)
        return net if head else net.body()

    def init(self, rng: np.random.Generator) -> Params:
        width, code, embedding = self.config.hidden, self.code, self.config.embedding
        params: Params = {
            "source/embedding": torch.from_numpy(rng.normal(size=(self.tokens.sources, embedding))),
            "target/embedding": torch.from_numpy(rng.normal(size=(self.targets or 0, embedding))),
            **self.forward.init(rng),
            **(self.backward.init(rng) if self.config.bidirectional else {}),
            **self.decoder.init(rng),
            "start/weight": fan_in_normal(rng, (width, code), code, 1.0),
            "start/bias": torch.zeros(width, dtype=torch.float64),
        }
        if self.config.attention == "dot":
            params["attention/key"] = fan_in_normal(rng, (width, code), code, 1.0)
            params["attention/mix"] = fan_in_normal(rng, (width, width + code), width + code, 1.0)
        else:
            params["decoder/context"] = fan_in_normal(rng, (4 * width, code), code, 1.0)
        if self.config.attention == "bahdanau":
            params["attention/key"] = fan_in_normal(rng, (width, code), code, 1.0)
            params["attention/query"] = fan_in_normal(rng, (width, width), width, 1.0)
            params["attention/vector"] = fan_in_normal(rng, (width,), width, 1.0)
        return params | self.init_head(rng, width)

    def reads(self, data: Any) -> Any:
        """Both sequences: the decoder sees each target token before it is asked for the next (teacher forcing)."""
        return data

    def is_adapted(self, leaf: str) -> bool:
        moved = {"all": ("",), "embeddings": EMBEDDINGS, "encoder": ENCODER}[self.config.adapted]
        return leaf.startswith(moved)

    def embed(self, params: Params, x: Any, normalise: Normaliser) -> Tensor:
        encoded = self._encode(params, x.source)
        ends_N1 = torch.full_like(x.target[:, :1], END)
        seen_NT = self._see(params, torch.cat([ends_N1, x.target[:, :-1]], 1))
        state, states = self._start(params, encoded), []
        for seen_N in seen_NT.unbind(1):
            state = self._step(params, encoded, seen_N, state)
            states.append(state["h"])
        return _kept(params, "features", self._features(params, encoded, torch.stack(states, 1)))

    def draw_masks(self, rng: np.random.Generator, rows: int) -> Params:
        return self._masks(rng, rows, self.config.dropout)

    def draw_inner_masks(self, rng: np.random.Generator, rows: int) -> Params:
        return self._masks(rng, rows, self.config.eval_dropout)

    def answer(self, params: Params, x: Tensor, normalise: Normaliser) -> Tensor:
        rows, width = len(x), self.config.beam
        params = {name: leaf for name, leaf in params.items() if not name.startswith(DROPOUT)}
        encoded = Encoded(*(part.repeat_interleave(width, 0) for part in self._encode(params, x)))
        state = self._start(params, encoded)
        token = torch.full_like(encoded.mask[:, 0], END, dtype=torch.int64).reshape(rows, width)
        score = state["h"].new_zeros(rows, width) + state["h"].new_tensor([0.0] + [FAR] * (width - 1))
        ended, answer = torch.zeros_like(token, dtype=torch.bool), list[Tensor]()
        for _ in range(self.tokens.target_length):
            state = self._step(params, encoded, self._see(params, token.flatten()), state)
            features = self._features(params, encoded, state["h"].unsqueeze(1)).squeeze(1)
            log_p = _possible(torch.log_softmax(self.read_out(params, features), -1), ended)
            score, best = (score.unsqueeze(-1) + log_p).flatten(1).topk(width)
            parent, token = best // log_p.shape[-1], best % log_p.shape[-1]
            state = {name: _of(leaf.reshape(rows, width, -1), parent).flatten(0, 1) for name, leaf in state.items()}
            answer = [one.gather(1, parent) for one in answer] + [token]
            ended = ended.gather(1, parent) | (token == END)
        return torch.stack(answer, -1)[:, 0]

    def _masks(self, rng: np.random.Generator, rows: int, share: float) -> Params:
        """Keeps a number with probability 1 - share, and divides by it; masks are [rows, 1, width]."""
        if not share:
            return {}
        widths = {"source": self.config.embedding, "target": self.config.embedding, "features": self.config.hidden}
        drawn = {name: rng.random((rows, 1, width)) >= share for name, width in widths.items()}
        return {f"{DROPOUT}{name}": torch.from_numpy(kept / (1 - share)) for name, kept in drawn.items()}

    def _encode(self, params: Params, source: Tensor) -> Encoded:
        mask = source != PADDING
        embedded = self._embedded(params, "source", source)
        read = [self._read(params, self.forward, embedded, mask, range(source.shape[1]))]
        if self.config.bidirectional:
            read.append(self._read(params, self.backward, embedded, mask, range(source.shape[1] - 1, -1, -1)))
        states, last = (torch.cat(parts, -1) for parts in zip(*read, strict=True))
        keys = states @ params["attention/key"].T if self.config.attention != "none" else states
        return Encoded(states, mask, keys, last)

    def _read(self, params: Params, cell: LSTM, embedded: Tensor, mask: Tensor, order: range) -> tuple[Tensor, Tensor]:
        """The states [N, S, H] of a cell that reads in this order and does not change at padding, and the last one."""
        # Unbound at once: the gradient of an index is as large as the whole tensor, for each place anew.
        seen, real_NS1 = cell.see(params, embedded).unbind(1), mask.unsqueeze(-1).unbind(1)
        state = cell.start(embedded[:, 0])
        states: dict[int, Tensor] = {}
        for place in order:
            here, real = cell.step(params, seen[place], state), real_NS1[place]
            state = {name: torch.where(real, leaf, state[name]) for name, leaf in here.items()}
            states[place] = state["h"]
        return torch.stack([states[place] for place in sorted(states)], 1), state["h"]

    def _see(self, params: Params, tokens: Tensor) -> Tensor:
        return self.decoder.see(params, self._embedded(params, "target", tokens))

    def _embedded(self, params: Params, side: str, tokens: Tensor) -> Tensor:
        """The vectors [..., embedding] of tokens: those of a training pair lack the same numbers at each token."""
        return _kept(params, side, torch.nn.functional.embedding(tokens, params[f"{side}/embedding"]))

    def _start(self, params: Params, encoded: Encoded) -> Params:
        h = torch.tanh(encoded.last @ params["start/weight"].T + params["start/bias"])
        return {"h": h, "c": torch.zeros_like(h)}

    def _step(self, params: Params, encoded: Encoded, seen: Tensor, state: Params) -> Params:
        if self.config.attention == "none":
            seen = seen + encoded.last @ params["decoder/context"].T
        elif self.config.attention == "bahdanau":
            query = (state["h"] @ params["attention/query"].T).unsqueeze(1)
            scores = torch.tanh(encoded.keys + query) @ params["attention/vector"]
            seen = seen + _context(scores.unsqueeze(1), encoded).squeeze(1) @ params["decoder/context"].T
        return self.decoder.step(params, seen, state)

    def _features(self, params: Params, encoded: Encoded, states: Tensor) -> Tensor:
        """What the head sees [N, T, H], given the decoder's states [N, T, H]."""
        if self.config.attention != "dot":
            return states
        context = _context(states @ encoded.keys.transpose(-1, -2), encoded)
        return torch.tanh(torch.cat([states, context], -1) @ params["attention/mix"].T)


def _context(scores: Tensor, encoded: Encoded) -> Tensor:
    """The source's states [N, T, C], weighted by the softmax of scores [N, T, S] over what is not padding."""
    weights = torch.softmax(torch.where(encoded.mask.unsqueeze(1), scores, FAR), -1)
    return weights @ encoded.states


def _kept(params: Params, name: str, values: Tensor) -> Tensor:
    """What dropout leaves of values [N, T, width]; all of them where no mask was drawn."""
    mask = params.get(f"{DROPOUT}{name}")
    return values if mask is None else values * mask[: len(values)]


def _possible(log_p: Tensor, ended: Tensor) -> Tensor:
    """log p [N, beam, V] of the next token: padding after an answer's end; before it no padding and nothing unknown."""
    log_p = log_p.reshape(*ended.shape, -1)
    token = torch.arange(log_p.shape[-1], device=log_p.device)
    pads = torch.where(token == PADDING, 0.0, FAR).to(log_p.dtype)
    goes_on = torch.where((token == PADDING) | (token == UNKNOWN), FAR, log_p)
    return torch.where(ended.unsqueeze(-1), pads, goes_on)


def _of(values: Tensor, parent: Tensor) -> Tensor:
    """Of values [N, beam, H], the rows that ``parent`` [N, beam] names."""
    return values.gather(1, parent.unsqueeze(-1).expand(-1, -1, values.shape[-1]))
