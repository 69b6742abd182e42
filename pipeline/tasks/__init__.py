"""Where tasks come from. To add a source: a file here, and a line in ``SOURCES``.

That line also enrols it in recipes and the contract tests.
"""

from __future__ import annotations

from typing import Any

from pipeline.core.source import TaskSource
from pipeline.tasks.bandits import Bandits
from pipeline.tasks.captions import Captions
from pipeline.tasks.cartpole import CartPole
from pipeline.tasks.cheetah import HalfCheetah
from pipeline.tasks.ciphers import Ciphers
from pipeline.tasks.completion import Completion
from pipeline.tasks.digit_rotations import DigitRotations
from pipeline.tasks.g2p import G2P
from pipeline.tasks.gp_curves import GPCurves
from pipeline.tasks.image_sets import ImageSets
from pipeline.tasks.images import Images
from pipeline.tasks.inflection import Inflection
from pipeline.tasks.mdps import MDPs
from pipeline.tasks.metaworld import MetaWorld
from pipeline.tasks.navigation import Navigation
from pipeline.tasks.quadratics import Quadratics
from pipeline.tasks.sequences import Sequences
from pipeline.tasks.sine_stream import SineStream
from pipeline.tasks.sinusoid import Sinusoid
from pipeline.tasks.table import Table
from pipeline.tasks.waves_and_hinges import WavesAndHinges

SOURCES: dict[str, type[TaskSource[Any]]] = {
    "sinusoid": Sinusoid,
    "images": Images,
    "sequences": Sequences,
    "image_sets": ImageSets,
    "table": Table,
    "quadratics": Quadratics,
    "gp_curves": GPCurves,
    "completion": Completion,
    "ciphers": Ciphers,
    "g2p": G2P,
    "inflection": Inflection,
    "captions": Captions,
    "sine_stream": SineStream,
    "digit_rotations": DigitRotations,
    "waves_and_hinges": WavesAndHinges,
    "bandits": Bandits,
    "mdps": MDPs,
    "navigation": Navigation,
    "cartpole": CartPole,
    "cheetah": HalfCheetah,
    "metaworld": MetaWorld,
}
