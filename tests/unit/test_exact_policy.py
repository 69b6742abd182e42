"""Policy gradients against closed forms, in float64: every expectation is taken by enumeration.

The bandit has two arms that pay 0.2 and 0.9, the policy is softmax([0, theta]) at theta = 0.3, and an inner step has
the rate 2. The figures are those of objective I (Rothfuss et al., arXiv 1810.06784, §4) for 1, 2 and 4 episodes.
"""

from __future__ import annotations

import itertools
import math
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor

from pipeline.algorithms.maml_rl import MAMLRL, MAMLRLConfig
from pipeline.algorithms.promp import ProMP
from pipeline.core.actions import Categorical, Gaussian
from pipeline.core.algorithm import backprop
from pipeline.core.losses import episode_return
from pipeline.core.network import Adapted
from pipeline.core.seeding import Ticket
from pipeline.core.source import TaskShape, TaskShapes
from pipeline.core.types import Context, Episodes, Params, Simulator, Task
from pipeline.core.world import WorldStep, play, recorded
from pipeline.families.advantages import generalised, linear_baseline, normalised, returns_to_go
from pipeline.families.policy import QUERY, SUPPORT
from pipeline.tasks.mdps import MDP
from pipeline.tasks.navigation import Navigation

THETA, RATE, PAYS = 0.3, 2.0, (0.2, 0.9)


class Paying(NamedTuple):
    """A bandit whose arms always pay the same."""

    pays: Tensor

    def start(self, episodes: Params) -> tuple[Params, Tensor]:
        return {}, episodes["nothing"]

    def step(self, state: Params, action: Tensor, episodes: Params, t: int) -> WorldStep:
        reward = self.pays[action]
        return WorldStep({}, episodes["nothing"], reward, torch.zeros_like(reward))


class TwoArms:
    """softmax([0, theta]), whatever is observed."""

    mode, input_shape = "none", (1,)
    distribution = Categorical(2)

    @property
    def net(self) -> TwoArms:
        return self

    def predict(self, adapted: Adapted, x: Tensor) -> Tensor:
        return torch.stack([torch.zeros_like(adapted.phi["theta"]), adapted.phi["theta"]]).expand(len(x), 2)


def maml(estimator: str, kind: type[MAMLRL] = MAMLRL) -> MAMLRL:
    config = MAMLRLConfig(inner_lr=RATE, baseline="none", normalise=False, estimator=estimator, inner_episodes=1)
    return kind(config, TwoArms(), episode_return)


def simulator(rows: int) -> Simulator:
    return Simulator(
        Paying(torch.tensor(PAYS, dtype=torch.float64)),
        {"nothing": torch.ones(rows, 1, dtype=torch.float64)},
        torch.zeros(1, dtype=torch.float64),
    )


def theta_of(value: float) -> dict[str, Params]:
    return {"model": {"theta": torch.tensor(value, dtype=torch.float64)}}


def p_first(theta: float) -> float:
    """The probability of the first arm."""
    return 1 / (1 + math.exp(theta))


def expected_gradient(algorithm: MAMLRL, episodes: int) -> float:
    """The mean of ``learn`` over all support actions and over the random number of the query's action."""
    algorithm.config = algorithm.config.__class__(**vars(algorithm.config) | {"inner_episodes": episodes})
    theta, first = theta_of(THETA), p_first(THETA)
    task = Task("bandit", simulator(episodes), simulator(1))
    total = 0.0
    for support in itertools.product((0.0, 1 - 1e-12), repeat=episodes):
        noise = {SUPPORT: torch.tensor(support, dtype=torch.float64).reshape(episodes, 1)}
        context = Context(1, "train", 1, noise)
        phi = algorithm.adapt(theta, task.support, context).phi["theta"].item()
        # The query's action, and that of theta itself in the same episode, change at these random numbers.
        edges = sorted((0.0, p_first(phi), first, 1.0))
        for low, high in itertools.pairwise(edges):
            asked = torch.full((1, 1), (low + high) / 2, dtype=torch.float64)
            gradient, _ = algorithm.learn(theta, task, context._replace(noise=noise | {QUERY: asked}))
            share = math.prod(first if u == 0 else 1 - first for u in support)
            total -= share * (high - low) * gradient["model"]["theta"].item()
    return total


class PathAlone(MAMLRL):
    """The known wrong variant: the share of theta in which support episodes are sampled is left out."""

    def _sampling_term(self, *arguments: Any) -> Tensor:
        return torch.zeros((), dtype=torch.float64)


