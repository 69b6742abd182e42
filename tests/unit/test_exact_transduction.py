"""The encoder–decoder and what trains it against closed forms and other implementations, in float64."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from pipeline.algorithms import ALGORITHMS
from pipeline.core.failures import ConfigError, DataError
from pipeline.core.losses import LOSSES, compare_tokens, compare_words, token_cross_entropy
from pipeline.core.seeding import Ticket, init_rng
from pipeline.core.source import TaskShape, TaskShapes
from pipeline.core.types import END, PADDING, UNKNOWN, Context, Pairs, Task
from pipeline.nets.model import NormalisedNet
from pipeline.nets.normalisation import NoStatistics
from pipeline.nets.seq2seq import Seq2Seq
from pipeline.serving.learner import Learner
from pipeline.tasks.ciphers import Ciphers

pytestmark = pytest.mark.usefixtures("torch_threads")

ATTENTIONS = ("none", "dot", "bahdanau")
PLAIN = NoStatistics()
SHAPES = TaskShapes(TaskShape(1, 4, 3), TaskShape(1, 4, 3))


def source_of(**changes):
    return Ciphers(Ciphers.Config(**{"letters": 4, "lengths": (2, 4)} | changes), SHAPES)


def net_of(attention="dot", source=None, **changes):
    config = Seq2Seq.Config(**{"embedding": 3, "hidden": 4, "attention": attention} | changes)
    return Seq2Seq.for_tasks(config, (source or source_of()).spec(), head=True, normalised=False)


def weights(net, seed=3):
    return {name: leaf.double() for name, leaf in net.init(init_rng(seed)).items()}


def made(name, attention="dot", net=None, **changes):
    """An algorithm on a small network, and its theta in float64."""
    kind, net = ALGORITHMS[name], net or net_of(attention)
    algorithm = kind(kind.Config(**changes), NormalisedNet(net, "none", (4,)), LOSSES["tokens"].function)
    theta = {
        group: {leaf: value.double() for leaf, value in leaves.items()}
        for group, leaves in algorithm.init(init_rng(3)).items()
    }
    return algorithm, theta


def task_of(number=0, source=None):
    return (source or source_of()).sample(Ticket(3, "train", "train", 1, number))


def context(algorithm, task, phase="train"):
    noise = algorithm.draw(Ticket(3, "train", "train", 1, 0).rng("noise"), task, phase)
    return Context(1, phase, 1, noise)


def longer(pairs, source=2, target=3):
    """The same pairs with padding appended."""
    pads = [torch.full((len(pairs.source), more), PADDING) for more in (source, target)]
    return Pairs(torch.cat([pairs.source, pads[0]], 1), torch.cat([pairs.target, pads[1]], 1))


@pytest.mark.parametrize("bidirectional", [False, True])
def test_the_encoder_is_torchs_lstm(bidirectional):
    """The states and the last one, of sequences of unequal length."""
    net = net_of(bidirectional=bidirectional)
    params = weights(net)
    lstm = torch.nn.LSTM(3, 4, batch_first=True, bidirectional=bidirectional).double()
    for cell, suffix in (("forward", ""), ("backward", "_reverse"))[: 1 + bidirectional]:
        for ours, theirs in (("input", "weight_ih_l0"), ("recurrent", "weight_hh_l0"), ("bias", "bias_ih_l0")):
            getattr(lstm, theirs + suffix).data = params[f"{cell}/{ours}"]
        getattr(lstm, "bias_hh_l0" + suffix).data.zero_()
    source = task_of().support.source
    encoded = net._encode(params, source)
    packed = torch.nn.utils.rnn.pack_padded_sequence(
        params["source/embedding"][source], (source != PADDING).sum(1), batch_first=True, enforce_sorted=False
    )
    states, (last, _) = lstm(packed)
    expected, _ = torch.nn.utils.rnn.pad_packed_sequence(states, batch_first=True, total_length=source.shape[1])
    real = (source != PADDING).unsqueeze(-1)
    torch.testing.assert_close(encoded.states * real, expected, atol=1e-12, rtol=0)
    torch.testing.assert_close(encoded.last, torch.cat([*last], -1), atol=1e-12, rtol=0)


@pytest.mark.parametrize("attention", ATTENTIONS)
def test_padding_changes_no_logit_no_loss_and_no_gradient(attention):
    net = net_of(attention)
    params, pairs = weights(net), task_of().support
    short, long = (net(params, one, PLAIN) for one in (pairs, longer(pairs)))
    torch.testing.assert_close(long[:, : short.shape[1]], short, atol=1e-12, rtol=0)

    def loss(at, of):
        return token_cross_entropy(net(at, of, PLAIN), of.target).loss

    more = Pairs(*(torch.cat([part, torch.zeros_like(part)]) for part in longer(pairs)))
    for other in (longer(pairs), more):
        (gradient, value), (changed, same) = (torch.func.grad_and_value(loss)(params, of) for of in (pairs, other))
        torch.testing.assert_close(same, value, atol=1e-12, rtol=0)
        for name, leaf in gradient.items():
            torch.testing.assert_close(changed[name], leaf, atol=1e-12, rtol=0)
    answers = [net.answer(params, one.source, PLAIN) for one in (pairs, longer(pairs))]
    assert torch.equal(*answers)


@pytest.mark.parametrize("attention", ATTENTIONS)
def test_no_step_of_a_sequence_has_a_gradient_as_large_as_the_sequence(attention):
    """That of ``x[:, t]`` is, for each t: its memory would grow with the square of the length."""
    net = net_of(attention)
    params = {name: leaf.requires_grad_() for name, leaf in weights(net).items()}
    todo, seen = [net(params, task_of().support, PLAIN).grad_fn], set()
    while todo:
        node = todo.pop()
        if node is not None and node not in seen:
            seen.add(node)
            todo += [following for following, _ in node.next_functions]
    kinds = {type(node).__name__ for node in seen}
    assert "UnbindBackward0" in kinds
    assert "SelectBackward0" not in kinds


@pytest.mark.parametrize("attention", ATTENTIONS)
def test_attention_is_as_published(attention):
    """One step of the decoder, written out: c, or the sum of states by the softmax of Luong's or Bahdanau's scores."""
    net = net_of(attention)
    params, pairs = weights(net), task_of().support
    encoded = net._encode(params, pairs.source)
    state = {"h": torch.tanh(encoded.last @ params["start/weight"].T), "c": torch.zeros_like(encoded.last[:, :4])}
    x = params["target/embedding"][END].expand(len(pairs.source), -1)

    def mean_of(scores):
        total = torch.zeros_like(encoded.last)
        for row, length in enumerate((pairs.source != PADDING).sum(1).tolist()):
            alpha = torch.softmax(scores[row, :length], 0)
            total[row] = sum(a * h for a, h in zip(alpha, encoded.states[row, :length], strict=True))
        return total

    def step(context=None):
        gates = x @ params["decoder/input"].T + state["h"] @ params["decoder/recurrent"].T + params["decoder/bias"]
        if context is not None:
            gates = gates + context @ params["decoder/context"].T
        i, f, g, o = gates.chunk(4, -1)
        return torch.sigmoid(o) * torch.tanh(torch.sigmoid(i) * torch.tanh(g) + torch.sigmoid(f) * state["c"])

    keys = encoded.states @ params["attention/key"].T if attention != "none" else None
    if attention == "none":
        features = step(encoded.last)
    elif attention == "dot":
        s = step()
        context = mean_of(torch.einsum("nh,nsh->ns", s, keys))
        features = torch.tanh(torch.cat([s, context], -1) @ params["attention/mix"].T)
    else:
        summed = torch.tanh((state["h"] @ params["attention/query"].T)[:, None] + keys)
        features = step(mean_of(summed @ params["attention/vector"]))
    expected = features @ params["head/weight"].T + params["head/bias"]
    torch.testing.assert_close(net(params, pairs, PLAIN)[:, 0], expected, atol=1e-12, rtol=0)


@pytest.mark.parametrize("attention", ATTENTIONS)
def test_dropout_leaves_out_the_same_numbers_at_each_token_of_a_pair(attention):
    """So a pair sees a network whose weights lack them: embeddings, and what the head reads."""
    net = net_of(attention, dropout=0.5)
    params, support = weights(net), task_of().support
    masks = net.draw_masks(np.random.default_rng(0), len(support.source))
    assert {value for mask in masks.values() for value in mask.unique().tolist()} == {0.0, 2.0}
    outputs = net(params | masks, support, PLAIN)
    for row in range(len(support.source)):
        source, target, features = (masks[f"dropout/{name}"][row] for name in ("source", "target", "features"))
        thinned = {
            "source/embedding": params["source/embedding"] * source,
            "target/embedding": params["target/embedding"] * target,
            "head/weight": params["head/weight"] * features,
        }
        alone = net(params | thinned, Pairs(support.source[row : row + 1], support.target[row : row + 1]), PLAIN)
        torch.testing.assert_close(outputs[row : row + 1], alone, rtol=1e-12, atol=1e-12)


def test_the_order_of_the_pairs_changes_nothing():
    algorithm, theta = made("maml", inner_lr=0.5, inner_steps=2)
    task = task_of()
    order = torch.tensor([2, 0, 3, 1])
    other = task._replace(support=Pairs(*(part[order] for part in task.support)))
    first, second = (algorithm.learn(theta, one, context(algorithm, one)) for one in (task, other))
    torch.testing.assert_close(first[1].loss, second[1].loss, atol=1e-12, rtol=0)
    for name, leaf in first[0]["model"].items():
        torch.testing.assert_close(second[0]["model"][name], leaf, atol=1e-12, rtol=0)


@pytest.mark.parametrize("attention", ATTENTIONS)
def test_mamls_gradient_goes_through_encoder_attention_and_decoder(attention):
    """Against central differences along a random direction of each leaf. First order and a frozen encoder differ."""
    algorithm, theta = made("maml", attention, inner_lr=0.8, inner_steps=2)
    first_order, _ = made("maml", attention, inner_lr=0.8, inner_steps=2, first_order=True)
    task = task_of()
    here = context(algorithm, task)
    gradient, _ = algorithm.learn(theta, task, here)
    wrong, _ = first_order.learn(theta, task, here)
    rng = np.random.default_rng(0)
    told = 0
    for name, leaf in theta["model"].items():
        direction = torch.from_numpy(rng.normal(size=tuple(leaf.shape)))

        def loss(step, name=name, leaf=leaf, direction=direction):
            moved = {"model": theta["model"] | {name: leaf + step * direction}}
            return algorithm.objective(moved, task, here).loss.item()

        numeric = (loss(1e-5) - loss(-1e-5)) / 2e-5
        assert (gradient["model"][name] * direction).sum().item() == pytest.approx(numeric, rel=1e-6, abs=1e-9), name
        told += abs((wrong["model"][name] * direction).sum().item() - numeric) > 1e-3 * abs(numeric) + 1e-9
    assert told > len(theta["model"]) / 2, "the check does not tell a gradient of first order"


def test_vectorised_over_tasks_is_the_loop():
    algorithm, theta = made("maml", "bahdanau", inner_lr=0.5, inner_steps=1)
    tasks = [task_of(number) for number in range(3)]
    sides = ([task.support for task in tasks], [task.query for task in tasks])
    stacked = [Pairs(*map(torch.stack, zip(*side, strict=True))) for side in sides]

    def objective(support, query):
        return algorithm.objective(theta, Task("", support, query), Context(1, "train", 1, {})).loss

    together = torch.func.vmap(objective)(*stacked)
    alone = torch.stack([objective(task.support, task.query) for task in tasks])
    torch.testing.assert_close(together, alone, atol=1e-12, rtol=0)
    answers = torch.func.vmap(lambda of: algorithm.predict(algorithm.model.adapted(theta["model"], of), of))
    for row, task in zip(answers(stacked[0].source), tasks, strict=True):
        assert torch.equal(row, algorithm.model.net.answer(theta["model"], task.support.source, PLAIN))


def test_without_inner_steps_maml_is_multi_task_training():
    """At rate 0 (here 1e-300) the meta-gradient is that of the query loss; over all pairs that is ``pretrain``'s."""
    maml, theta = made("maml", inner_lr=1e-300, inner_steps=1)
    pretrain, _ = made("pretrain")
    task = task_of()
    everything = Pairs(*(torch.cat(parts) for parts in zip(task.support, task.query, strict=True)))
    adapted, _ = maml.learn(theta, task._replace(query=everything), context(maml, task))
    joint, _ = pretrain.learn(theta, task, context(pretrain, task))
    for name, leaf in joint["model"].items():
        torch.testing.assert_close(adapted["model"][name], leaf, atol=1e-12, rtol=0)


