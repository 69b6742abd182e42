"""Translation of captions: each task is a direction, such as Czech to English, with few pairs.

The data is Multi30k (Elliott et al., arXiv 1605.00459); meta-learned translation is Gu et al., arXiv 1808.08437.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

import numpy as np
from annotated_types import Ge, Le

from pipeline.core.bounds import MAX_COUNT
from pipeline.core.source import TaskShapes
from pipeline.core.types import PADDING, Pairs, Params
from pipeline.tasks.text_metrics import bleu_signature, chrf_signature, corpus_bleu, corpus_chrf
from pipeline.tasks.transduction import Anonymity, Length, Transduction, TransductionConfig


@dataclass(frozen=True)
class CaptionsConfig(TransductionConfig):
    """Captions in pieces of words, of a sentencepiece model that is in the file. Pieces that occur there are known."""

    split: str = "six"
    lengths: tuple[Length, Length] = (40, 40)
    train_lengths: tuple[Length, Length] = (24, 24)
    fewest: Annotated[int, Ge(0), Le(MAX_COUNT)] = 0


class Captions(Transduction):
    """A source is a tag such as ``<2en>``, which names the target's language, and pieces; a target is pieces.

    BLEU and chrF are sacrebleu's, over all answers of a task together.

    Raises:
        ConfigError: the extra ``text`` is not installed.
    """

    Config: ClassVar[type[CaptionsConfig]] = CaptionsConfig
    loss = "translation"
    joint = True
    writing = "pieces"

    def __init__(self, config: CaptionsConfig, shapes: TaskShapes) -> None:
        super().__init__(config, shapes, Anonymity())
        self._join = self.texts.writing.join
        self.evaluation = {"bleu": bleu_signature(), "chrf": chrf_signature()}

    def judge(self, answers: Params, query: Pairs) -> dict[str, float]:
        code = self.vocabularies[1].code(np.random.default_rng(0))
        real = query.target[:, 0] != PADDING
        texts = [
            [self._join(code.decode(row)) for row in rows[real].tolist()] for rows in (answers["answers"], query.target)
        ]
        return {"bleu": corpus_bleu(*texts), "chrf": corpus_chrf(*texts)}