class Twice(MAMLRL):
    """The other: the surrogate of LVC, and the term beside it."""

    def surrogate(self, log_prob: Tensor, advantages: Tensor, alive: Tensor) -> Tensor:
        return ((log_prob - log_prob.detach()).exp() * advantages).mean()


TABLE = [
    ("score", MAMLRL, (0.148735, 0.149303, 0.149683)),
    ("lvc", MAMLRL, (0.144807, 0.147588, 0.148861)),
    ("dice", MAMLRL, (0.144807, 0.147588, 0.148861)),
]
WRONG = [("score", PathAlone, (0.110013, 0.110970, 0.111329)), ("score", Twice, (0.1835, 0.1859, 0.1872))]


@pytest.mark.parametrize(("estimator", "kind", "known"), TABLE + WRONG)
def test_the_meta_gradient_of_a_bandit(estimator: str, kind: type[MAMLRL], known: tuple[float, ...]) -> None:
    tolerance = 1e-4 if kind is Twice else 1e-6
    for episodes, value in zip((1, 2, 4), known, strict=True):
        assert expected_gradient(maml(estimator, kind), episodes) == pytest.approx(value, abs=tolerance)


def return_after(theta: float, episodes: int) -> float:
    """The expected return of the adapted policy, without any code of ours."""
    (bad, good), first = PAYS, p_first(theta)
    total = 0.0
    for actions in itertools.product((0, 1), repeat=episodes):
        slope = sum((good * first if action else -bad * (1 - first)) for action in actions) / episodes
        after = p_first(theta + RATE * slope)
        share = math.prod(first if action == 0 else 1 - first for action in actions)
        total += share * (bad * after + good * (1 - after))
    return total


@pytest.mark.parametrize("episodes", [1, 2, 4])
def test_the_score_estimator_is_the_derivative_of_the_expected_return(episodes: int) -> None:
    step = 1e-5
    slope = (return_after(THETA + step, episodes) - return_after(THETA - step, episodes)) / (2 * step)
    assert expected_gradient(maml("score"), episodes) == pytest.approx(slope, abs=1e-9)
    assert abs(expected_gradient(maml("score", PathAlone), episodes) - slope) > 0.2 * slope


@pytest.mark.parametrize(("estimator", "known"), [("score", -0.147191), ("lvc", -0.025477), ("dice", -0.025477)])
def test_the_second_derivative_of_a_surrogate(estimator: str, known: float) -> None:
    """Of the expected return it is -0.025477: log π · R has another."""
    algorithm = maml(estimator)
    first = p_first(THETA)
    total = 0.0
    for action, share in ((0, first), (1, 1 - first)):
        seen = Episodes(
            torch.ones(1, 1, 1, dtype=torch.float64),
            torch.tensor([[action]]),
            torch.tensor([[PAYS[action]]], dtype=torch.float64),
            torch.ones(1, 1, dtype=torch.float64),
        )
        theta = torch.tensor(THETA, dtype=torch.float64, requires_grad=True)
        value = algorithm.surrogate(algorithm.log_prob({"theta": theta}, seen), seen.rewards, seen.alive)
        (slope,) = torch.autograd.grad(value, theta, create_graph=True)
        total += share * torch.autograd.grad(slope, theta)[0].item()
    assert total == pytest.approx(known, abs=1e-6)


def test_the_expected_policy_gradient_step_is_the_closed_form() -> None:
    """d J(theta') / d theta for theta' = theta + alpha J'(theta): 0.150069."""
    gap, p = PAYS[1] - PAYS[0], 1 - p_first(THETA)
    inside = 1 + RATE * gap * p * (1 - p) * (1 - 2 * p)
    after = 1 - p_first(THETA + RATE * gap * p * (1 - p))
    assert gap * after * (1 - after) * inside == pytest.approx(0.150069, abs=1e-6)
    # With many episodes LVC tends to it (objective II): the gap shrinks with their number.
    gaps = [0.150069 - expected_gradient(maml("lvc"), episodes) for episodes in (1, 2, 4)]
    assert gaps[0] > 1.9 * gaps[1] > 3.6 * gaps[2] > 0


def chain() -> MDP:
    """Three states and two actions, with exact probabilities."""
    transitions = torch.tensor(
        [[[0.5, 0.5, 0.0], [0.1, 0.2, 0.7]], [[0.3, 0.3, 0.4], [1.0, 0.0, 0.0]], [[0.0, 0.6, 0.4], [0.2, 0.2, 0.6]]],
        dtype=torch.float64,
    )
    return MDP(transitions, torch.tensor([[1.0, 0.0], [0.5, -1.0], [2.0, 3.0]], dtype=torch.float64))


