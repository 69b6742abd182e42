"""Modules as networks: pure functions of their leaves, under the recipe's normalisation, with a task's own dropout."""

from __future__ import annotations

import copy
import functools
import re

import numpy as np
import pytest
import torch
from torch import nn
from torch.func import functional_call, grad, vmap
from torch.testing import assert_close

from pipeline.algorithms.gradientmemory import GradientMemoryMAML
from pipeline.core import plugins
from pipeline.core.failures import ConfigError
from pipeline.core.losses import cross_entropy
from pipeline.core.network import DROPOUT, HEAD
from pipeline.nets.model import NormalisedNet
from pipeline.nets.module import ModuleNet, OwnModule
from pipeline.nets.normalisation import EPSILON, MODES
from pipeline.nets.pure_layers import BatchNorm
from tests.unit import own_modules

pytestmark = pytest.mark.usefixtures("torch_threads")

EXACT = {"rtol": 1e-10, "atol": 1e-10}
OWN = "tests.unit.own_modules"
IMAGE = (1, 8, 8)


@pytest.fixture(autouse=True)
def imported(monkeypatch):
    monkeypatch.setattr(plugins, "_imported", {OWN: None})


def net(factory, input_shape=(3,), outputs=2, head="", normalised=False, **arguments):
    config = OwnModule.Config(f"{OWN}:{factory}", head, arguments)
    return OwnModule(config, input_shape, outputs, normalised=normalised)


def model(mode="transductive", factory="plain", input_shape=(3,), head="4", outputs=2, **arguments):
    of = net(factory, input_shape, outputs, head, mode != "none", **arguments)
    return NormalisedNet(of, mode, input_shape)


def leaves(of, seed=0):
    """Fresh leaves in float64; scales and shifts of the normalisation are moved from 1 and 0."""
    params = {name: leaf.double() for name, leaf in of.init(np.random.default_rng(seed)).items()}
    return {name: leaf + 0.1 * drawn(*leaf.shape, seed=7) for name, leaf in params.items()}


def drawn(*shape, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).normal(size=shape))


def test_leaves_are_named_by_layer_and_the_last_layer_is_the_head():
    params = model().init(np.random.default_rng(0))
    assert {name: tuple(leaf.shape) for name, leaf in params.items()} == {
        "0/weight": (5, 3),
        "0/bias": (5,),
        "1/weight": (5,),
        "1/bias": (5,),
        "head/weight": (2, 5),
        "head/bias": (2,),
    }
    assert {name for name in params if name.startswith(HEAD)} == {"head/weight", "head/bias"}


def test_an_embedding_is_the_module_without_its_last_layer():
    whole, body = model(), model(outputs=None)
    params, x = leaves(whole), drawn(6, 3)
    of_body = {name: leaf for name, leaf in params.items() if not name.startswith(HEAD)}
    assert set(body.init(np.random.default_rng(0))) == set(of_body)
    features = body.forward_own_statistics(of_body, x)[0]
    assert features.shape == (6, body.net.features) == (6, 5)
    assert_close(whole.embed(params, x), features, **EXACT)
    assert_close(whole.body().forward_own_statistics(params, x)[0], features, **EXACT)
    expected = features @ params["head/weight"].T + params["head/bias"]
    assert_close(whole.forward_own_statistics(params, x)[0], expected, **EXACT)


def test_a_head_may_lie_inside_another_layer():
    def make():
        return nn.Sequential(nn.Linear(3, 4), nn.Sequential(nn.Tanh(), nn.Linear(4, 2)))

    nested = ModuleNet(make, "1.1", (3,), 2, normalised=False)
    params = nested.init(np.random.default_rng(0))
    assert set(params) == {"0/weight", "0/bias", "head/weight", "head/bias"}
    features = torch.tanh(drawn(5, 3).float() @ params["0/weight"].T + params["0/bias"])
    assert_close(nested.embed(params, drawn(5, 3).float(), None), features)


