"""Numbers left out at each inner step of an evaluation: other ones at each step, none in an answer."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pipeline import config
from pipeline.build import build_components, build_worker
from pipeline.core.failures import ConfigError
from pipeline.core.flat import cast
from pipeline.core.network import DROPOUT, INNER
from pipeline.core.seeding import Ticket
from pipeline.engine.interfaces import Chunk
from pipeline.runs import run_end
from pipeline.runs.dry_run import dry_run
from pipeline.storage import storage_at
from tests.unit.test_exact_transduction import context, made, net_of, task_of

SETTINGS = {
    "pretrain": {"eval_inner_lr": 0.1, "eval_inner_steps": 3},
    "finetune": {"inner_lr": 0.1, "inner_steps": 3},
    "maml": {"inner_lr": 0.1, "eval_inner_steps": 3},
    "reptile": {"inner_lr": 0.1, "eval_inner_steps": 3, "inner_optimizer": "sgd", "eval_inner_batch": 99},
}


def case(name):
    algorithm, theta = made(name, net=net_of(eval_dropout=0.4), **SETTINGS[name])
    task = task_of()
    drawn = context(algorithm, task, "evaluate")
    return algorithm, theta, task, drawn._replace(noise=cast(drawn.noise, torch.float64))


@pytest.mark.parametrize("name", SETTINGS)
def test_each_inner_step_has_masks_of_its_own(name):
    """Three steps by hand on the support loss, each with its row of the masks; the same row throughout fails."""
    algorithm, theta, task, drawn = case(name)
    support = task.support
    if "batches" in drawn.noise:
        (rows,) = {tuple(sorted(batch.tolist())) for batch in drawn.noise["batches"]}
        assert rows == tuple(range(len(support.x))), "a batch is the whole set here, in another order"

    slope = torch.func.grad(lambda at, seen: algorithm.loss(algorithm.model.outputs(at, seen), seen.y).loss)

    def by_hand(row_of):
        phi = theta["model"]
        for j in range(3):
            order = drawn.noise["batches"][j] if "batches" in drawn.noise else torch.arange(len(support.x))
            seen = type(support)(support.source[order], support.target[order])
            masks = {
                leaf.removeprefix(INNER): value[row_of(j)]
                for leaf, value in drawn.noise.items()
                if leaf.startswith(INNER)
            }
            assert set(masks) == {f"{DROPOUT}{place}" for place in ("source", "target", "features")}
            gradient = slope(phi | masks, seen)
            phi = {leaf: value - 0.1 * gradient[leaf] for leaf, value in phi.items()}
        return phi

    found, wanted, wrong = algorithm.last(theta, support, drawn), by_hand(lambda j: j), by_hand(lambda j: 0)
    worst = max(float((found[leaf] - wanted[leaf]).abs().max()) for leaf in wanted)
    assert worst < 1e-12
    assert max(float((found[leaf] - wrong[leaf]).abs().max()) for leaf in wanted) > 1e-4


@pytest.mark.parametrize("name", SETTINGS)
def test_an_answer_and_training_leave_nothing_out(name):
    algorithm, theta, task, drawn = case(name)
    adapted = algorithm.adapt(theta, task.support, drawn)
    assert set(adapted.phi) == set(theta["model"])
    assert not any(leaf.startswith((INNER, DROPOUT)) for leaf in context(algorithm, task, "train").noise)


def test_a_share_without_an_effect_is_refused():
    """ANIL's inner steps see features that are computed once."""
    changes = ["net.eval_dropout=0.2", "net.hidden=8", "steps=1"]
    anil = ["algorithm={name: anil, inner_lr: 0.1}"]
    with pytest.raises(ConfigError, match=r"net.eval_dropout: 0.2 has no effect with algorithm.name: anil") as caught:
        dry_run(config.load("ciphers_maml", [*changes, *anil]))
    assert "\n" not in str(caught.value)
    dry_run(config.load("ciphers_maml", changes))


def small(share, batch):
    """Ciphers on a small network, fine-tuned in four steps of Adam."""
    tuned = f"eval_inner_optimizer: adam, eval_inner_lr: 0.05, eval_inner_steps: 4, eval_inner_batch: {batch}"
    sizes = ["net.hidden=8", "net.embedding=8", "task.eval={shots: 20, queries: 5}"]
    return config.load("ciphers_maml", [f"algorithm={{name: pretrain, {tuned}}}", *sizes, f"net.eval_dropout={share}"])


@pytest.mark.parametrize(("batch", "rows"), [("null", 20), ("16", 16)])
def test_a_worker_scores_tasks_together_as_it_scores_them_alone(batch, rows):
    """A step's masks are of the examples that it sees, which are fewer in a mini-batch."""

    def accuracy(share, vectorise):
        components = build_components(small(share, batch))
        worker = build_worker(small(share, batch), components)
        worker.drawing.stacks = vectorise
        tickets = tuple(Ticket(1, "evaluate", "test", 0, number) for number in range(3))
        return worker.score(components.theta.numpy(), Chunk(0, 0, tickets)).metrics["token_accuracy"]

    together, alone, whole = accuracy(0.4, True), accuracy(0.4, False), accuracy(0.0, True)
    assert np.abs(together - alone).max() < 1e-6
    assert np.abs(together - whole).max() > 1e-3
    algorithm, ticket = build_components(small(0.4, batch)), Ticket(1, "evaluate", "test", 0, 0)
    drawn = algorithm.algorithm.draw(ticket.rng("noise"), algorithm.source.sample(ticket), "evaluate")
    assert {leaf.shape[:2] for name, leaf in drawn.items() if name.startswith(INNER)} == {(4, rows)}


def test_a_finished_run_is_judged_again_with_another_share(tmp_path, monkeypatch):
    """As with another search: the evaluation that it has is of other settings."""
    monkeypatch.setattr(run_end, "has_finished", lambda uri, run: True)
    (tmp_path / "tracked_run").write_text("a" * 32)
    before, storage = config.load("ciphers_maml"), storage_at(str(tmp_path))
    assert run_end.is_settled(before, before, storage)
    for change in ("net.eval_dropout=0.2", "net.beam=4"):
        assert not run_end.is_settled(config.load("ciphers_maml", [change]), before, storage)
    pictures = config.load("omniglot_protonet_5w1s")
    assert run_end.is_settled(pictures, pictures, storage)
    changed = config.load("omniglot_protonet_5w1s", ["source.eval_rotations=random"])
    assert not run_end.is_settled(changed, pictures, storage)
