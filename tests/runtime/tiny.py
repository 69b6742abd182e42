"""The tiny recipes of the Ray tests."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from pipeline import config
from pipeline.algorithms import ALGORITHMS
from pipeline.config import Recipe
from pipeline.core.agent import Agent
from pipeline.core.types import Points
from pipeline.families.search import ArchitectureSearch
from tests.contract.cases import pairs_beside, small

STEPS, TASKS, CHUNK = 4, 8, 2
MLP = {"name": "mlp", "init_gain": 0.3333}
OPEN = {"name": "function_cells", "cell": None}
"""The network of an algorithm that searches."""
STEPPED = {"learnedoptimizer": "optimizer"}
"""The group that a recipe's optimizer is for, where it is not ``model``."""
SEEDS = {name: 5 + number for number, name in enumerate(ALGORITHMS)}


def recipe(algorithm: str, images: Path, steps: int = STEPS, **changes: Any) -> Recipe:
    """Four chunks a step: curves for an algorithm that takes them, worlds for agents, else images through conv-4."""
    curves = "values" in ALGORITHMS[algorithm].needs.targets
    drawn = {"name": "gp_curves" if Points in ALGORITHMS[algorithm].needs.data else "sinusoid"}
    searches = issubclass(ALGORITHMS[algorithm], ArchitectureSearch)
    labels = ALGORITHMS[algorithm].needs.targets[0]
    shape = {"shots": 5, "queries": 5} if curves else {"ways": 3, "shots": 1, "queries": 2}
    data = {
        "name": f"tiny_{algorithm}",
        "seed": SEEDS[algorithm],
        "steps": steps,
        "tasks_per_step": TASKS,
        "chunk_size": CHUNK,
        "algorithm": {"name": algorithm, **asdict(small(ALGORITHMS[algorithm].Config))},
        "net": OPEN if searches else MLP if curves else {"name": "conv4", "channels": 8},
        "source": drawn if curves else {"name": "images", "path": str(images), "labels": labels},
        "normalisation": "none" if curves or algorithm == "nearest" else "transductive",
        "task": {"train": shape, "eval": shape},
        "outer": {STEPPED.get(algorithm, "model"): {"optimizer": "adam", "lr": 0.01}},
        "evaluation": {"tasks": 4},
    }
    changes["tracking"] = {"report": False} | changes.get("tracking", {})  # a report takes longer than such a run
    if issubclass(ALGORITHMS[algorithm], Agent):
        data |= {"net": {"name": "policy", "hidden": [8]}, "source": {"name": "navigation", "horizon": 4}}
        data |= {"normalisation": "none", "task": dict.fromkeys(("train", "eval"), {"shots": 20, "queries": 2})}
    return config.validate(data | changes, data["name"])


WORDS = ("ciphers", "g2p", "inflection", "captions")
"""The sources of pairs of sequences."""


def words(source: str, images: Path, algorithm: str = "maml") -> Recipe:
    """``recipe`` for a source of pairs, on a small encoder–decoder."""
    short = {"lengths": [10, 10], "train_lengths": [10, 10]}
    own = {} if source == "ciphers" else {"path": str(pairs_beside(images)), **short}
    shape = {"shots": 4, "queries": 4}
    return recipe(
        algorithm,
        images,
        net={"name": "seq2seq", "embedding": 8, "hidden": 8},
        source={"name": source, **own},
        normalisation="none",
        task={"train": shape, "eval": shape},
        evaluation={"tasks": 3},
        seed=100 + WORDS.index(source),
    )


def sets(images: Path, algorithm: str = "maml", **changes: Any) -> Recipe:
    """``recipe`` for two support sets that come one after the other."""
    shape = {"ways": 4, "shots": 1, "queries": 2}
    fitting = {
        "source": {"name": "image_sets", "path": str(images)},
        "task": {"train": shape, "eval": shape},
        "normalisation": {"maml": "transductive", "protonet": "running"}.get(algorithm, "none"),
        "seed": 300,
    }
    return recipe(algorithm, images, **fitting | changes)


def cheetah() -> Recipe:
    """``recipe`` for an agent in an environment that MuJoCo simulates."""
    shape = {"shots": 4, "queries": 2}
    tiny = recipe("maml_rl", Path(), source={"name": "cheetah", "horizon": 4}, seed=200)
    changes = {"algorithm": {"name": "maml_rl", "inner_episodes": 2}, "task": {"train": shape, "eval": shape}}
    return config.validate(tiny.model_dump() | changes, "tiny_cheetah")