def test_with_fixed_weights_and_batch_statistics_the_outputs_are_torch_s():
    """torch's own module in training mode, apart from dropout, is the reference."""
    of, x = model(factory="small", input_shape=IMAGE, head="7"), drawn(6, *IMAGE)
    params = leaves(of)
    theirs = own_modules.small(2).double().train()
    for layer in theirs:
        if isinstance(layer, nn.Dropout | nn.Dropout2d):
            layer.eval()
    state = {name: params[name.replace(".", "/").replace("7/", HEAD)] for name, _ in theirs.named_parameters()}
    assert_close(of.forward_own_statistics(params, x)[0], functional_call(theirs, state, (x,)), **EXACT)


@pytest.mark.parametrize("mode", MODES)
def test_the_recipe_s_mode_decides_by_what_a_query_is_normalised(mode):
    of = model(mode, width=16)
    params, support, x = leaves(of), drawn(6, 3), drawn(4, 3, seed=1)
    running = of.running(params) if mode == "running" else None
    if running is not None:
        running = {name: moment + 0.5 for name, moment in running.items()}
        assert set(running) == {"1/mean", "1/variance"}
    answer = of.predict(of.adapted(params, support, running), x)

    def hidden(rows):
        return rows @ params["0/weight"].T + params["0/bias"]

    def batch(rows):
        return rows.mean(0), rows.var(0, correction=0)

    h = hidden(x)
    if mode == "layer":
        mean, variance = h.mean(1, keepdim=True), h.var(1, correction=0, keepdim=True)
    elif mode == "group":  # eight groups of two
        pairs = h.unflatten(1, (8, 2))
        mean, variance = (part.repeat_interleave(2, 1) for part in (pairs.mean(2), pairs.var(2, correction=0)))
    elif mode == "running":
        mean, variance = running["1/mean"], running["1/variance"]
    elif mode == "one_query":
        moments = [batch(hidden(torch.cat([support, one[None]]))) for one in x]
        mean, variance = (torch.stack(part) for part in zip(*moments, strict=True))
    elif mode == "none":
        mean, variance = 0.0, torch.tensor(1.0 - EPSILON, dtype=h.dtype)
    else:
        mean, variance = batch(hidden(support if mode == "support" else x))
    h = (h - mean) / (variance + EPSILON).sqrt() * params["1/weight"] + params["1/bias"]
    expected = torch.tanh(h) @ params["head/weight"].T + params["head/bias"]
    assert_close(answer, expected, **EXACT)


def test_group_normalisation_needs_groups_of_more_than_one_value():
    of = model("group", width=8)
    with pytest.raises(ConfigError, match="normalisation: 8 groups of one value each in 1"):
        of.forward_own_statistics(leaves(of), drawn(4, 3))


def after_one_step(forward):
    """The query loss after one step of descent on a support set: its gradient has second derivatives."""

    def loss(params, support, query):
        gradient = grad(lambda phi: forward(phi, support).square().mean())(params)
        phi = {name: leaf - 0.3 * gradient[name] for name, leaf in params.items()}
        return (forward(phi, query) - 1).square().mean()

    return loss


def off_from_finite_differences(forward, params):
    """Of the gradient over tasks under ``vmap``, along a random way: the largest error, as a share of its leaf."""
    support, query = drawn(3, 6, *IMAGE), drawn(3, 5, *IMAGE, seed=1)
    over_tasks = vmap(after_one_step(forward), in_dims=(None, 0, 0))
    tracked = {name: leaf.clone().requires_grad_() for name, leaf in params.items()}
    gradient = torch.autograd.grad(over_tasks(tracked, support, query).sum(), list(tracked.values()))
    shares = []
    for number, (name, claimed) in enumerate(zip(params, gradient, strict=True)):
        way = drawn(*params[name].shape, seed=10 + number)
        up, down = (
            over_tasks(params | {name: params[name] + sign * 1e-6 * way}, support, query).sum() for sign in (1, -1)
        )
        off = abs((up - down).item() / 2e-6 - (claimed * way).sum().item())
        shares.append(off / (claimed.norm() * way.norm()).item())
    return max(shares)


