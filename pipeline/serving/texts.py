"""Serves a language: texts in, texts out."""

from __future__ import annotations

from collections import abc
from typing import Any

import torch

from pipeline.core.algorithm import Algorithm
from pipeline.core.failures import DataError
from pipeline.core.source import TextTask


class TextPredictor:
    """One language's adapted value."""

    def __init__(self, language: TextTask, adapted: Any, algorithm: Algorithm[Any, Any]) -> None:
        self.language, self.adapted, self.algorithm = language, adapted, algorithm

    def predict(self, x: abc.Sequence[str]) -> list[str]:
        """The answers to N texts, as N texts.

        Raises:
            DataError: x is no list of texts, or a text has no symbols.
        """
        inputs = self.language.inputs(_texts(x, "x"))
        with torch.no_grad():
            return self.language.answers(self.algorithm.predict(self.adapted, inputs))


def text_pairs(support_x: Any, support_y: Any) -> tuple[list[str], list[str]]:
    """Sources and targets, given apart or as pairs."""
    if support_y is None:
        pairs = list(support_x) if isinstance(support_x, abc.Iterable) else [support_x]
        wrong = [pair for pair in pairs if not _is_pair(pair)]
        if wrong:
            raise DataError(f"support_x: {wrong[0]!r}, expected pairs of a text and its answer, or support_y beside it")
        support_x, support_y = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
    sources, targets = _texts(support_x, "support_x"), _texts(support_y, "support_y")
    if len(sources) != len(targets):
        raise DataError(f"support_y: {len(targets)} texts for {len(sources)} of support_x; expected one for each")
    return sources, targets


def _is_pair(value: Any) -> bool:
    return isinstance(value, abc.Sequence) and not isinstance(value, str) and len(value) == 2


def _texts(values: Any, name: str) -> list[str]:
    if isinstance(values, str) or not isinstance(values, abc.Iterable):
        raise DataError(f"{name}: {values!r}, expected a list of texts")
    texts = list(values)
    wrong = [one for one in texts if not isinstance(one, str)]
    if wrong or not texts:
        raise DataError(f"{name}: {wrong[0]!r} is no text" if wrong else f"{name}: no texts; give one or more")
    return texts
