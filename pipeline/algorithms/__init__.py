"""One file per paper. To add an algorithm: a file here, and a line in ``ALGORITHMS``.

That line also enrols it in recipes, the contract tests, evaluation, serving and the benchmark.
"""

from __future__ import annotations

from typing import Any

from pipeline.algorithms.anil import ANIL
from pipeline.algorithms.gradientmemory import GradientMemoryMAML
from pipeline.algorithms.imaml import IMAML
from pipeline.algorithms.maml import MAML
from pipeline.algorithms.mamlpp import MAMLPP
from pipeline.algorithms.mann import MANN
from pipeline.algorithms.mbpa import MBPA
from pipeline.algorithms.memorygated import MemoryGated
from pipeline.algorithms.memoryrnn import MemoryRNN
from pipeline.algorithms.metamemory import MetaMemory
from pipeline.algorithms.metasgd import MetaSGD
from pipeline.algorithms.ntm import NTM
from pipeline.algorithms.protonet import ProtoNet
from pipeline.algorithms.reptile import Reptile
from pipeline.core.algorithm import Algorithm

ALGORITHMS: dict[str, type[Algorithm[Any, Any]]] = {
    "maml": MAML,
    "reptile": Reptile,
    "protonet": ProtoNet,
    "anil": ANIL,
    "metasgd": MetaSGD,
    "mamlpp": MAMLPP,
    "imaml": IMAML,
    "mbpa": MBPA,
    "metamemory": MetaMemory,
    "gradientmemory": GradientMemoryMAML,
    "mann": MANN,
    "ntm": NTM,
    "memoryrnn": MemoryRNN,
    "memorygated": MemoryGated,
}
