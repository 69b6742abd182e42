"""Sentencepiece (Kudo, Richardson: arXiv 1808.06226), which only the extra ``text`` installs."""

from __future__ import annotations

from typing import Any

from pipeline.core.extras import missing


def sentencepiece() -> Any:
    """The package. Raises ``ConfigError`` where it is not installed."""
    try:
        import sentencepiece
    except ImportError:
        raise missing("sentencepiece", "text") from None
    return sentencepiece


def processor(model: bytes) -> Any:
    """What splits texts into a model's pieces and joins them again. Raises as ``sentencepiece`` does."""
    return sentencepiece().SentencePieceProcessor(model_proto=model)
