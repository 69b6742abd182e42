"""Worlds that run gymnasium's environments: a task's episodes are a pure function of its ticket and the actions."""

from __future__ import annotations

import hashlib
from importlib.metadata import PackageNotFoundError

import numpy as np
import pytest
import torch

from pipeline.core.failures import ConfigError
from pipeline.core.flat import cast
from pipeline.core.seeding import Ticket
from pipeline.core.source import TaskShape, TaskShapes
from pipeline.core.types import Episodes
from pipeline.core.world import outcome, play
from pipeline.tasks import SOURCES, environments
from pipeline.tasks.film import Filmed
from tests.contract.cases import EXTRAS

HORIZONS = {"cartpole": 40, "cheetah": 12, "metaworld": 8}
SHAPE = TaskShape(1, 2, 3)


@pytest.fixture(params=["cartpole", "cheetah", pytest.param("metaworld", marks=pytest.mark.slow)])
def name(request):
    package, extra = EXTRAS[request.param]
    pytest.importorskip(package, reason=f"needs the extra {extra}")
    return request.param


def source_of(name, **changes):
    return SOURCES[name](SOURCES[name].Config(**{"horizon": HORIZONS.get(name)} | changes), TaskShapes(SHAPE, SHAPE))


def acted(simulator, seed=0):
    """Episodes of random actions, the same for the same seed."""
    generator = torch.Generator().manual_seed(seed)
    world = simulator.world

    def act(t, observation, reward, done):
        if world.name == "CartPole-v1":
            return torch.randint(2, (simulator.rows,), generator=generator)
        size = 6 if world.name == "HalfCheetah-v5" else 4
        return torch.randn(simulator.rows, size, generator=generator, dtype=simulator.clock.dtype)

    return play(simulator, act)


def bits(source, number):
    task = source.sample(Ticket(1, "train", "train", 1, number))
    digest = hashlib.sha256()
    for part in (task.support, task.query):
        for tensor in acted(part, number)[0]:
            digest.update(tensor.numpy().tobytes())
    return digest.hexdigest()


def test_a_ticket_has_the_same_episodes_in_used_and_in_fresh_environments_and_in_any_order(name):
    source = source_of(name)
    forwards = [bits(source, number) for number in range(3)]
    assert len(set(forwards)) == 3
    assert [bits(source, number) for number in (2, 1, 0)] == forwards[::-1]
    environments.warm.cache_clear()
    assert bits(source_of(name), 2) == forwards[2]


@pytest.mark.slow
def test_what_an_earlier_episode_left_in_the_solver_would_show(monkeypatch):
    """The test above can fail: positions and speeds alone are not all that a reset has to clear."""
    pytest.importorskip("metaworld", reason="needs the extra metaworld")
    import mujoco

    query = source_of("metaworld").sample(Ticket(1, "train", "train", 1, 0)).query.take(0, 1)
    environments.warm.cache_clear()
    first, _ = acted(query)
    monkeypatch.setattr(mujoco, "mj_resetData", lambda model, data: None)
    assert not torch.equal(acted(query)[0].observations, first.observations)


def test_an_episode_that_is_over_is_not_acted_in(monkeypatch):
    pytest.importorskip("gymnasium", reason="needs the extra control")
    from gymnasium.envs.classic_control.cartpole import CartPoleEnv

    steps, step = [], CartPoleEnv.step
    monkeypatch.setattr(CartPoleEnv, "step", lambda self, action: steps.append(id(self)) or step(self, action))
    source = source_of("cartpole", horizon=100)
    query = source.sample(Ticket(1, "train", "train", 1, 0)).query
    episodes, state = acted(query)
    lengths = episodes.alive.sum(1)
    assert len(set(lengths.tolist())) > 1
    assert lengths.max() < 100
    assert len(steps) == lengths.sum()
    assert torch.equal(episodes.rewards, episodes.alive)
    assert state["over"].all()
    assert torch.equal(episodes.observations[:, -1], state["observation"])


def test_episodes_that_others_took_the_environments_of_cannot_go_on():
    pytest.importorskip("gymnasium", reason="needs the extra control")
    query = source_of("cartpole").sample(Ticket(1, "train", "train", 1, 0)).query
    state, _ = query.world.start(query.episodes)
    query.world.start(query.episodes)
    with pytest.raises(RuntimeError, match="these episodes were left"):
        query.world.step(state, torch.zeros(query.rows, dtype=torch.int64), query.episodes, 0)


def test_length_and_gravity_change_how_a_pole_falls():
    pytest.importorskip("gymnasium", reason="needs the extra control")
    seen = []
    for changes in ({}, {"length": (0.3, 0.3)}, {"gravity": (30.0, 30.0)}):
        fixed = {"length": (0.5, 0.5), "gravity": (9.8, 9.8)} | changes
        episodes, _ = acted(source_of("cartpole", **fixed).sample(Ticket(1, "train", "train", 1, 0)).query)
        seen.append(episodes.observations[:, 4].tolist())
    assert seen[0] != seen[1]
    assert seen[0] != seen[2]
    with pytest.raises(ConfigError, match=r"source.length: \(1.0, 0.5\) is empty"):
        source_of("cartpole", length=(1.0, 0.5))


