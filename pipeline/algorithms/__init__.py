"""One file per paper. To add an algorithm: a file here, and a line in ``ALGORITHMS``.

That line also enrols it in recipes, the contract tests, evaluation, serving and the benchmark.
"""

from __future__ import annotations

from typing import Any

from pipeline.algorithms.anil import ANIL
from pipeline.algorithms.anml import ANML
from pipeline.algorithms.anp import ANP
from pipeline.algorithms.baseline import Baseline
from pipeline.algorithms.cnp import CNP
from pipeline.algorithms.finetune import Finetune
from pipeline.algorithms.gradientmemory import GradientMemoryMAML
from pipeline.algorithms.hypernas import HyperNAS
from pipeline.algorithms.imaml import IMAML
from pipeline.algorithms.lamaml import LaMAML
from pipeline.algorithms.learnedoptimizer import LearnedOptimizer
from pipeline.algorithms.maml import MAML
from pipeline.algorithms.maml_rl import MAMLRL
from pipeline.algorithms.mamlpp import MAMLPP
from pipeline.algorithms.mann import MANN
from pipeline.algorithms.matchingnet import MatchingNet
from pipeline.algorithms.mbpa import MBPA
from pipeline.algorithms.memorygated import MemoryGated
from pipeline.algorithms.memoryrnn import MemoryRNN
from pipeline.algorithms.metagan_maml import MetaGANMAML
from pipeline.algorithms.metagan_protonet import MetaGANProtoNet
from pipeline.algorithms.metagan_relationnet import MetaGANRelationNet
from pipeline.algorithms.metalstm import MetaLSTM
from pipeline.algorithms.metamemory import MetaMemory
from pipeline.algorithms.metanas import MetaNAS
from pipeline.algorithms.metasgd import MetaSGD
from pipeline.algorithms.multitask import Multitask
from pipeline.algorithms.nearest import Nearest
from pipeline.algorithms.np import NP
from pipeline.algorithms.ntm import NTM
from pipeline.algorithms.oml import OML
from pipeline.algorithms.online_head import OnlineHead
from pipeline.algorithms.pretrain import Pretrain
from pipeline.algorithms.promp import ProMP
from pipeline.algorithms.protonet import ProtoNet
from pipeline.algorithms.recurrentmaml import RecurrentMAML
from pipeline.algorithms.relationnet import RelationNet
from pipeline.algorithms.replay import Replay
from pipeline.algorithms.reptile import Reptile
from pipeline.algorithms.ridge import Ridge
from pipeline.algorithms.rl2 import RL2
from pipeline.algorithms.tnas import TNAS
from pipeline.algorithms.versa import VERSA
from pipeline.core.algorithm import Algorithm

ALGORITHMS: dict[str, type[Algorithm[Any, Any]]] = {
    "maml": MAML,
    "reptile": Reptile,
    "anil": ANIL,
    "metasgd": MetaSGD,
    "mamlpp": MAMLPP,
    "imaml": IMAML,
    "recurrentmaml": RecurrentMAML,
    "oml": OML,
    "anml": ANML,
    "lamaml": LaMAML,
    "tnas": TNAS,
    "metanas": MetaNAS,
    "hypernas": HyperNAS,
    "ridge": Ridge,
    "protonet": ProtoNet,
    "matchingnet": MatchingNet,
    "relationnet": RelationNet,
    "mann": MANN,
    "ntm": NTM,
    "memoryrnn": MemoryRNN,
    "memorygated": MemoryGated,
    "metamemory": MetaMemory,
    "mbpa": MBPA,
    "gradientmemory": GradientMemoryMAML,
    "cnp": CNP,
    "np": NP,
    "anp": ANP,
    "versa": VERSA,
    "metalstm": MetaLSTM,
    "learnedoptimizer": LearnedOptimizer,
    "finetune": Finetune,
    "pretrain": Pretrain,
    "baseline": Baseline,
    "replay": Replay,
    "multitask": Multitask,
    "online_head": OnlineHead,
    "nearest": Nearest,
    "metagan_protonet": MetaGANProtoNet,
    "metagan_relationnet": MetaGANRelationNet,
    "metagan_maml": MetaGANMAML,
    "maml_rl": MAMLRL,
    "promp": ProMP,
    "rl2": RL2,
}