@pytest.mark.parametrize("adapted", ["embeddings", "encoder"])
@pytest.mark.parametrize("name", ["maml", "metasgd", "mamlpp", "finetune"])
def test_an_inner_loop_changes_what_is_adapted_alone(name, adapted):
    algorithm, theta = made(name, net=net_of(adapted=adapted))
    task = task_of()
    phi = algorithm.adapt(theta, task.support, context(algorithm, task)).phi
    moved = {leaf for leaf, value in phi.items() if not torch.equal(value, theta["model"][leaf])}
    parts = ("source/", "target/") if adapted == "embeddings" else ("source/", "target/", "forward/", "backward/")
    assert moved == {leaf for leaf in phi if leaf.startswith(parts)}


@pytest.mark.parametrize("name", ["reptile", "anil", "imaml", "metalstm"])
def test_a_part_to_adapt_is_refused_where_it_has_no_effect(name):
    with pytest.raises(ConfigError, match=r"net.adapted: \w+ chooses by itself what it adapts; set it to all"):
        made(name, net=net_of(adapted="embeddings"))


def test_a_run_whose_source_has_no_texts_is_served_with_tokens():
    source = source_of()
    algorithm, theta = made("maml", net=net_of(source=source))
    support, query = task_of(source=source)[1:3]
    learner = Learner(algorithm, theta, source.spec())
    answers = learner.adapt(support.source.numpy(), support.target.numpy()).predict(query.source.numpy())
    assert (answers.shape, answers.dtype) == (tuple(query.target.shape), np.int64)
    with pytest.raises(DataError, match=r"support_y: shape \(4, 2\) .* expected tokens \(4, 5\), whole numbers"):
        learner.adapt(support.source.numpy(), support.target[:, :2].numpy())


