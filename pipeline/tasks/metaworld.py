"""Meta-World's ML1: an arm that does one task for goals which it does not see (Yu et al., arXiv 1910.10897, §4.2).

Versions of Meta-World are other benchmarks: this is v3 (arXiv 2505.11289).
"""

from __future__ import annotations

import functools
import hashlib
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Annotated, Any, ClassVar, NamedTuple

import torch
from annotated_types import Ge, Le, Lt
from torch import Tensor

from pipeline.core.actions import Actions
from pipeline.core.failures import ConfigError
from pipeline.core.seeding import Split, Ticket
from pipeline.core.source import Spec, TaskShapes
from pipeline.core.types import Params, Simulator, Task
from pipeline.core.world import WorldStep
from pipeline.tasks.environments import Environments, seeds, versions_of, warm
from pipeline.tasks.episodes import simulators

OBSERVED, MOTORS, LONGEST = 39, 4, 500
"""Numbers of an observation and of an action, and the most steps that Meta-World takes without a reset."""


@dataclass(frozen=True)
class MetaWorldConfig:
    """Which task, which goals, and the length of an episode.

    Attributes:
        task: One of Meta-World's tasks.
        goals: The benchmark's seed: 50 goals to train on come from it, and 50 others to test on from the next one.
        horizon: Steps of an episode; the benchmark's are 500.
    """

    task: str = "reach-v3"
    goals: Annotated[int, Ge(0), Lt(2**32 - 1)] = 0
    horizon: Annotated[int, Ge(1), Le(LONGEST)] = LONGEST


class Arm(NamedTuple):
    """An arm with a hidden goal as a world. All episodes begin alike, and a reward is Meta-World's.

    Args:
        name: of the task.
        setting: the goal, as Meta-World hands it to its environments.
        goal: the numbers in it.
    """

    name: str
    setting: Any
    goal: Tensor

    def start(self, episodes: Params) -> tuple[Params, Tensor]:
        setting = self.setting

        def prepare(environment: Any) -> None:
            environment.set_task(setting)

        state, observation = self._environments.start(episodes["seed"], prepare, self.goal)
        return state | {"success": torch.zeros_like(state["over"])}, observation

    def step(self, state: Params, action: Tensor, episodes: Params, t: int) -> WorldStep:
        after, success = self._environments.step(state, action.clamp(-1, 1), "success")
        return after._replace(state=after.state | {"success": torch.maximum(state["success"], success)})

    def outcome(self, state: Params) -> Params:
        """Whether an episode was a success at any time [N], which is what the benchmark counts."""
        return {"success": state["success"]}

    @property
    def _environments(self) -> Environments:
        return warm(make_arm, self.name)


class MetaWorld:
    """``shots`` and ``queries`` are episodes for one goal.

    The split ``train`` has the benchmark's 50 training goals, and ``test`` its 50 test goals: an evaluation of 50 tasks
    has each of them once.

    Raises:
        ConfigError: there is no such task, or the extra ``metaworld`` is not installed.
    """

    Config: ClassVar[type[MetaWorldConfig]] = MetaWorldConfig
    splits: tuple[Split, ...] = ("train", "test")

    def __init__(self, config: MetaWorldConfig, shapes: TaskShapes) -> None:
        self.versions = versions_of("metaworld", "gymnasium", "mujoco", "metaworld")
        self._config, self._shapes = config, shapes
        self._worlds = worlds(config.task, config.goals)
        goals = [world.goal.numpy().tobytes() for split in self.splits for world in self._worlds[split]]
        self.fingerprint = hashlib.sha256(b"".join([repr(config).encode(), *goals])).hexdigest()[:16]

    def spec(self) -> Spec:
        return Spec(Simulator, (OBSERVED,), 2 * MOTORS, "none", "success", actions=Actions(MOTORS, discrete=False))

    def sample(self, ticket: Ticket) -> Task[Simulator]:
        rng, among = ticket.rng("task"), self._worlds["train" if ticket.split == "train" else "test"]
        number = ticket.number if ticket.purpose == "evaluate" else int(rng.integers(len(among)))
        world = among[number % len(among)]
        world = world._replace(goal=world.goal.clone())
        shape, horizon = self._shapes.of(ticket), self._config.horizon
        return simulators(ticket, shape, world, lambda count: seeds(rng, count), horizon)

    def judge(self, answers: Params, query: Simulator) -> dict[str, float]:
        """The share of episodes that were a success."""
        return {"success": float(answers["success"])}


def make_arm(task: str) -> Any:
    """A new environment of a task. Raises ``ConfigError`` where there is no such task."""
    from metaworld import ALL_V3_ENVIRONMENTS as known

    if task not in known:
        near = get_close_matches(task, known, 3) or sorted(known)
        raise ConfigError(f"source.task: Meta-World has no task {task!r}; it has {', '.join(near)}")
    return known[task]()


@functools.lru_cache(maxsize=4)
def worlds(task: str, goals: int) -> dict[Split, list[Arm]]:
    """The worlds of each split. Raises as ``make_arm`` does."""
    from metaworld import ML1

    arm, benchmark = make_arm(task), ML1(task, seed=goals)

    def world(setting: Any) -> Arm:
        arm.set_task(setting)
        return Arm(task, setting, torch.from_numpy(arm._last_rand_vec.copy()))

    return {"train": [*map(world, benchmark.train_tasks)], "test": [*map(world, benchmark.test_tasks)]}
