"""ProtoNet is a linear head on its embedding (Snell et al. 2017, arXiv 1703.05175, §2.4), in float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from pipeline.algorithms.protonet import ProtoNet
from pipeline.core.failures import ConfigError
from pipeline.core.losses import cross_entropy
from pipeline.core.types import Batch, Context, Task
from pipeline.nets.mlp import MLP
from pipeline.nets.model import NormalisedNet

pytestmark = pytest.mark.usefixtures("torch_threads")

WAYS, QUERIES, INPUTS = 5, 40, 6
EXACT = {"rtol": 0.0, "atol": 1e-12}


@pytest.fixture
def protonet() -> ProtoNet:
    net = MLP(MLP.Config(hidden=(16, 8), activation="tanh"), (INPUTS,), None, normalised=False)
    return ProtoNet(ProtoNet.Config(), NormalisedNet(net, "none", (INPUTS,)), cross_entropy)


def task(shots: int) -> Task[Batch]:
    rng = np.random.default_rng(shots)
    support_y = torch.from_numpy(rng.permutation(np.arange(WAYS).repeat(shots)))
    support = Batch(torch.from_numpy(rng.normal(size=(len(support_y), INPUTS))), support_y)
    query = Batch(torch.from_numpy(rng.normal(size=(QUERIES, INPUTS))), torch.arange(QUERIES) % WAYS)
    return Task("", support, query, WAYS)


def embed(protonet: ProtoNet, theta: dict[str, dict[str, Tensor]], x: Tensor) -> Tensor:
    return protonet.model.forward_own_statistics(theta["model"], x)[0]


@pytest.mark.parametrize("shots", [1, 4])
def test_prototypes_are_a_linear_head(protonet, shots):
    theta, (_, support, query, *_) = protonet.init(np.random.default_rng(0)), task(shots)
    context = Context(0, "train", WAYS, {})
    adapted = protonet.adapt(theta, support, context)
    z, z_support = embed(protonet, theta, query.x), embed(protonet, theta, support.x)

    c = torch.stack([z_support[support.y == slot].mean(0) for slot in range(WAYS)])
    assert_close(adapted.means, c, **EXACT)
    logits = protonet.predict(adapted, query.x)
    head = z @ (2 * c).T - c.square().sum(1)
    assert_close(logits.softmax(1), head.softmax(1), **EXACT)
    assert_close(
        protonet.score(adapted, query, context).loss, torch.nn.functional.cross_entropy(head, query.y), **EXACT
    )

    distance = torch.cdist(z, c)
    assert torch.equal(logits.argmax(1), distance.argmin(1))
    assert_close(logits, -distance.square(), **EXACT)


def test_one_shot_is_a_matching_network_under_squared_euclidean_attention(protonet):
    theta, (_, support, query, *_) = protonet.init(np.random.default_rng(0)), task(1)
    attention = -torch.cdist(embed(protonet, theta, query.x), embed(protonet, theta, support.x)).square()
    labels = torch.eye(WAYS, dtype=torch.float64)[support.y]
    matching = attention.softmax(1) @ labels
    adapted = protonet.adapt(theta, support, Context(0, "train", WAYS, {}))
    assert_close(protonet.predict(adapted, query.x).softmax(1), matching, **EXACT)


def test_the_gradient_flows_through_the_prototypes(protonet):
    theta, few = protonet.init(np.random.default_rng(0)), task(2)
    gradient, _ = protonet.learn(theta, few, Context(0, "train", WAYS, {}))
    name, at, step = "layer0/weight", (3, 2), 1e-6
    values = []
    for moved in (step, -step):
        weight = theta["model"][name].clone()
        weight[at] += moved
        nearby = {"model": theta["model"] | {name: weight}}
        values.append(protonet.objective(nearby, few, Context(0, "train", WAYS, {})).loss)
    assert_close(gradient["model"][name][at], (values[0] - values[1]) / (2 * step), rtol=1e-6, atol=1e-9)


def test_outputs_are_divided_by_the_temperature(protonet):
    theta, (_, support, query, *_) = protonet.init(np.random.default_rng(0)), task(2)
    warm = ProtoNet(ProtoNet.Config(temperature=8.0), protonet.model, cross_entropy)
    plain, divided = (
        one.predict(one.adapt(theta, support, Context(0, "train", WAYS, {})), query.x) for one in (protonet, warm)
    )
    assert_close(divided, plain / 8, **EXACT)


def batched(mode: str, batch: str) -> ProtoNet:
    net = MLP(MLP.Config(hidden=(16, 8), activation="tanh"), (INPUTS,), None, normalised=True)
    return ProtoNet(ProtoNet.Config(batch=batch), NormalisedNet(net, mode, (INPUTS,)), cross_entropy)


@pytest.mark.parametrize("mode", ["transductive", "running"])
def test_a_joint_batch_normalises_support_and_queries_by_the_moments_of_both(mode):
    joint, (_, support, query, *_) = batched(mode, "joint"), task(2)
    theta, context = joint.init(np.random.default_rng(0)), Context(0, "train", WAYS, {})
    z, moments = joint.model.forward_own_statistics(theta["model"], torch.cat([support.x, query.x]))
    z_support, z_query = z[: len(support.y)], z[len(support.y) :]
    c = torch.stack([z_support[support.y == slot].mean(0) for slot in range(WAYS)])
    adapted = joint.adapt(theta, support, context)
    assert_close(joint.predict(adapted, query.x), -torch.cdist(z_query, c).square(), **EXACT)
    apart = batched(mode, "apart")
    assert (apart.predict(apart.adapt(theta, support, context), query.x) - joint.predict(adapted, query.x)).any()
    if mode == "running":
        records = joint.score(adapted, query, context).records
        assert all(torch.equal(records[name], moment) for name, moment in moments.items())
        assert records.keys() == moments.keys()


def test_with_running_moments_a_joint_batch_is_evaluated_as_any_other():
    _, support, query, *_ = task(2)
    context, outputs = Context(0, "evaluate", WAYS, {}), []
    for batch in ("apart", "joint"):
        one = batched("running", batch)
        theta = one.init(np.random.default_rng(0))
        outputs.append(one.predict(one.adapt(theta, support, context), query.x))
    assert torch.equal(*outputs)


@pytest.mark.parametrize("mode", ["support", "one_query", "layer"])
def test_a_joint_batch_is_refused_where_nothing_is_normalised_by_a_batch_of_queries(mode):
    with pytest.raises(ConfigError, match=f"algorithm.batch: joint, but normalisation '{mode}' looks at no other"):
        batched(mode, "joint")