def test_second_derivatives_through_batch_normalisation_equal_finite_differences():
    of = model(factory="small", input_shape=IMAGE, head="7")
    params = leaves(of)
    assert off_from_finite_differences(lambda phi, x: of.forward_own_statistics(phi, x)[0], params) < 1e-6


def test_torch_s_fused_batch_normalisation_would_not_pass_this():
    theirs, of = own_modules.small(2).double().train(), model(factory="small", input_shape=IMAGE, head="7")
    for layer in theirs:
        if isinstance(layer, nn.BatchNorm2d):
            layer.track_running_stats, layer.running_mean, layer.running_var = False, None, None
        if isinstance(layer, nn.Dropout | nn.Dropout2d):
            layer.eval()
    params = {name.replace("/", ".").replace("head.", "7."): leaf for name, leaf in leaves(of).items()}
    assert off_from_finite_differences(lambda phi, x: functional_call(theirs, phi, (x,)), params) > 1e-5


def test_every_batch_normalisation_is_replaced_also_one_that_stands_in_two_places():
    shared = nn.BatchNorm1d(3)

    def make():
        return nn.Sequential(nn.Linear(3, 3), shared, nn.Tanh(), nn.Linear(3, 3), shared, nn.Linear(3, 2))

    of = ModuleNet(make, "", (3,), 2, normalised=True)
    replaced = [layer for layer in of._body if isinstance(layer, BatchNorm)]
    assert len(replaced) == 2
    assert replaced[0] is replaced[1]
    assert not any(isinstance(layer, nn.BatchNorm1d) for layer in of._body.modules())


def test_a_batch_normalisation_without_weights_gets_none():
    def make():
        return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4, affine=False), nn.Linear(4, 2))

    of = ModuleNet(make, "2", (3,), 2, normalised=True)
    assert set(of.init(np.random.default_rng(0))) == {"0/weight", "0/bias", "head/weight", "head/bias"}
    normalised = NormalisedNet(of, "transductive", (3,))
    params, x = leaves(normalised), drawn(6, 3)
    h = x @ params["0/weight"].T + params["0/bias"]
    h = (h - h.mean(0)) / (h.var(0, correction=0) + EPSILON).sqrt()
    assert_close(normalised.embed(params, x), h, **EXACT)


OTHER_NORMS = {
    "instance": nn.InstanceNorm2d(2, affine=True),
    "instance without weights": nn.InstanceNorm2d(2),
    "layer": nn.LayerNorm((6, 6)),
    "layer without weights": nn.LayerNorm(6, elementwise_affine=False),
    "layer without bias": nn.LayerNorm(6, bias=False),
    "group": nn.GroupNorm(1, 2),
}


@pytest.mark.parametrize("norm", OTHER_NORMS.values(), ids=OTHER_NORMS)
def test_other_normalisations_stay_what_they_are_with_right_second_derivatives(norm):
    """torch's layer and instance normalisations are off by percents in a backward pass through ``vmap``."""

    def make(norm=norm):
        layers = nn.Conv2d(1, 2, 3, bias=False), copy.deepcopy(norm), nn.Tanh(), nn.MaxPool2d(2), nn.Flatten()
        return nn.Sequential(*layers, nn.Linear(18, 2))

    of = NormalisedNet(ModuleNet(make, "5", IMAGE, 2, normalised=False), "none", IMAGE)
    params, theirs = leaves(of), make().double()
    names = {name.replace("5.", HEAD).replace(".", "/"): name for name, _ in theirs.named_parameters()}
    assert set(params) == set(names)
    state = {name: params[leaf] for leaf, name in names.items()}
    x = drawn(4, *IMAGE)
    assert_close(of.forward_own_statistics(params, x)[0], functional_call(theirs, state, (x,)), **EXACT)
    assert off_from_finite_differences(lambda phi, x: of.forward_own_statistics(phi, x)[0], params) < 1e-6


