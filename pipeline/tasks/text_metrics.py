"""Metrics of translation over whole sets of answers, by sacrebleu (Post: W18-6319), with its standard settings."""

from __future__ import annotations

from collections.abc import Sequence
from types import ModuleType
from typing import Any

from pipeline.core.extras import missing


def corpus_bleu(answers: Sequence[str], references: Sequence[str]) -> float:
    """BLEU of all answers together, 0 to 100.

    Raises:
        ConfigError: sacrebleu is not installed.
    """
    # Answers are whole texts; a network that has learned little can end them as tokenised text ends, of which sacrebleu
    # would warn. ``force`` changes no score.
    return float(_metrics().BLEU(force=True).corpus_score(list(answers), [list(references)]).score)


def corpus_chrf(answers: Sequence[str], references: Sequence[str]) -> float:
    """chrF2, the F-score of character n-grams, of all answers together, 0 to 100.

    Raises:
        ConfigError: sacrebleu is not installed.
    """
    return float(_metrics().CHRF().corpus_score(list(answers), [list(references)]).score)


def bleu_signature() -> str:
    """What a printed BLEU has to be cited with: its settings and sacrebleu's version."""
    return _signature(_metrics().BLEU())


def chrf_signature() -> str:
    """What a printed chrF2 has to be cited with: its settings and sacrebleu's version."""
    return _signature(_metrics().CHRF())


def _signature(metric: Any) -> str:
    metric.corpus_score(["a"], [["a"]])  # sacrebleu knows the number of references only then
    return str(metric.get_signature())


def _metrics() -> ModuleType:
    try:
        from sacrebleu import metrics
    except ImportError:
        raise missing("sacrebleu", "text") from None
    return metrics
