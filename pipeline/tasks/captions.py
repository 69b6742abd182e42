"""Translation of captions: each task is a direction, such as Czech to English, with few pairs.

The data is Multi30k (Elliott et al., arXiv 1605.00459); meta-learned translation is Gu et al., arXiv 1808.08437.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar

import numpy as np
from annotated_types import Ge

from pipeline.core.failures import DataError
from pipeline.core.source import TaskShapes
from pipeline.core.types import PADDING, Pairs, Params
from pipeline.tasks.pairfile import PairFile
from pipeline.tasks.pieces import processor
from pipeline.tasks.text_metrics import corpus_bleu, corpus_chrf
from pipeline.tasks.texts import Writing
from pipeline.tasks.transduction import Anonymity, Length, Transduction, TransductionConfig


@dataclass(frozen=True)
class CaptionsConfig(TransductionConfig):
    """Captions in pieces of words, of a sentencepiece model that is in the file. Pieces that occur there are known."""

    split: str = "six"
    lengths: tuple[Length, Length] = (40, 40)
    train_lengths: tuple[Length, Length] = (24, 24)
    fewest: Annotated[int, Ge(0)] = 0


class Captions(Transduction):
    """A source is a tag such as ``<2en>``, which names the target's language, and pieces; a target is pieces.

    BLEU and chrF are sacrebleu's, over all answers of a task together.

    Raises:
        ConfigError: the extra ``text`` is not installed.
    """

    Config: ClassVar[type[CaptionsConfig]] = CaptionsConfig
    loss = "translation"
    joint = True

    def __init__(self, config: CaptionsConfig, shapes: TaskShapes) -> None:
        super().__init__(config, shapes, Anonymity())

    def writing_of(self, file: PairFile) -> Writing:
        model = processor(file.pieces)

        def source(text: str) -> Sequence[str]:
            tag = re.match(r"(<2\w+>)\s*(.+)", text)
            if tag is None or tag[1] not in file.sources:
                tags = ", ".join(symbol for symbol in file.sources if re.fullmatch(r"<2\w+>", symbol))
                raise DataError(f"{text!r}: expected a tag of the target's language before the text, one of {tags}")
            return (tag[1], *model.encode(tag[2], out_type=str))

        return Writing(source, lambda text: model.encode(text, out_type=str), model.decode_pieces)

    def judge(self, answers: Params, query: Pairs) -> dict[str, float]:
        code = self.vocabularies[1].code(np.random.default_rng(0))
        real = query.target[:, 0] != PADDING
        texts = [
            [self.writing.join(code.decode(row)) for row in rows[real].tolist()]
            for rows in (answers["answers"], query.target)
        ]
        return {"bleu": corpus_bleu(*texts), "chrf": corpus_chrf(*texts)}