@pytest.mark.parametrize("name", ["instance", "layer"])
def test_torch_s_fused_layer_and_instance_normalisation_would_not_pass_this(name):
    theirs = nn.Sequential(nn.Conv2d(1, 2, 3, bias=False), OTHER_NORMS[name], nn.Tanh(), nn.Flatten(), nn.Linear(72, 2))
    params = {name: drawn(*leaf.shape, seed=7) / 2 for name, leaf in theirs.named_parameters()}
    assert off_from_finite_differences(lambda phi, x: functional_call(theirs, phi, (x,)), params) > 1e-5


def attentive(kind, **arguments):
    return model("none", "Attentive", IMAGE, "fc", kind=kind, **arguments)


@pytest.mark.parametrize("kind", ["layer", "encoder", "function"])
def test_second_derivatives_through_attention_equal_finite_differences_and_the_loop(kind):
    of = attentive(kind)
    params, support, query = leaves(of), drawn(3, 6, *IMAGE), drawn(3, 5, *IMAGE, seed=1)

    def forward(phi, x):
        return of.forward_own_statistics(phi, x)[0]

    assert off_from_finite_differences(forward, params) < 1e-6
    meta = grad(after_one_step(forward))
    together = vmap(meta, in_dims=(None, 0, 0))(params, support, query)
    alone = [meta(params, *task) for task in zip(support, query, strict=True)]
    for name, values in together.items():
        assert_close(values, torch.stack([one[name] for one in alone]), **EXACT)
    theirs = own_modules.Attentive(kind, 2).double().eval()
    state = {name: params[name.replace(".", "/").replace("fc/", HEAD)] for name, _ in theirs.named_parameters()}
    assert_close(forward(params, support[0]), functional_call(theirs, state, (support[0],)), **EXACT)


@pytest.mark.filterwarnings("ignore:There is a performance drop")
@pytest.mark.parametrize("kind", ["layer", "encoder", "function"])
def test_torch_s_fused_attention_would_not_pass_this(kind):
    theirs = own_modules.Attentive(kind, 2).double()
    params = {name: leaf.detach() for name, leaf in theirs.named_parameters()}
    with pytest.raises(RuntimeError, match="derivative for .*attention.* is not implemented"):
        off_from_finite_differences(lambda phi, x: functional_call(theirs, phi, (x,)), params)


def test_a_transformer_layer_drops_the_same_whether_a_gradient_is_needed_or_not():
    of = attentive("encoder", dropout=0.5)
    params, x = leaves(of) | masks(of), drawn(4, *IMAGE)
    tracked = {name: leaf.clone().requires_grad_() for name, leaf in params.items()}
    expected = of.forward_own_statistics(tracked, x)[0].detach()
    assert_close(of.forward_own_statistics(params, x)[0], expected, **EXACT)


def test_a_pass_leaves_torch_s_choice_of_attention_as_it_was():
    attentive("layer")
    assert torch.backends.mha.get_fastpath_enabled()
    assert torch.backends.cuda.flash_sdp_enabled()


def masks(of, seed=0, rows=9, phase="train"):
    return of.draw(np.random.default_rng(seed), rows, phase)


def test_masks_come_from_the_given_generator_alone():
    of = model(factory="small", input_shape=IMAGE, head="7")
    torch.manual_seed(1)
    first = masks(of)
    torch.manual_seed(2)
    again, other = masks(of), masks(of, seed=1)
    assert set(first) == {f"{DROPOUT}3", f"{DROPOUT}6"}
    assert all(torch.equal(mask, again[name]) for name, mask in first.items())
    assert not any(torch.equal(mask, other[name]) for name, mask in first.items())
    assert of.masks(first | {"order": torch.arange(3)}) == first


def test_masks_keep_the_wanted_share_and_the_mean():
    of = model(factory="small", input_shape=IMAGE, head="7")
    found = masks(of, rows=4000)
    assert found[f"{DROPOUT}3"].shape == (4000, 4, 1, 1), "Dropout2d drops whole channels"
    assert found[f"{DROPOUT}6"].shape == (4000, 4)
    for name, share in ((f"{DROPOUT}3", 0.5), (f"{DROPOUT}6", 0.25)):
        assert set(found[name].unique().tolist()) == {0.0, 1 / (1 - share)}
        assert found[name].mean().item() == pytest.approx(1.0, abs=0.03)


