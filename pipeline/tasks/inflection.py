"""Morphological inflection: a lemma and features to the inflected form, each language a task.

McCarthy et al., The SIGMORPHON 2019 shared task, arXiv 1910.11493, task 1; MAML on it is Kann et al., arXiv 2004.13304.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from pipeline.core.source import TaskShapes
from pipeline.tasks.transduction import Anonymity, Length, Share, Slots, Transduction, TransductionConfig


@dataclass(frozen=True)
class InflectionConfig(TransductionConfig):
    """Words of many languages, with their features.

    Attributes:
        slots: Anonymous tokens, for characters that training never shows.
        anonymous: The share of training tasks in which every character is anonymous.
    """

    split: str = "sigmorphon2019"
    lengths: tuple[Length, Length] = (40, 36)
    train_lengths: tuple[Length, Length] = (24, 20)
    slots: Slots = 96
    anonymous: Share = 0.3


class Inflection(Transduction):
    """A source is a lemma's characters in NFC and its features, such as ``<V>``; a target is the form's characters.

    Texts are ``lemma<TAB>V;PST`` and the form. Lemma and form share one vocabulary.
    """

    Config: ClassVar[type[InflectionConfig]] = InflectionConfig
    loss = "tokens"
    joint = True
    writing = "forms"

    def __init__(self, config: InflectionConfig, shapes: TaskShapes) -> None:
        super().__init__(config, shapes, Anonymity(config.slots, config.anonymous))
