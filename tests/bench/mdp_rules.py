"""``python -m tests.bench.mdp_rules``: what known rules get of the processes of mdps, as shares of value iteration.

Ten states, five actions, ten episodes of ten steps; 2,000 processes from the source's distributions. Each rule knows
these distributions, and keeps the exact posterior of rewards and transitions.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

PROCESSES, STATES, CHOICES, HORIZON, EPISODES = 2000, 10, 5, 10, 10


class Posterior(NamedTuple):
    """What a rule has seen of N processes.

    Args:
        gained: sums of rewards [N, S, A].
        taken: how often each action was taken [N, S, A].
        moved: how often each transition was seen [N, S, A, S].
    """

    gained: np.ndarray
    taken: np.ndarray
    moved: np.ndarray

    def mean(self) -> np.ndarray:
        """Of each mean reward, which is from N(1, 1) and seen with noise from N(0, 1)."""
        return (1 + self.gained) / (1 + self.taken)

    def deviation(self) -> np.ndarray:
        return 1 / np.sqrt(1 + self.taken)


Rule = Callable[[np.random.Generator, Posterior], np.ndarray]
"""Worths of actions [H, N, S, A] in an episode, by the steps that are left after the action."""


def worths(rewards: np.ndarray, transitions: np.ndarray) -> np.ndarray:
    """Value iteration [H, N, S, A] in processes that are known."""
    value, found = np.zeros(rewards.shape[:2]), []
    for _ in range(HORIZON):
        found.append(rewards + np.einsum("nsat,nt->nsa", transitions, value))
        value = found[-1].max(-1)
    return np.stack(found)


def uniform(rng: np.random.Generator, seen: Posterior) -> np.ndarray:
    """Any action."""
    return rng.uniform(size=(HORIZON, *seen.taken.shape))


def psrl(rng: np.random.Generator, seen: Posterior) -> np.ndarray:
    """Value iteration in a process from the posterior (Strens, ICML 2000)."""
    drawn = rng.standard_gamma(1 + seen.moved)
    return worths(rng.normal(seen.mean(), seen.deviation()), drawn / drawn.sum(-1, keepdims=True))


def greedy(rng: np.random.Generator, seen: Posterior) -> np.ndarray:
    """The mean reward of each action; what comes after it does not count. Equal ones are drawn."""
    return np.broadcast_to(seen.mean() + 1e-9 * rng.uniform(size=seen.taken.shape), (HORIZON, *seen.taken.shape))


RULES: dict[str, tuple[Rule, int]] = {"random": (uniform, HORIZON), "PSRL": (psrl, HORIZON), "greedy": (greedy, 1)}
"""Rules, and after how many steps each thinks again."""


def shares(rule: Rule, every: int, processes: int = PROCESSES) -> np.ndarray:
    """The return of each episode as a share of the best policy's expected return [E, N]."""
    rng = np.random.default_rng(0)
    shape, rows = (processes, STATES, CHOICES), np.arange(processes)
    transitions = rng.dirichlet(np.ones(STATES), size=shape)
    rewards = rng.normal(1, 1, size=shape)
    best = worths(rewards, transitions)[-1].max(-1)[:, 0]
    seen, found = Posterior(np.zeros(shape), np.zeros(shape), np.zeros((*shape, STATES))), []
    for _ in range(EPISODES):
        state, total = np.zeros(processes, dtype=int), np.zeros(processes)
        for t in range(HORIZON):
            if t % every == 0:
                worth = rule(rng, seen)
            at = (rows, state, worth[HORIZON - 1 - t, rows, state].argmax(-1))
            reward = rng.normal(rewards[at], 1)
            state = (rng.uniform(size=(processes, 1)) >= transitions[at].cumsum(-1)[:, :-1]).sum(-1)
            seen.gained[at] += reward
            seen.taken[at] += 1
            seen.moved[(*at, state)] += 1
            total += reward
        found.append(total / best)
    return np.stack(found)


def main() -> None:
    for name, (rule, every) in RULES.items():
        trials = shares(rule, every)
        half = 1.96 * trials.mean(0).std() / PROCESSES**0.5
        print(f"{name:<7} {trials.mean():.3f} ± {half:.3f}; last episode {trials[-1].mean():.3f}")


if __name__ == "__main__":
    main()