def test_the_mean_return_of_a_fixed_policy_is_what_enumeration_says() -> None:
    mdp, horizon, rows = chain(), 4, 40_000
    policy = torch.tensor([0.3, 0.7], dtype=torch.float64)
    value = torch.zeros(3, dtype=torch.float64)
    for _ in range(horizon):
        value = ((mdp.rewards + mdp.transitions @ value) * policy).sum(-1)
    rng = np.random.default_rng(5)
    random = {name: torch.from_numpy(rng.uniform(size=(rows, horizon))) for name in ("chance", "actions")}
    noise = torch.from_numpy(rng.normal(size=(rows, horizon)))
    sim = Simulator(mdp, {"chance": random["chance"], "noise": noise}, torch.zeros(horizon, dtype=torch.float64))
    choose = Categorical(2)
    episodes, _ = play(
        sim, lambda t, x, reward, done: choose.sample(policy.log().expand(rows, 2), random["actions"][:, t])
    )
    returns = episodes.rewards.sum(1)
    error = returns.std().item() / math.sqrt(rows)
    assert returns.mean().item() == pytest.approx(value[0].item(), abs=4 * error)
    assert error < 0.02


def test_value_iteration_is_the_best_of_all_policies() -> None:
    """Of all that depend on state and time, for two steps."""
    mdp = chain()
    best = -math.inf
    for choices in itertools.product((0, 1), repeat=6):
        value = torch.zeros(3, dtype=torch.float64)
        for now in (choices[:3], choices[3:]):
            rows = range(3)
            value = mdp.rewards[rows, list(now)] + mdp.transitions[rows, list(now)] @ value
        best = max(best, value[0].item())
    assert mdp.optimum(2).item() == pytest.approx(best, abs=1e-12)


def test_returns_and_generalised_advantages_are_the_sums_that_define_them() -> None:
    rng = np.random.default_rng(0)
    rewards, values = (torch.from_numpy(rng.normal(size=(2, 5))) for _ in range(2))
    alive = torch.tensor([[1.0, 1, 1, 0, 1], [1, 1, 1, 1, 1]], dtype=torch.float64)
    rewards = rewards * alive
    for row in range(2):
        steps = [t for t in range(5) if alive[row, t]]
        r, v = (part[row, steps].tolist() for part in (rewards, values))
        v.append(0.0)
        errors = [r[i] + 0.9 * v[i + 1] - v[i] for i in range(len(steps))]
        for i, t in enumerate(steps):
            wanted = sum((0.9 * 0.8) ** (j - i) * errors[j] for j in range(i, len(steps)))
            found = generalised(rewards, values, alive, 0.9, 0.8)[row, t].item()
            assert found == pytest.approx(wanted, abs=1e-12)
    summed = [sum(0.9 ** (j - 2) * rewards[1, j].item() for j in range(2, 5))]
    assert returns_to_go(rewards, 0.9)[1, 2].item() == pytest.approx(summed[0], abs=1e-12)


def test_the_linear_baseline_expects_what_is_linear_in_its_features() -> None:
    """Returns that are 3 + x - 2 x² + t/100 leave nothing; steps that were not taken change nothing."""
    rng = np.random.default_rng(1)
    x = torch.from_numpy(rng.normal(size=(6, 20, 1)))
    t = torch.arange(20, dtype=torch.float64) / 100
    returns = 3 + x[..., 0] - 2 * x[..., 0].square() + t
    alive = torch.ones(6, 20, dtype=torch.float64)
    alive[0, 10:] = 0
    odd = returns + (1 - alive) * 50
    found = linear_baseline(Episodes(x, x, odd, alive), odd)
    assert ((found - returns) * alive).abs().max() < 1e-3
    scaled, deviation = normalised(returns, alive)
    assert (scaled * alive).sum().item() == pytest.approx(0, abs=1e-9)
    assert deviation.item() == pytest.approx(returns[alive > 0].std(unbiased=False).item(), abs=1e-6)


@pytest.mark.parametrize("distribution", [Categorical(3), Gaussian(2)], ids=["categorical", "gaussian"])
def test_actions_are_as_probable_as_they_are_said_to_be(distribution: Any) -> None:
    rng = np.random.default_rng(2)
    outputs, apart = (torch.from_numpy(rng.normal(size=(1, distribution.width)) / 4) for _ in range(2))
    others = outputs + apart / 2
    noise = distribution.noise(rng, (50_000,))
    actions = distribution.sample(outputs.expand(50_000, -1), noise)
    log_p, log_q = (distribution.log_prob(one.expand(50_000, -1), actions) for one in (outputs, others))
    assert -log_p.mean().item() == pytest.approx(distribution.entropy(outputs).item(), abs=0.02)
    assert (log_p - log_q).mean().item() == pytest.approx(distribution.divergence(outputs, others).item(), abs=0.02)
    assert (log_q - log_p).exp().mean().item() == pytest.approx(1, abs=0.02)  # both are distributions