def test_a_mask_multiplies_the_layer_s_input():
    of = model("none", dropout=0.5)
    params, x, drawn_masks = leaves(of), drawn(4, 3), masks(of)
    h = (x @ params["0/weight"].T + params["0/bias"]) * params["1/weight"] + params["1/bias"]
    kept = torch.tanh(h) * drawn_masks[f"{DROPOUT}3"][:4]
    expected = kept @ params["head/weight"].T + params["head/bias"]
    assert_close(of.forward_own_statistics(params | drawn_masks, x)[0], expected, **EXACT)


@pytest.mark.parametrize("phase", ["evaluate", "serve"])
def test_there_are_no_masks_outside_of_training(phase):
    assert masks(model(factory="small", input_shape=IMAGE, head="7"), phase=phase) == {}


def test_a_pass_without_masks_after_one_with_masks_drops_nothing():
    of = model(factory="small", input_shape=IMAGE, head="7")
    params, x = leaves(of), drawn(4, *IMAGE)
    before = of.forward_own_statistics(params, x)[0]
    dropped = of.forward_own_statistics(params | masks(of), x)[0]
    assert not torch.allclose(before, dropped)
    assert torch.equal(of.forward_own_statistics(params, x)[0], before)


def test_a_layer_that_drops_nothing_draws_nothing():
    assert masks(model(dropout=0.0)) == {}


def test_tasks_with_masks_of_their_own_are_the_same_vectorised_and_one_by_one():
    of = model(factory="small", input_shape=IMAGE, head="7")
    params, x = leaves(of), drawn(3, 6, *IMAGE)
    each = [masks(of, seed=task) for task in range(3)]
    stacked = {name: torch.stack([one[name] for one in each]) for name in each[0]}

    def loss(phi, own, x):
        return of.forward_own_statistics(phi | own, x)[0].square().mean()

    together = vmap(grad(loss), in_dims=(None, 0, 0))(params, stacked, x)
    for name, values in together.items():
        alone = torch.stack([grad(loss)(params, each[task], x[task])[name] for task in range(3)])
        assert_close(values, alone, rtol=1e-9, atol=1e-12)


def test_init_leaves_torch_s_global_generator_alone():
    of = net("plain")
    torch.manual_seed(3)
    before = torch.get_rng_state()
    of.init(np.random.default_rng(0))
    net("plain")
    assert torch.equal(torch.get_rng_state(), before)


def test_the_same_seed_gives_the_same_leaves_and_another_others():
    of = net("plain")
    torch.manual_seed(1)
    first = of.init(np.random.default_rng(5))
    torch.manual_seed(2)
    again, other = net("plain").init(np.random.default_rng(5)), of.init(np.random.default_rng(6))
    assert all(torch.equal(leaf, again[name]) for name, leaf in first.items())
    assert not torch.equal(first["0/weight"], other["0/weight"])
    assert not any(leaf.requires_grad for leaf in first.values())


def test_init_does_not_depend_on_what_was_called_before():
    of = net("plain")
    first = of.init(np.random.default_rng(5))
    first["0/weight"].add_(1)
    of.init(np.random.default_rng(6))
    assert_close(of.init(np.random.default_rng(5))["0/weight"], first["0/weight"] - 1)


def test_a_factory_gets_the_width_and_the_shape_where_it_takes_them():
    wide = net("plain", input_shape=(6,), outputs=3, width=7)
    assert wide.init(np.random.default_rng(0))["0/weight"].shape == (7, 6)
    assert net("three_wide", outputs=3).init(np.random.default_rng(0))["weight"].shape == (3, 3)


