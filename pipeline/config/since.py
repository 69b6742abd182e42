"""Settings that came after the first runs, with the values that those runs were made with.

A run that does not say a setting was made with the value here: so it can be resumed, and its recorded row stays. They
stand under the name of their algorithm, network or source: the same name in a plug-in is another setting.
"""

from __future__ import annotations

from typing import Any

Values = dict[str, dict[str, Any]]
_READERS: dict[str, Any] = {"algorithm.previous": "example"}
_LATENT: dict[str, Any] = {"algorithm.objective": "bound", "algorithm.train_samples": 4}

OF_EVERY: dict[str, Any] = {"max_staleness": 0}
OF_ALGORITHM: Values = {
    "protonet": {"algorithm.temperature": 1.0, "algorithm.batch": "apart"},
    "maml": {"algorithm.inner_optimizer": "sgd", "algorithm.eval_inner_batch": None},
    "pretrain": {"algorithm.eval_inner_optimizer": "sgd", "algorithm.eval_inner_batch": None},
    "oml": {"algorithm.eval_shuffles": 0},
    "anml": {"algorithm.eval_shuffles": 0},
    "finetune": {"algorithm.inner_batch": None},
    "rl2": {"algorithm.entropy_steps": 0}
    | {f"algorithm.{name}": None for name in ("embedding", "memory_steps", "fast_weights")},
    "mann": _READERS | {"algorithm.write_to": "one"},
    "ntm": _READERS,
    "memoryrnn": _READERS,
    "memorygated": _READERS,
    "np": _LATENT,
    "anp": _LATENT,
}
OF_NET: Values = {
    "seq2seq": {"net.dropout": 0.0, "net.eval_dropout": 0.0, "net.beam": 1},
    "conv4": {"net.maps": "full"},
}
"""``beam`` was there from the beginning; recorded rows did not name it."""
OF_SOURCE: Values = {
    "images": {"source.query_order": "sorted", "source.remember": 0, "source.eval_queries": "others"}
    | {"source.train_flip": False, "source.train_crop": 0, "source.train_jitter": 0.0},
    "sinusoid": {"source.density": False},
}


def settings_since(algorithm: str, net: str, source: str) -> dict[str, Any]:
    """The values, by dotted keys, that earlier runs of these parts had without saying so."""
    return OF_EVERY | OF_ALGORITHM.get(algorithm, {}) | OF_NET.get(net, {}) | OF_SOURCE.get(source, {})