def logits_of(net, params, source, target):
    pairs = Pairs(source, target)
    return torch.log_softmax(net(params, pairs, PLAIN), -1)


@pytest.mark.parametrize("attention", ATTENTIONS)
def test_a_greedy_answer_is_the_likeliest_token_at_each_step(attention):
    """Taught its own answer, the network finds each of its tokens the likeliest of those that an answer may have."""
    net = net_of(attention)
    params, source = weights(net), task_of().support.source
    params["head/weight"] = 20 * params["head/weight"]
    answer = net.answer(params, source, PLAIN)
    log_p = logits_of(net, params, source, answer)
    log_p[..., [PADDING, UNKNOWN]] = -torch.inf
    before_end = torch.cat([torch.ones_like(answer[:, :1]), (answer != END).long().cumprod(1)[:, :-1]], 1).bool()
    assert torch.equal(log_p.argmax(-1)[before_end], answer[before_end])
    assert (answer[~before_end] == PADDING).all()


def test_a_beam_that_keeps_everything_finds_the_likeliest_answer():
    """Against all 3 + 3·3 + … sequences of an alphabet of two letters; the greedy answer is another one somewhere."""
    source = source_of(letters=2, lengths=(2, 3))
    widest, greedy = (net_of("none", source, beam=beam) for beam in (81, 1))
    params, x = weights(widest), task_of(source=source).support.source
    params["head/weight"] = 12 * params["head/weight"]
    length, letters = source.spec().tokens.target_length, (3, 4)
    ended = [
        [*word, END] + [PADDING] * (length - count - 1)
        for count in range(length)
        for word in itertools.product(letters, repeat=count)
    ]
    every = torch.tensor(ended + [list(word) for word in itertools.product(letters, repeat=length)])
    found, first = (net.answer(params, x, PLAIN) for net in (widest, greedy))
    for row in range(len(x)):
        log_p = logits_of(widest, params, x[row].expand(len(every), -1), every)
        total = (log_p.gather(-1, every.unsqueeze(-1)).squeeze(-1) * (every != PADDING)).sum(-1)
        assert found[row].tolist() == every[total.argmax()].tolist()
    assert not torch.equal(found, first), "the beam finds nothing that a greedy search does not"


