"""One file per paper. To add an algorithm: a file here, and a line in ``ALGORITHMS``.

That line also enrols it in recipes, the contract tests, evaluation, serving and the benchmark.
"""

from __future__ import annotations

from typing import Any

from pipeline.algorithms.anil import ANIL
from pipeline.algorithms.imaml import IMAML
from pipeline.algorithms.learnedoptimizer import LearnedOptimizer
from pipeline.algorithms.maml import MAML
from pipeline.algorithms.mamlpp import MAMLPP
from pipeline.algorithms.metalstm import MetaLSTM
from pipeline.algorithms.metasgd import MetaSGD
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
    "metalstm": MetaLSTM,
    "learnedoptimizer": LearnedOptimizer,
}
