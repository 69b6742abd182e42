"""What MatchingNet and RelationNet are in closed form and in their limits, in float64.

MatchingNet: Vinyals et al. 2016, arXiv 1606.04080, eq. 1. RelationNet: Sung et al. 2018, arXiv 1711.06025, eq. 1 and 2.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.testing import assert_close

from pipeline.algorithms.matchingnet import MatchingNet
from pipeline.algorithms.protonet import ProtoNet, Prototypes
from pipeline.algorithms.relationnet import RelationNet
from pipeline.core.losses import cross_entropy
from pipeline.core.types import Batch, Context, MetaParams, Params, Task
from pipeline.families.metric import MetricBased
from pipeline.nets.cells import LSTM
from pipeline.nets.full_context import FullContext
from pipeline.nets.mlp import MLP
from pipeline.nets.model import Adapted, NormalisedNet

pytestmark = pytest.mark.usefixtures("torch_threads")

WAYS, QUERIES, INPUTS, WIDTH = 5, 20, 6, 8
EXACT = {"rtol": 0.0, "atol": 1e-12}


def model(mode: str = "none") -> NormalisedNet:
    net = MLP(MLP.Config(hidden=(16, WIDTH), activation="tanh"), (INPUTS,), None, normalised=mode != "none")
    return NormalisedNet(net, mode, (INPUTS,))


def matching(**fields: object) -> MatchingNet:
    return MatchingNet(MatchingNet.Config(**fields), model(), cross_entropy)


def relating(aggregate: str, mode: str = "none") -> RelationNet:
    return RelationNet(RelationNet.Config(aggregate), model(mode), cross_entropy)


def first(algorithm: MetricBased) -> MetaParams:
    theta = algorithm.init(np.random.default_rng(0))
    return {group: {name: leaf.double() for name, leaf in leaves.items()} for group, leaves in theta.items()}


def task(shots: int) -> Task[Batch]:
    rng = np.random.default_rng(shots)
    support_y = torch.from_numpy(rng.permutation(np.arange(WAYS).repeat(shots)))
    support = Batch(torch.from_numpy(rng.normal(size=(len(support_y), INPUTS))), support_y)
    query = Batch(torch.from_numpy(rng.normal(size=(QUERIES, INPUTS))), torch.arange(QUERIES) % WAYS)
    return Task("", support, query, WAYS)


def context(**noise: Tensor) -> Context:
    return Context(0, "train", WAYS, noise)


def embedded(algorithm: MetricBased, theta: MetaParams, few: Task[Batch]) -> tuple[Tensor, Tensor]:
    return algorithm.model.forward_own_statistics(theta["model"], few.support.x)[
        0
    ], algorithm.model.forward_own_statistics(theta["model"], few.query.x)[0]


@pytest.mark.parametrize("shots", [1, 4])
def test_attention_sums_to_one_and_a_class_has_the_sum_of_its_own(shots):
    algorithm, few = matching(temperature=0.3), task(shots)
    theta = first(algorithm)
    z_support, z = embedded(algorithm, theta, few)
    attention = (F.cosine_similarity(z.unsqueeze(1), z_support.unsqueeze(0), dim=-1) / 0.3).softmax(1)
    by_hand = torch.stack([attention[:, few.support.y == slot].sum(1) for slot in range(WAYS)], 1)

    adapted = algorithm.adapt(theta, few.support, context())
    log_p = algorithm.predict(adapted, few.query.x)
    assert_close(log_p.exp(), by_hand, rtol=0.0, atol=1e-9)  # the length's epsilon
    assert_close(log_p.exp().sum(1), torch.ones(QUERIES, dtype=torch.float64), **EXACT)
    assert_close(log_p.softmax(1), log_p.exp(), **EXACT)
    likelihood = log_p[torch.arange(QUERIES), few.query.y]
    assert_close(algorithm.score(adapted, few.query, context()).loss, -likelihood.mean(), **EXACT)


def test_a_temperature_near_zero_is_the_nearest_neighbour():
    """Down to where every probability but one is 0 in float64, and still with a gradient."""
    algorithm, few = matching(temperature=1e-5), task(3)
    theta = first(algorithm)
    z_support, z = embedded(algorithm, theta, few)
    nearest = few.support.y[F.cosine_similarity(z.unsqueeze(1), z_support.unsqueeze(0), dim=-1).argmax(1)]
    log_p = algorithm.predict(algorithm.adapt(theta, few.support, context()), few.query.x)
    assert torch.equal(log_p.argmax(1), nearest)
    assert_close(log_p.exp(), F.one_hot(nearest, WAYS).double(), rtol=0.0, atol=1e-9)
    gradient, score = algorithm.learn(theta, few, context())
    assert torch.isfinite(score.loss)
    assert all(torch.isfinite(leaf).all() for leaf in gradient["model"].values())


def test_attention_over_a_support_set_that_says_nothing_costs_ln_n():
    algorithm, few = matching(), task(3)
    alike = few.support._replace(x=few.support.x[:1].expand(len(few.support.y), -1))
    theta = first(algorithm)
    score = algorithm.score(algorithm.adapt(theta, alike, context()), few.query, context())
    assert score.loss.item() == pytest.approx(math.log(WAYS), abs=1e-12)


def test_one_shot_on_a_sphere_is_protonet_at_half_the_temperature():
    """Between unit vectors -‖f - g‖² = 2 cos(f, g) - 2."""
    algorithm, few = matching(temperature=0.5), task(1)
    theta = first(algorithm)
    z_support, z = (F.normalize(part, dim=1) for part in embedded(algorithm, theta, few))
    means = z_support[few.support.y.argsort()]
    distances, _ = ProtoNet(ProtoNet.Config(), model(), cross_entropy).compare(
        Prototypes(means, Adapted(theta["model"], {})), z
    )
    log_p = algorithm.predict(algorithm.adapt(theta, few.support, context()), few.query.x)
    assert_close(log_p.exp(), distances.softmax(1), rtol=0.0, atol=1e-9)


@pytest.mark.parametrize("mode", ["none", "transductive"])
def test_sums_of_features_and_of_scores_agree_for_one_shot_alone(mode):
    for shots in (1, 3):
        few, scores = task(shots), {}
        for aggregate in ("feature_sum", "score_sum", "score_mean"):
            algorithm = relating(aggregate, mode)
            theta = first(algorithm)
            scores[aggregate] = algorithm.predict(algorithm.adapt(theta, few.support, context()), few.query.x)
        assert_close(scores["score_sum"], shots * scores["score_mean"], **EXACT)
        off = (scores["feature_sum"] - scores["score_sum"]).abs().max().item()
        assert off <= 1e-12 if shots == 1 else off > 1e-2


def test_a_relation_is_the_head_s_answer_to_the_pair_and_its_loss_the_squared_error():
    algorithm, few = relating("feature_sum"), task(3)
    theta = first(algorithm)
    z_support, z = embedded(algorithm, theta, few)
    classes = torch.stack([z_support[few.support.y == slot].sum(0) for slot in range(WAYS)])
    head = theta["relation"]
    scores = torch.empty(QUERIES, WAYS, dtype=torch.float64)
    for row, slot in np.ndindex(QUERIES, WAYS):
        pair = torch.cat([classes[slot], z[row]])
        hidden = torch.relu(head["hidden/weight"] @ pair + head["hidden/bias"])
        scores[row, slot] = torch.sigmoid(head["head/weight"] @ hidden + head["head/bias"]).squeeze()
    adapted = algorithm.adapt(theta, few.support, context())
    assert_close(algorithm.predict(adapted, few.query.x), scores, **EXACT)
    found = algorithm.score(adapted, few.query, context())
    assert_close(found.loss, F.mse_loss(scores, F.one_hot(few.query.y, WAYS).double()), **EXACT)
    assert found.metrics["accuracy"] == (scores.argmax(1) == few.query.y).double().mean()


def test_full_context_with_weights_of_zero_is_none():
    plain, full, few = matching(), matching(full_context=True), task(2)
    theta, order = first(full), torch.randperm(len(few.support.y))
    answers = plain.predict(plain.adapt(theta, few.support, context()), few.query.x)
    nothing = theta | {"context": {name: torch.zeros_like(leaf) for name, leaf in theta["context"].items()}}
    for weights, agree in ((nothing, True), (theta, False)):
        adapted = full.adapt(weights, few.support, context(order=order))
        assert torch.allclose(full.predict(adapted, few.query.x), answers, rtol=0, atol=1e-12) == agree


def test_full_context_reads_the_support_set_in_the_order_that_was_drawn():
    algorithm, few = matching(full_context=True), task(2)
    theta = first(algorithm)
    support, rows = few.support, len(few.support.y)
    order, other = (algorithm.draw(np.random.default_rng(seed), few, "train")["order"] for seed in (1, 2))
    assert order.sort().values.tolist() == list(range(rows))

    def answers(shown: Batch, along: Tensor) -> Tensor:
        return algorithm.predict(algorithm.adapt(theta, shown, context(order=along)), few.query.x)

    moved = torch.arange(rows).roll(3)
    same_sequence = answers(Batch(support.x[moved], support.y[moved]), moved.argsort()[order])
    assert_close(same_sequence, answers(support, order), **EXACT)
    assert (answers(support, other) - answers(support, order)).abs().max() > 1e-6
    assert matching().draw(np.random.default_rng(1), few, "train") == {}


def torchs(cell: LSTM, params: Params, name: str) -> nn.LSTMCell:
    theirs = nn.LSTMCell(cell.inputs, cell.hidden, dtype=torch.float64)
    bias = params[f"{name}/bias"]
    values = (params[f"{name}/input"], params[f"{name}/recurrent"], bias, torch.zeros_like(bias))
    theirs.load_state_dict(dict(zip(("weight_ih", "weight_hh", "bias_ih", "bias_hh"), values, strict=True)))
    return theirs


@torch.no_grad()
def test_full_context_is_the_paper_s_with_torch_s_cells():
    """Support: a bidirectional LSTM with a skip; query: LSTM(z, [h, r]) with a skip, r read from the support set."""
    full, rng = FullContext(WIDTH, reads=3), np.random.default_rng(3)
    params = full.init(rng)
    z_support, z = (torch.from_numpy(rng.normal(size=(rows, WIDTH))) for rows in (4, 3))
    order = torch.tensor([2, 0, 3, 1])

    g = z_support.clone()
    for name, sequence in (("ahead", order), ("back", order.flip(0))):
        cell, state = torchs(full.ahead, params, name), None
        for row in sequence:
            state = cell(z_support[row], state)
            g[row] += state[0]
    assert_close(full.support(params, z_support, order), g, **EXACT)

    reader = torchs(full.reader, params, "reader")
    h, c = z, torch.zeros_like(z)
    for _ in range(full.reads):
        r = torch.softmax(h @ g.T, 1) @ g
        hidden, c = reader(torch.cat([z, r], 1), (h, c))
        h = hidden + z
    assert_close(full.query(params, z, g), h, **EXACT)
