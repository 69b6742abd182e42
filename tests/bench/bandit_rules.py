"""``python -m tests.bench.bandit_rules``: what known rules get of the bandits of bandits and bandits_100.

Five arms, whose probabilities are uniform on [0, 1]; 20,000 bandits of each number of pulls.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

Rule = Callable[[np.random.Generator, np.ndarray, np.ndarray, int], np.ndarray]
BANDITS, ARMS = 20_000, 5


def greedy(rng: np.random.Generator, paid: np.ndarray, unpaid: np.ndarray, t: int) -> np.ndarray:
    """The mean of each arm's posterior; ties are drawn."""
    return (1 + paid) / (2 + paid + unpaid) + 1e-9 * rng.uniform(size=paid.shape)


def thompson(rng: np.random.Generator, paid: np.ndarray, unpaid: np.ndarray, t: int) -> np.ndarray:
    """A sample of each arm's posterior."""
    return rng.beta(1 + paid, 1 + unpaid)


def ucb(width: float) -> Rule:
    """UCB1's index with its confidence bound times ``width`` (Auer et al., Machine Learning 47, 2002)."""

    def index(rng: np.random.Generator, paid: np.ndarray, unpaid: np.ndarray, t: int) -> np.ndarray:
        pulls = paid + unpaid
        bound = width * np.sqrt(2 * np.log(t + 1) / np.maximum(pulls, 1))
        return np.where(pulls == 0, np.inf, paid / np.maximum(pulls, 1) + bound) + 1e-9 * rng.uniform(size=paid.shape)

    return index


RULES: dict[str, Rule] = {"greedy": greedy, "Thompson sampling": thompson, "UCB1": ucb(1.0), "UCB1 × 0.2": ucb(0.2)}


def rewards(rule: Rule, pulls: int, bandits: int = BANDITS) -> np.ndarray:
    """The sum of rewards of each bandit."""
    rng = np.random.default_rng(0)
    chances = rng.uniform(size=(bandits, ARMS))
    paid, unpaid, rows = np.zeros_like(chances), np.zeros_like(chances), np.arange(bandits)
    for t in range(pulls):
        arm = rule(rng, paid, unpaid, t).argmax(1)
        won = rng.uniform(size=bandits) < chances[rows, arm]
        paid[rows, arm] += won
        unpaid[rows, arm] += ~won
    return paid.sum(1)


def main() -> None:
    for pulls in (10, 100):
        for name, rule in RULES.items():
            found = rewards(rule, pulls)
            print(f"{pulls:>3} pulls  {name:<18} {found.mean():.2f} ± {1.96 * found.std() / len(found) ** 0.5:.2f}")


if __name__ == "__main__":
    main()