def test_support_and_query_and_evaluation_have_random_numbers_of_their_own() -> None:
    source = Navigation(Navigation.Config(horizon=3), TaskShapes(TaskShape(1, 2, 2), TaskShape(1, 2, 2)))
    algorithm = maml("lvc")
    algorithm.distribution = Gaussian(2)
    drawn = []
    for purpose, phase in (("train", "train"), ("evaluate", "evaluate")):
        ticket = Ticket(1, purpose, "train", 1, 0)
        noise = algorithm.draw(ticket.rng("noise"), source.sample(ticket), phase)
        drawn += [noise[SUPPORT], noise[QUERY]]
    assert all(not torch.equal(a, b) for a, b in itertools.combinations(drawn, 2))


def test_recorded_episodes_repeat_themselves() -> None:
    rng = np.random.default_rng(3)
    alive = torch.tensor([[1.0, 1, 1], [1, 1, 0]], dtype=torch.float64)
    seen = Episodes(
        torch.from_numpy(rng.normal(size=(2, 3, 4))),
        torch.tensor([[0, 1, 0], [1, 1, 0]]),
        torch.from_numpy(rng.normal(size=(2, 3))) * alive,
        alive,
    )
    again, _ = play(recorded(seen), lambda t, x, reward, done: seen.actions[:, t])
    assert all(torch.equal(a, b) for a, b in zip(again, seen, strict=True))


def test_one_proximal_step_is_a_step_of_adam_on_the_lvc_gradient() -> None:
    """At theta itself all ratios are 1 and no divergence has a slope, so ProMP's gradient is that of LVC."""
    bandit, noise = Task("bandit", simulator(4), simulator(3)), np.random.default_rng(4)
    random = {name: torch.from_numpy(noise.uniform(size=(n, 1))) for name, n in ((SUPPORT, 4), (QUERY, 3))}
    context = Context(1, "train", 1, random)
    shared = {"inner_lr": RATE, "baseline": "none", "normalise": False, "inner_episodes": 4}
    lvc = MAMLRL(MAMLRLConfig(**shared, estimator="lvc"), TwoArms(), episode_return)
    promp = ProMP(ProMP.Config(**shared, epochs=1, lr=0.01), TwoArms(), episode_return)
    gradient, _ = backprop(lvc, theta_of(THETA), bandit, context)
    loss = promp_gradient(promp, bandit, context)
    assert loss == pytest.approx(gradient["model"]["theta"].item(), abs=1e-12)
    delta, _ = promp.learn(theta_of(THETA), bandit, context)
    sign = math.copysign(1, gradient["model"]["theta"].item())
    assert delta["model"]["theta"].item() == pytest.approx(0.01 * sign, rel=1e-6)


def promp_gradient(promp: ProMP, task: Task[Simulator], context: Context) -> float:
    """The slope of the proximal loss at the theta that acted."""
    *steps, (adapted, _) = promp.inner_trajectory(theta_of(THETA), task.support, context)
    query, _ = promp.act_in(adapted, task.query, context.noise[QUERY])
    support = [promp._acted(at.phi, seen) for at, seen in steps]
    asked = promp._acted(adapted.phi, query)
    slope = torch.func.grad(lambda start: promp._proximal_loss(start, support, asked))(theta_of(THETA)["model"])
    return slope["theta"].item()


def test_inner_steps_after_the_first_have_a_rate_of_their_own() -> None:
    algorithm = maml("score")
    algorithm.config = MAMLRLConfig(**vars(algorithm.config) | {"later_inner_lr": RATE / 4})
    noise = {SUPPORT: torch.tensor([[0.0], [0.0]], dtype=torch.float64)}
    trace = [
        one.phi["theta"].item() for one in algorithm.trace(theta_of(THETA), simulator(2), Context(1, "train", 1, noise))
    ]
    for rate, before, after in zip((RATE, RATE / 4), trace, trace[1:], strict=False):
        # The first arm was pulled and paid 0.2: d log p / d theta is -(1 - p).
        assert after - before == pytest.approx(-rate * PAYS[0] * (1 - p_first(before)), abs=1e-12)
