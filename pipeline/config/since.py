"""Settings that came after the first runs, with the values that those runs were made with.

A run that does not say a setting was made with the value here: so it can be resumed, and its recorded row stays.
"""

from __future__ import annotations

from typing import Any

SETTINGS_SINCE: dict[str, Any] = {
    "source.query_order": "sorted",
    "source.density": False,
    "source.remember": 0,
    "algorithm.previous": "example",
    "algorithm.write_to": "one",
    "algorithm.objective": "bound",
    "algorithm.train_samples": 4,
}
"""Of every algorithm and network."""
SETTINGS_SINCE_OF: dict[str, dict[str, Any]] = {
    "protonet": {"algorithm.temperature": 1.0, "algorithm.batch": "apart"},
    "maml": {"algorithm.inner_optimizer": "sgd", "algorithm.eval_inner_batch": None},
    "pretrain": {"algorithm.eval_inner_optimizer": "sgd", "algorithm.eval_inner_batch": None},
    "finetune": {"algorithm.inner_batch": None},
}
"""The same for settings whose name another algorithm had before."""
SETTINGS_SINCE_OF_NET: dict[str, dict[str, Any]] = {"seq2seq": {"net.dropout": 0.0, "net.eval_dropout": 0.0}}
"""The same for settings whose name another network had before."""


def settings_since(algorithm: str, net: str) -> dict[str, Any]:
    """The values, by dotted keys, that earlier runs of this algorithm and network had without saying so."""
    return SETTINGS_SINCE | SETTINGS_SINCE_OF.get(algorithm, {}) | SETTINGS_SINCE_OF_NET.get(net, {})