REFUSED = [
    ({"factory": "counting"}, "net.factory: a forward pass changes the buffer 0.calls; .* Make it a constant"),
    ({"factory": "plain", "head": "0"}, "net.head: '0' is not the module's last layer"),
    ({"factory": "plain", "head": "fc"}, "net.head: 'fc' is no layer of the module; its layers are 0, 1, 2, 3, 4"),
    ({"factory": "recurrent"}, "net.factory: reader is torch's GRU, .*; use the cells in pipeline.nets.cells"),
    (
        {"factory": "Attentive", "kind": "encoder", "dropout": 0.1, "weights": True},
        "net.factory: mix.self_attn drops attention weights, .*0.1.*; set mix.self_attn.dropout = 0.0",
    ),
    ({"factory": "alpha"}, "net.factory: 1 is AlphaDropout; use torch.nn.Dropout or Dropout2d"),
    ({"factory": "everything_dropped"}, "net.factory: 1 drops everything, .*; use a share below 1"),
    ({"factory": "Functional", "name": "dropout"}, "net.factory: calls dropout, .*; use the layer torch.nn.Dropout"),
    ({"factory": "Functional", "name": "layer_norm"}, "net.factory: calls layer_norm, .*; use .*torch.nn.LayerNorm"),
    ({"factory": "Functional", "name": "batch_norm"}, "net.factory: calls batch_norm, .*; use .*torch.nn.BatchNorm"),
    ({"factory": "tracking", "input_shape": IMAGE}, "net.factory: 0 is InstanceNorm2d that tracks .*stats=False"),
    ({"factory": "no_module"}, "net.factory: gives list, expected a torch.nn.Module"),
    ({"factory": "three_wide"}, "net.factory: gives 3 outputs, the tasks need 2; let the factory take `outputs`"),
    ({"factory": "a_map"}, r"net.factory: gives \(2, 1, 3\) for 2 inputs, expected \(2, outputs\)"),
    ({"factory": "other_inputs"}, r"net.factory: fails on an input of shape \(2, 3\): "),
    ({"factory": "Looks"}, r"net.factory: fails on an input of shape \(2, 3\): .*no attribute 'missing'"),
    ({"factory": "breaks"}, f"net.factory: {OWN}:breaks raised ValueError: no weights for you"),
    ({"factory": "CONSTANT"}, f"net.factory: {OWN}:CONSTANT is int, expected a class or function"),
    ({"factory": "absent"}, f"net.factory: {OWN} has no absent"),
    ({"factory": "plain", "wdth": 3}, f"net.arguments: {OWN}:plain does not take .*'wdth'"),
    ({"factory": "Named", "name": "head", "head": "fc"}, "net.factory: the layer head .*; rename it"),
    ({"factory": "Named", "name": "head"}, "net.factory: the layer head .*; rename it, or name it in net.head"),
    ({"factory": "Named", "name": "dropout"}, "net.factory: the layer dropout .*; rename it"),
    ({"factory": "other_inputs", "input_shape": (7,), "normalised": True}, "normalisation: has no effect, .*use none"),
]


@pytest.mark.parametrize(("given", "message"), REFUSED, ids=[message.split(";")[0][:60] for _, message in REFUSED])
def test_what_cannot_be_used_is_refused_in_one_line(given, message):
    with pytest.raises(ConfigError, match=message) as caught:
        net(**given)
    assert re.fullmatch(r"[^\n]+", str(caught.value))


def test_a_function_that_drops_nothing_may_be_called():
    assert net("Functional", name="none", head="fc").features == 3


def test_a_last_layer_without_a_bias_must_be_the_last_too():
    """On an input of zeros all that stands behind it would answer zero as well."""

    def make():
        return nn.Sequential(nn.Linear(3, 2, bias=False), nn.Tanh())

    with pytest.raises(ConfigError, match="net.head: '0' is not the module's last layer"):
        ModuleNet(make, "0", (3,), 2, normalised=False)


def test_a_method_that_needs_the_features_asks_for_the_head_s_name():
    of = model("none", head="")
    stores_deltas = GradientMemoryMAML(GradientMemoryMAML.Config(), of, cross_entropy)
    init = functools.partial(stores_deltas.init, np.random.default_rng(0))
    for ask in (of.body, lambda: of.embed(leaves(of), drawn(4, 3)), init):
        with pytest.raises(ConfigError, match=r"net.head: is empty, and this method .* name it"):
            ask()
