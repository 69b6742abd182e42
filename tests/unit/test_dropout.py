"""Dropout has an effect or is refused: every algorithm draws masks for a network that drops out values, or says so."""

from __future__ import annotations

import importlib
from dataclasses import asdict
from pathlib import Path

import pytest
import torch

from pipeline import config
from pipeline.algorithms import ALGORITHMS
from pipeline.build import build_components
from pipeline.core import plugins
from pipeline.core.agent import Agent
from pipeline.core.failures import ConfigError
from pipeline.core.flat import cast
from pipeline.core.network import DROPOUT, Adapted
from pipeline.core.seeding import Ticket
from pipeline.core.types import Context, Points
from pipeline.families.search import ArchitectureSearch
from pipeline.runs.dry_run import dry_run
from tests.contract.cases import small
from tests.unit import own_modules

pytestmark = pytest.mark.usefixtures("torch_threads")

OWN = own_modules.__name__
WITHOUT_MASKS = {"nearest", "metamemory", "mbpa"}
"""As it is now. The product has no such list: it looks at what an algorithm draws."""

WITHOUT_LAYERS = {name for name, one in ALGORITHMS.items() if issubclass(one, Agent | ArchitectureSearch)}
"""They take policies, or search spaces, alone, which have no dropout."""


@pytest.fixture(autouse=True)
def imported(monkeypatch):
    monkeypatch.setattr(plugins, "_imported", {OWN: None})


def recipe(algorithm, images, **changes):
    sinusoids = "values" in ALGORITHMS[algorithm].needs.targets
    curves = {"name": "gp_curves" if Points in ALGORITHMS[algorithm].needs.data else "sinusoid"}
    head = {"head": "4"} if algorithm != "nearest" else {}
    labels = "classes" if ALGORITHMS[algorithm].needs.targets == ("classes",) else "slots"
    shape = {"shots": 5, "queries": 5} if sinusoids else {"ways": 3, "shots": 1, "queries": 2}
    data = {
        "name": "dropping",
        "steps": 1,
        "tasks_per_step": 2,
        "chunk_size": 2,
        "algorithm": {"name": algorithm, **asdict(small(ALGORITHMS[algorithm].Config))},
        "net": {"name": "module", "factory": f"{OWN}:dropping", **head},
        "source": curves if sinusoids else {"name": "images", "path": str(images), "labels": labels},
        "normalisation": "none",
        "task": {"train": shape, "eval": shape},
        "outer": {"optimizer" if algorithm == "learnedoptimizer" else "model": {"optimizer": "adam", "lr": 0.01}},
        "evaluation": {"tasks": 1},
    }
    return config.validate(data | changes, "dropping")


@pytest.mark.parametrize("algorithm", [name for name in ALGORITHMS if name not in WITHOUT_LAYERS])
def test_an_algorithm_draws_masks_or_is_refused(algorithm, small_images):
    wanted = recipe(algorithm, small_images)
    if algorithm in WITHOUT_MASKS:
        with pytest.raises(ConfigError) as caught:
            dry_run(wanted)
        assert str(caught.value) == (
            f"net.name: module has dropout layers, which have no effect with algorithm.name: {algorithm}, which draws "
            "no dropout masks; leave them out, or choose an algorithm whose draw includes model.draw"
        )
        return
    trained, source, layout, theta, _ = dry_run(wanted)
    ticket = Ticket(0, "train", "train", 1, 0)
    task = source.sample(ticket)
    noise = trained.draw(ticket.rng("noise"), task, "train")
    task, noise = cast((task, noise), theta.dtype)
    masks = {name: leaf for name, leaf in noise.items() if name.startswith(DROPOUT)}
    assert set(masks) == {f"{DROPOUT}3"}
    assert not any(name.startswith(DROPOUT) for name in trained.draw(ticket.rng("noise"), task, "evaluate"))

    def loss(noise):
        return trained.learn(layout.unpack(theta), task, Context(1, "train", task.ways, noise))[1].loss

    everything = {name: torch.ones_like(mask) for name, mask in masks.items()}
    assert torch.equal(loss(noise), loss(noise))
    assert not torch.equal(loss(noise), loss(noise | everything)), "the masks are drawn and not used"


def test_the_packaged_network_s_setting_is_named_with_its_value(small_images):
    net = {"name": "resnet12", "channels": [2, 2, 2, 2], "dropout": 0.25}
    wanted = recipe("metamemory", small_images, net=net, normalisation="transductive")
    with pytest.raises(ConfigError) as caught:
        dry_run(wanted)
    assert str(caught.value) == (
        "net.dropout: 0.25 has no effect with algorithm.name: metamemory, which draws no dropout masks; leave it at 0, "
        "or choose an algorithm whose draw includes model.draw"
    )
    dry_run(recipe("metamemory", small_images, net=net | {"dropout": 0.0}, normalisation="transductive"))
    dry_run(recipe("protonet", small_images, net=net, normalisation="transductive"))


@pytest.mark.parametrize("beam", [1, 3])
def test_an_encoder_decoder_drops_in_training_and_answers_with_all_of_its_numbers(beam):
    wanted = config.load("ciphers_maml", ["net.dropout=0.3", f"net.beam={beam}", "net.hidden=8"])
    trained, source, layout, theta, _ = dry_run(wanted)
    ticket = Ticket(0, "train", "train", 1, 0)
    task = source.sample(ticket)
    masks = {name: leaf.float() for name, leaf in trained.draw(ticket.rng("noise"), task, "train").items()}
    weights = Adapted(layout.unpack(theta)["model"], {})
    answers = [trained.predict(weights._replace(phi=weights.phi | more), task.query.x) for more in ({}, masks)]
    assert masks
    assert torch.equal(*answers)


def test_an_algorithm_of_one_s_own_is_judged_by_what_it_draws(small_images, monkeypatch):
    """The worked example of the documentation draws nothing."""
    monkeypatch.syspath_prepend(Path(__file__).parents[2] / "docs" / "example")
    example = importlib.import_module("shrunken_means").ShrunkenMeans

    class Drawing(example):
        def draw(self, rng, task, phase):
            return self.model.draw(rng, len(task.support.x) + len(task.query.x), phase)

    monkeypatch.setitem(ALGORITHMS, "test_shrunken", example)
    monkeypatch.setitem(ALGORITHMS, "test_drawing", Drawing)
    with pytest.raises(ConfigError, match="no effect with algorithm.name: test_shrunken, which draws no dropout masks"):
        dry_run(recipe("test_shrunken", small_images))
    dry_run(recipe("test_drawing", small_images))


def test_a_run_that_is_only_evaluated_is_let_through(small_images):
    """Its theta is there already, and evaluation drops nothing."""
    dry_run(recipe("mbpa", small_images), learn=False)


def test_a_network_around_the_recipe_s_drops_what_that_one_drops(small_images):
    """Recurrent MAML sets a cell on the network: the masks go through it."""
    algorithm = build_components(recipe("recurrentmaml", small_images)).algorithm
    ticket = Ticket(0, "train", "train", 1, 0)
    first, second = (algorithm.model.draw(ticket.rng("noise"), 4, "train") for _ in range(2))
    assert set(first) == {f"{DROPOUT}3"}
    assert torch.equal(first[f"{DROPOUT}3"], second[f"{DROPOUT}3"])
