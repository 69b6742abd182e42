"""RL²: a recurrent policy that learns within its state, over the episodes of a trial.

Duan et al.: RL²: Fast Reinforcement Learning via Slow Reinforcement Learning, arXiv 1611.02779; Wang et al.: Learning
to Reinforcement Learn, arXiv 1611.05763.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Annotated, ClassVar, NamedTuple

import numpy as np
import torch
from annotated_types import Ge, Le
from torch import Tensor

from pipeline.core.algorithm import backprop
from pipeline.core.bounds import MAX_COUNT, Rate, Width
from pipeline.core.effects import NotWith
from pipeline.core.losses import LossFunction
from pipeline.core.network import Network
from pipeline.core.types import About, Context, Episodes, MetaParams, Params, Score, Simulator, Task
from pipeline.core.world import ENVIRONMENT_STEPS, lasts, play, recorded
from pipeline.families.advantages import generalised
from pipeline.families.policy import QUERY, SUPPORT, PolicyBased
from pipeline.families.recurrent import Memory, RecurrentPolicy
from pipeline.nets.cells import CellName

Weight = Annotated[float, Ge(0), Le(1e6)]
Share = Annotated[float, Ge(0), Le(1)]
MemorySteps = Annotated[int, Ge(3), Le(MAX_COUNT)]


@dataclass(frozen=True)
class RL2Config:
    """The recurrent network, and an advantage actor-critic that trains it. The sizes are ours.

    Attributes:
        cell: The recurrent cell.
        hidden: Width of its state.
        discount: Factor of a reward one step later, over the whole trial.
        trace: Lambda of the generalised advantage estimates.
        value_weight: Weight of the critic's squared error.
        entropy_weight: Weight of the policy's entropy, which keeps it from settling early.
        entropy_steps: Outer steps in which that weight falls to 0 along a line, as Wang et al. let it; 0 keeps it.
        reward_scale: Factor of rewards in what is learned: the critic's targets should be of the size of 1.
        embedding: Units of a ReLU layer before the cell. The layer reads the last observation too, so
            that it sees a whole transition, as variBAD's encoder does (arXiv 1910.08348). Null is no layer.
        memory_steps: Longest memory of a new cell in steps, by the chrono initialisation (arXiv 1804.11188). With null,
            biases start at 0, and a new GRU keeps half of its state from step to step.
        fast_weights: Units of fast weights (Schmidhuber 1992; arXiv 1610.06258): what the embedding makes of a step is
            added to what the observation acted on recalls, and each observation recalls its own. Null is none.
    """

    cell: CellName = "gru"
    hidden: Width = 64
    discount: Share = 0.99
    trace: Share = 0.95
    value_weight: Weight = 0.5
    entropy_weight: Weight = 0.01
    entropy_steps: Annotated[int, Ge(0), Le(MAX_COUNT)] = 0
    reward_scale: Rate = 1.0
    embedding: Width | None = None
    memory_steps: MemorySteps | None = None
    fast_weights: Annotated[Width | None, NotWith(embedding=(None,))] = None


class Played(NamedTuple):
    """Episodes that were acted in.

    Args:
        episodes: N of them.
        outputs: what the distribution of each action took [N, H, width].
        values: the returns that were expected before each step [N, H].
        memory: the agent after them.
        world: the world's last state.
    """

    episodes: Episodes
    outputs: Tensor
    values: Tensor
    memory: Memory
    world: Params


class RL2(PolicyBased[Memory]):
    """h_t = cell(φ(x_t), a_{t-1}, r_{t-1}, d_{t-1}; h_{t-1}); π and V are linear in h_t. Theta descends, over a trial,

        -mean_t(log π(a_t) A_t) + c_V mean_t((V_t - R_t)²) - c_H mean_t(H(π_t)).

    The state is kept over the episodes of a trial, and begins anew with each trial. Support episodes come one after the
    other; each query episode goes on from the state after them. A_t counts the rewards of the whole trial.
    """

    Config: ClassVar[type[RL2Config]] = RL2Config
    about: ClassVar[About] = About("policy", "Duan et al. 2016, arXiv 1611.02779")
    differentiable = True

    def __init__(self, config: RL2Config, model: Network, loss: LossFunction) -> None:
        super().__init__(config, model, loss)
        self.recurrent = RecurrentPolicy(config, model, self.distribution)

    def init(self, rng: np.random.Generator) -> MetaParams:
        return {"model": self.recurrent.init(rng)}

    def begin(self, theta: MetaParams) -> Memory:
        return self.recurrent.begin(theta["model"])

    def adapt(self, theta: MetaParams, support: Simulator, context: Context) -> Memory:
        *_, last = self.trace(theta, support, context)
        return last

    def trace(self, theta: MetaParams, support: Simulator, context: Context) -> Iterator[Memory]:
        memory = self.begin(theta)
        yield memory
        for played in self._episodes(memory, support, context.noise[SUPPORT]):
            yield played.memory

    def experience(self, adapted: Memory, episodes: Episodes) -> Memory:
        simulator, memory = recorded(episodes), adapted
        for number in range(simulator.rows):
            memory = self._play(memory, simulator.take(number, 1), partial(_recorded_action, episodes, number)).memory
        return memory

    def predict(self, adapted: Memory, x: Tensor) -> Tensor:
        """What the distribution of the next action takes, [N, width], for N observations that may come next."""
        memory = adapted.for_episodes(len(x))
        outputs, _, _ = self.recurrent.step(memory, x)
        return outputs

    def respond(self, adapted: Memory, x: Tensor, noise: Tensor) -> tuple[Tensor, Memory]:
        memory = adapted.for_episodes(len(x))
        outputs, _, after = self.recurrent.step(memory, x)
        action = self.distribution.sample(outputs, noise)
        nothing = torch.zeros_like(memory.reward)
        return action, after._replace(action=self._read(action, memory), reward=nothing, done=nothing)

    def rewarded(self, adapted: Memory, reward: Tensor, done: Tensor) -> Memory:
        return adapted._replace(reward=reward, done=done)

    def act_in(self, adapted: Memory, simulator: Simulator, noise: Tensor) -> tuple[Episodes, Params]:
        played = self._play(adapted.for_episodes(simulator.rows), simulator, partial(self._sampled, noise))
        return played.episodes, played.world

    def score(self, adapted: Memory, query: Simulator, context: Context) -> Score:
        """Beside the return of query episodes, the mean return of the trial up to them, its support episodes too."""
        score = super().score(adapted, query, context)
        told = {"trial_return": _trial_return(adapted, score)}
        return score._replace(metrics=score.metrics | told, answers=score.answers | told)

    def learn(self, theta: MetaParams, task: Task[Simulator], context: Context) -> tuple[MetaParams, Score]:
        return backprop(self, theta, task, context)

    def objective(self, theta: MetaParams, task: Task[Simulator], context: Context) -> Score:
        memory, parts = self.begin(theta), []
        for played in self._episodes(memory, task.support, context.noise[SUPPORT]):
            memory = played.memory
            parts.append(played)
        last = self._play(
            memory.for_episodes(task.query.rows), task.query, partial(self._sampled, context.noise[QUERY])
        )
        entropy = self._entropy_weight(context.step)
        judged = [self._losses(*part, entropy) for part in self._with_advantages([*parts, last])]
        losses, counts = zip(*judged, strict=True)
        taken = torch.stack(counts).sum()
        score = self.loss(last.episodes.rewards, last.episodes.alive)
        steps = torch.stack([played.episodes.alive.sum() for played in (*parts, last)]).sum()
        told = {"trial_return": _trial_return(memory, score), ENVIRONMENT_STEPS: steps}
        return score._replace(loss=torch.stack(losses).sum() / taken, metrics=score.metrics | told)

    def _with_advantages(self, parts: list[Played]) -> list[tuple[Played, Tensor]]:
        """Each part of a trial with its advantages [N, H]: of a support step the mean over the query episodes."""
        rows = len(parts[-1].values)

        def along(name: str) -> Tensor:
            columns = [getattr(part.episodes, name) if name != "values" else part.values.detach() for part in parts]
            return torch.cat([column.expand(rows, -1) for column in columns], 1)

        rewards = along("rewards") * self.config.reward_scale
        every = generalised(rewards, along("values"), along("alive"), self.config.discount, self.config.trace)
        pieces = every.split([part.values.shape[1] for part in parts], 1)
        return [
            (part, piece.mean(0, keepdim=True) if len(part.values) == 1 else piece)
            for part, piece in zip(parts, pieces, strict=True)
        ]

    def _entropy_weight(self, step: int) -> float:
        gone = (step - 1) / self.config.entropy_steps if self.config.entropy_steps else 0.0
        return self.config.entropy_weight * max(0.0, 1 - gone)

    def _losses(self, played: Played, advantages: Tensor, entropy: float) -> tuple[Tensor, Tensor]:
        """The loss summed over the steps of an episode, a mean over episodes, and how many steps these are.

        ``entropy`` is the weight of the policy's entropy.
        """
        episodes, config = played.episodes, self.config
        actor = -self.distribution.log_prob(played.outputs, episodes.actions) * advantages
        critic = (played.values - (advantages + played.values.detach())).square()
        loss = actor + config.value_weight * critic - entropy * self.distribution.entropy(played.outputs)
        return (loss * episodes.alive).sum(1).mean(), episodes.alive.sum(1).mean()

    def _episodes(self, memory: Memory, simulator: Simulator, noise: Tensor) -> Iterator[Played]:
        """Episodes one after the other, the memory kept."""
        for number in range(simulator.rows):
            choose = partial(self._sampled, noise[number : number + 1])
            played = self._play(memory, simulator.take(number, 1), choose)
            memory = played.memory
            yield played

    def _sampled(self, noise: Tensor, t: int, outputs: Tensor) -> Tensor:
        return self.distribution.sample(outputs, noise[:, t])

    def _play(self, memory: Memory, simulator: Simulator, choose: Callable[[int, Tensor], Tensor]) -> Played:
        """Act in episodes at once, each from its row of ``memory``. After an episode's end nothing is remembered."""
        kept, alive = memory, None if lasts(simulator.world) else torch.ones_like(memory.reward)
        outputs, values = [], []

        def act(t: int, observation: Tensor, reward: Tensor, done: Tensor) -> Tensor:
            nonlocal kept, alive
            if t:
                kept = kept._replace(reward=_where(alive, reward, kept.reward), done=_where(alive, done, kept.done))
                alive = None if alive is None else alive * (1 - done)
            output, value, after = self.recurrent.step(kept, observation)
            action = choose(t, output)
            outputs.append(output)
            values.append(value)
            kept = kept._replace(
                state={name: _where(alive, leaf, kept.state[name]) for name, leaf in after.state.items()},
                observation=_where(alive, after.observation, kept.observation),
                action=_where(alive, self._read(action, kept), kept.action),
            )
            return action

        episodes, world = play(simulator, act)
        # No observation follows the last step, so its reward and its end are told here.
        taken = None if alive is None else episodes.alive[:, -1]
        after = kept._replace(
            reward=_where(taken, episodes.rewards[:, -1], kept.reward),
            done=torch.ones_like(kept.done),
            returned=torch.cat([memory.returned, episodes.rewards.sum(1).mean().unsqueeze(0)]),
        )
        return Played(episodes, torch.stack(outputs, 1), torch.stack(values, 1), after, world)

    def _read(self, action: Tensor, memory: Memory) -> Tensor:
        return self.distribution.encode(action).to(memory.action.dtype)


def _trial_return(memory: Memory, score: Score) -> Tensor:
    """The mean return of a trial's episodes, the query episodes as one."""
    return torch.cat([memory.returned, score.metrics["return"].unsqueeze(0)]).mean()


def _where(alive: Tensor | None, new: Tensor, old: Tensor) -> Tensor:
    """``new`` in the rows that are alive [N], else ``old``; both are [N, …]. Without ``alive`` all are."""
    return new if alive is None else torch.where(alive.reshape(-1, *(1,) * (new.dim() - 1)) > 0, new, old)


def _recorded_action(episodes: Episodes, number: int, t: int, outputs: Tensor) -> Tensor:
    return episodes.actions[number : number + 1, t]