def test_a_network_that_has_learned_to_copy_copies():
    source = source_of(letters=3, lengths=(1, 3))
    net = net_of("dot", source, embedding=8, hidden=16)
    params = {name: leaf.requires_grad_() for name, leaf in weights(net).items()}
    every = [list(word) for count in (1, 2, 3) for word in itertools.product((3, 4, 5), repeat=count)]
    words = torch.tensor([word + [PADDING] * (4 - len(word)) for word in every])
    x = words[:, :3]
    lengths = (x != PADDING).sum(1, keepdim=True)
    pairs = Pairs(x, words.scatter(1, lengths, END))
    optimizer = torch.optim.Adam(params.values(), 0.03)
    for _ in range(150):
        optimizer.zero_grad()
        token_cross_entropy(net(params, pairs, PLAIN), pairs.target).loss.backward()
        optimizer.step()
    assert torch.equal(net.answer(params, x, PLAIN), pairs.target)


def test_the_loss_is_the_mean_over_tokens_with_the_end_and_without_padding():
    logits = torch.randn((2, 3, 5), dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    target = torch.tensor([[3, 4, END], [END, PADDING, PADDING]])
    log_p = torch.log_softmax(logits, -1)
    by_hand = -(log_p[0, 0, 3] + log_p[0, 1, 4] + log_p[0, 2, END] + log_p[1, 0, END]) / 4
    assert token_cross_entropy(logits, target).loss.item() == pytest.approx(by_hand.item(), abs=1e-14)
    of_sentences = -((log_p[0, 0, 3] + log_p[0, 1, 4] + log_p[0, 2, END]) / 3 + log_p[1, 0, END]) / 2
    assert abs(by_hand - of_sentences) > 1e-3


def test_metrics_of_answers_by_hand():
    """Right, one substitution of three, an unknown symbol, and a row of padding that counts for nothing."""
    target = torch.tensor([[3, 4, END, 0], [3, 4, 5, END], [3, UNKNOWN, END, 0], [0, 0, 0, 0]])
    answer = torch.tensor([[3, 4, END, 0], [3, 5, 5, END], [3, UNKNOWN, END, 0], [3, END, 0, 0]])
    found = compare_tokens(answer, target)
    assert found["exact_match"].item() == pytest.approx(1 / 3)
    assert found["token_error"].item() == pytest.approx((0 + 1 + 1) / (2 + 3 + 2))
    assert compare_words(answer, target)["word_error_rate"].item() == pytest.approx(2 / 3)
