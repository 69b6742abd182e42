"""How the next child's values are chosen: from a list that is known beforehand, or by Optuna.

Each choice follows from the sweep's seed and the children before it. A resumed sweep makes the same ones.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

from pipeline.core.extras import missing
from pipeline.core.failures import ConfigError
from pipeline.sweeps.children import Child, Judge
from pipeline.sweeps.space import Axis, Choices, Values, check_count, drawn, grid

Kind = Literal["grid", "random", "optuna"]
Propose = Callable[[Sequence[Child]], Values]
"""The values of the next child, from those that have ended."""
MIN_RANDOM, MAX_RANDOM = 3, 10
"""Optuna's first children are drawn at random: a third of all, between these numbers."""


def planned(kind: Kind, axes: Sequence[Axis], samples: int | None, seed: int | None) -> tuple[int, list[Values]]:
    """The number of children, and the values of those that are known beforehand: none for Optuna.

    Raises:
        ConfigError: the options do not fit the search, or there are too many children.
    """
    if kind == "grid":
        for option, given in (("--samples", samples), ("--seed", seed)):
            if given is not None:
                raise ConfigError(f"{option} {given}: has no effect on a grid; leave it out, or pass --search random")
        known = grid(axes)
        return len(known), known
    if samples is None:
        raise ConfigError(f"--search {kind}: pass --samples N, the number of children")
    if kind == "random":
        return samples, drawn(axes, samples, seed or 0)
    check_count(samples)
    require_optuna()
    return samples, []


def require_optuna() -> Any:
    """Raises ``ConfigError`` with the command that installs it."""
    try:
        import optuna
    except ModuleNotFoundError:
        raise missing("optuna", "sweep") from None
    return optuna


def by_tpe(axes: Sequence[Axis], samples: int, seed: int, judge: Judge) -> Propose:
    """Optuna's TPE. Its study is made anew from the children's records for each child."""
    optuna = require_optuna()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    distributions = {axis.key: _distribution(optuna, axis) for axis in axes}
    first = min(MAX_RANDOM, max(MIN_RANDOM, samples // 3))

    def propose(ended: Sequence[Child]) -> Values:
        sampler = optuna.samplers.TPESampler(n_startup_trials=first, seed=(seed * 100_003 + len(ended)) % (1 << 32))
        study = optuna.create_study(direction="maximize" if judge.higher_is_better else "minimize", sampler=sampler)
        study.add_trials([_trial(optuna, axes, distributions, child) for child in ended])
        found = study.ask(distributions).params
        return {axis.key: found[axis.key] if isinstance(axis, Choices) else axis.text(found[axis.key]) for axis in axes}

    return propose


def _distribution(optuna: Any, axis: Axis) -> Any:
    if isinstance(axis, Choices):
        return optuna.distributions.CategoricalDistribution(axis.texts)
    if axis.kind == "int":
        return optuna.distributions.IntDistribution(int(axis.low), int(axis.high))
    return optuna.distributions.FloatDistribution(axis.low, axis.high, log=axis.kind == "log")


def _trial(optuna: Any, axes: Sequence[Axis], distributions: dict[str, Any], child: Child) -> Any:
    """A child as Optuna has it. TPE ignores its failed trials and would go on failing there: a pruned one without
    values is the worst of all."""
    params = {axis.key: _number(axis, child.values[axis.key]) for axis in axes}
    return optuna.trial.create_trial(
        state=optuna.trial.TrialState["COMPLETE" if child.state == "finished" else "PRUNED"],
        params=params,
        distributions=distributions,
        value=child.score if child.state == "finished" else None,
        intermediate_values={} if child.state == "failed" else dict(child.curve),
    )


def _number(axis: Axis, text: str) -> Any:
    """A value as Optuna has it. Text of six digits can lie beyond an end by its rounding."""
    if isinstance(axis, Choices):
        return text
    number = min(max(float(text), axis.low), axis.high)
    return int(number) if axis.kind == "int" else number