def test_the_cheetah_is_rewarded_as_in_the_article():
    """The same actions towards both directions and at a speed: half the difference of the first two is the speed."""
    pytest.importorskip("mujoco", reason="needs the extra control")
    query = source_of("cheetah").sample(Ticket(1, "train", "train", 1, 0)).query

    def towards(goal, wanted) -> Episodes:
        world = query.world._replace(goal=goal, wanted=torch.tensor(wanted, dtype=torch.float64))
        return acted(query._replace(world=world))[0]

    forward, backward, paced = towards("direction", 1.0), towards("direction", -1.0), towards("velocity", 1.5)
    taken = forward.actions.clamp(-1, 1)
    assert forward.actions.abs().max() > 1
    effort, velocity = 0.05 * taken.square().sum(-1), (forward.rewards - backward.rewards) / 2
    torch.testing.assert_close(forward.rewards + backward.rewards, -2 * effort)
    torch.testing.assert_close(paced.rewards, -(velocity - 1.5).abs() - effort)
    bodies = environments.warm(environments.make_environment, "HalfCheetah-v5")._environments[: query.rows]
    places = torch.tensor([one.data.qpos[0] for one in bodies])
    assert torch.allclose(velocity.sum(1) * 0.05, places, atol=0.1), "they begin within 0.1 of 0"


def test_both_directions_have_as_many_tasks():
    pytest.importorskip("mujoco", reason="needs the extra control")
    source = source_of("cheetah")
    evaluated = [source.sample(Ticket(1, "evaluate", "test", 0, number)) for number in range(4)]
    of_one_task_a_step = [source.sample(Ticket(1, "train", "train", step, 0)) for step in range(4)]
    for tasks in (evaluated, of_one_task_a_step):
        assert [task.query.world.wanted.item() for task in tasks] == [1.0, -1.0, 1.0, -1.0]


def test_an_arm_that_knows_its_goal_has_success():
    pytest.importorskip("metaworld", reason="needs the extra metaworld")
    source = source_of("metaworld", horizon=60)
    tasks = [source.sample(Ticket(1, "evaluate", split, 1, n)) for split in ("train", "test") for n in range(50)]
    goals = [tuple(task.query.world.goal.tolist()) for task in tasks]
    assert len(set(goals)) == 100
    query = tasks[-1].query

    def reach(t, observation, reward, done):
        assert not observation[:, -3:].any(), "the goal is hidden"
        way = 10 * (query.world.goal[-3:] - observation[:, :3])
        return torch.cat([way, torch.zeros_like(way[:, :1])], -1)

    _, state = play(query, reach)
    assert outcome(query.world, state)["success"].tolist() == [1.0] * query.rows
    assert source.judge({"success": torch.tensor(0.25)}, query) == {"success": 0.25}
    assert outcome(query.world, acted(query.take(0, 1))[1])["success"].tolist() == [0.0]
    with pytest.raises(ConfigError, match=r"source.task: Meta-World has no task 'reach'; it has .*reach-v3"):
        source_of("metaworld", task="reach")


def test_episodes_have_the_type_of_the_worlds_parameters(name):
    query = source_of(name).sample(Ticket(1, "train", "train", 1, 0)).query
    episodes, state = acted(cast(query, torch.float32))
    assert {one.dtype for one in (episodes.observations, episodes.rewards, state["over"])} == {torch.float32}


def test_versions_are_told_and_an_absent_package_names_its_extra(monkeypatch):
    def version(package):
        if package == "mujoco":
            raise PackageNotFoundError(package)
        return "1.2.3"

    monkeypatch.setattr(environments, "version", version)
    assert source_of("cartpole").versions == {"gymnasium": "1.2.3"}
    with pytest.raises(ConfigError, match=r"^mujoco is not installed; it comes with the extra control: pip install"):
        source_of("cheetah")
    with pytest.raises(ConfigError, match=r"it comes with the extra metaworld"):
        source_of("metaworld")


@pytest.mark.parametrize("name", ["cartpole", "cheetah"], indirect=True)
def test_an_episode_can_be_looked_at(name):
    """Pictures show what moves, and looking changes no episode."""
    simulator = source_of(name).sample(Ticket(1, "evaluate", "test", 0, 0)).query.take(0, 1)
    filmed = Filmed(simulator.world)
    filmed.name = simulator.world.name
    seen, _ = acted(simulator._replace(world=filmed))
    assert all(torch.equal(a, b) for a, b in zip(seen, acted(simulator)[0], strict=True))
    assert len(filmed.frames) == 1 + int(seen.alive.sum())
    assert len({frame.tobytes() for frame in filmed.frames}) > 3
    assert all(frame.dtype == np.uint8 and frame.shape == (96, 192, 3) for frame in filmed.frames)
