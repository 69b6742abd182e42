"""An agent from recipe to use: trained, looked at, loaded without its source, and acting on its own."""

from __future__ import annotations

import io
import shutil
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

import pipeline
from pipeline.algorithms import rl2
from pipeline.algorithms.rl2 import RL2
from pipeline.build import build_components, build_worker
from pipeline.core.failures import ConfigError, DataError
from pipeline.core.flat import cast
from pipeline.core.seeding import Ticket
from pipeline.core.source import TaskShape, TaskShapes
from pipeline.core.types import Context, Simulator
from pipeline.core.world import WorldStep
from pipeline.engine.evaluate import Scores
from pipeline.engine.interfaces import Chunk
from pipeline.runs.dry_run import dry_run
from pipeline.runs.end_files import end_files
from pipeline.runs.end_pictures import Ended
from pipeline.storage.local import Local
from pipeline.tasks.navigation import Navigation
from tests.runtime.tiny import recipe

pytestmark = pytest.mark.usefixtures("torch_threads")


@pytest.fixture(scope="module")
def run(migrated_mlflow, small_images, tmp_path_factory):
    """The folder of a run of MAML-RL on the plane, whose test tasks take two inner steps."""
    folder = tmp_path_factory.mktemp("agent")
    uri = f"sqlite:///{shutil.copy(migrated_mlflow, folder / 'mlflow.db')}"
    task = {"train": {"shots": 20, "queries": 2}, "eval": {"shots": 40, "queries": 2}}
    tiny = recipe("maml_rl", small_images, 2, task=task, tracking={"uri": uri}).public()
    (folder / "tiny.yaml").write_text(yaml.safe_dump(tiny), "utf-8")
    pipeline.train(folder / "tiny.yaml", executor="serial", output=folder / "run")
    return folder / "run"


def test_episodes_before_and_after_adaptation_are_among_the_run_s_artifacts(run):
    import mlflow

    client = mlflow.MlflowClient(f"sqlite:///{run.parent / 'mlflow.db'}")
    [tracked] = client.search_runs([client.get_experiment_by_name("metafleet").experiment_id])
    logged = {one.path for one in client.list_artifacts(tracked.info.run_id, "episodes")}
    assert logged == {"episodes/before.gif", "episodes/after.gif"}
    assert tracked.data.metrics["environment_steps_per_s"] > 0
    frames = [Image.open(io.BytesIO((run / name).read_bytes())).n_frames for name in logged]
    assert all(2 <= count <= 5 for count in frames)  # four steps, and the place before them


def ended(images, horizon: int, folder) -> tuple[dict[str, bytes], list[str]]:
    """The files of a run of ``horizon`` steps that ends with its first theta, and what was noted."""
    notes = list[str]()
    tiny = recipe("maml_rl", images, source={"name": "navigation", "horizon": horizon})
    components = build_components(tiny)
    run = Ended(tiny, components, components.theta.numpy(), Scores((), {}), {}, (), Local(folder))
    return end_files(run, notes.append), notes


def test_the_gif_of_a_long_episode_is_its_beginning(small_images, monkeypatch, tmp_path):
    monkeypatch.setattr("pipeline.tasks.film.LONGEST", 3)
    files, _ = ended(small_images, 6, tmp_path)
    assert Image.open(io.BytesIO(files["episodes/before.gif"])).n_frames == 3


def test_pictures_that_fail_cost_a_run_nothing_but_these(small_images, monkeypatch, tmp_path):
    def broken(plane, state):
        raise ValueError("no colours left")

    monkeypatch.setattr("pipeline.tasks.navigation.Plane.picture", broken)
    files, notes = ended(small_images, 4, tmp_path)
    assert set(files) == {"summary.json"}
    assert notes == ["no GIF of an episode: ValueError: no colours left"]


def test_a_served_agent_adapts_by_one_inner_step_as_evaluation_does(run):
    """Episodes that it acted in come back as lists of unequal length, as a robot's log has them."""
    learner = pipeline.load(run)
    agent = learner.algorithm
    source = Navigation(Navigation.Config(horizon=4), TaskShapes(TaskShape(1, 20, 2), TaskShape(1, 20, 2)))
    task = source.sample(Ticket(5, "evaluate", "test", 0, 0))
    support = task.support._replace(
        world=task.support.world._replace(goal=torch.tensor([0.1, 0.1])),
        episodes={"place": task.support.episodes["place"].float()},
        clock=task.support.clock.float(),
    )
    noise = agent.distribution.noise(np.random.default_rng(0), (20, 4)).float()
    with torch.no_grad():
        seen, _ = agent.act_in(agent.begin(learner.theta), support, noise)
        wanted = agent.experience(agent.begin(learner.theta), seen)
    log = [
        tuple(part[row][seen.alive[row] > 0].tolist() for part in (seen.observations, seen.actions, seen.rewards))
        for row in range(20)
    ]
    policy = learner.adapt(log)
    assert len({len(rewards) for _, _, rewards in log}) > 1
    for name, leaf in wanted.phi.items():
        assert torch.allclose(policy.adapted.phi[name], leaf, atol=1e-5)
    before, after = learner.adapt(), learner.adapt().adapt(log)
    assert before.act([0.0, 0.0]).shape == (2,)
    assert torch.equal(after.adapted.phi["head/bias"], policy.adapted.phi["head/bias"])
    assert not torch.equal(before.adapted.phi["head/bias"], policy.adapted.phi["head/bias"])


GOOD = ([[0.0, 0.0]], [[0.1, 0.1]], [-1.0])


@pytest.mark.parametrize(
    ("episodes", "told"),
    [
        ([], r"episodes: none; give one or more"),
        ([GOOD[:2]], r"episodes\[0\]: expected \(observations, actions, rewards\)"),
        ([GOOD, ([[0.0]], [[0.1, 0.1]], [-1.0])], r"episodes\[1\] observations: shape \(1, 1\), expected \(1, 2\)"),
        ([([[0.0, 0.0]], [3], [-1.0])], r"episodes\[0\] actions: shape \(1,\), expected \(1, 2\)"),
        ([([[0.0, np.nan]], [[0.1, 0.1]], [-1.0])], r"episodes\[0\] observations: expected finite numbers, found"),
        (np.zeros((2, 3)), r"^episodes: ndarray, expected a list of \(observations, actions, rewards\)$"),
        ([([], [], [])], r"episodes\[0\]: no rewards"),
    ],
)
def test_episodes_that_do_not_fit_are_refused_in_one_line(run, episodes, told):
    with pytest.raises(DataError, match=told):
        pipeline.load(run).adapt(episodes)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"task": {"train": {"shots": 30}, "eval": {"shots": 20}}}, r"inner_episodes: 20, and a task has 30 support"),
        (
            {"task": {"train": {"shots": 20, "ways": 2}, "eval": {"shots": 20}}},
            r"task.train.ways: 2, but a task of this",
        ),
        ({"normalisation": "transductive"}, r"normalisation: 'transductive' looks at a batch"),
        (
            {"source": {"name": "bandits"}, "net": {"name": "policy", "init_std": 0.5}},
            r"net.init_std: 0.5 has no effect",
        ),
        ({"net": {"name": "mlp"}}, r"net.name: mlp does not read Simulator"),
        ({"source": {"name": "sinusoid"}}, r"algorithm.name: maml_rl takes tasks of Simulator"),
    ],
)
def test_parts_that_do_not_fit_an_agent_are_refused_in_one_line(small_images, changes, told):
    with pytest.raises(ConfigError, match=told):
        dry_run(recipe("maml_rl", small_images, **changes))


def test_a_reward_that_is_no_number_and_answers_for_an_agent_are_refused_in_one_line(run):
    learner = pipeline.load(run)
    with pytest.raises(DataError, match="reward: expected finite numbers"):
        learner.adapt().rewarded(float("nan"))
    with pytest.raises(DataError, match="support_y: an agent has none; give episodes of"):
        learner.adapt([GOOD], [1.0])


def test_an_agent_that_goes_on_after_adapting_does_not_repeat_its_random_numbers(run):
    """Two fresh starts act alike; an actor and what it adapts to act on one stream of random numbers."""
    first, again = pipeline.load(run).adapt(), pipeline.load(run).adapt()
    acted = first.act([0.0, 0.0])
    assert np.array_equal(acted, again.act([0.0, 0.0]))
    after = first.adapt([GOOD])
    after.adapted = first.adapted
    assert not np.array_equal(acted, after.act([0.0, 0.0]))


class Forgetful(RL2):
    """The known wrong variant: the state begins anew with each episode of a trial."""

    def _play(self, memory, simulator, choose):
        fresh = self.begin({"model": memory.phi})._replace(returned=memory.returned)
        return super()._play(fresh, simulator, choose)


BANDIT = {
    "net": {"name": "policy", "hidden": [4]},
    "source": {"name": "bandits", "arms": 2, "horizon": 1},
    "normalisation": "none",
    "numerics": {"dtype": "float64"},
}


def bandit_worker(kind, images, shots, queries, tasks=1):
    """A worker of trials of ``shots`` + 1 pulls, and its first theta."""
    shape = {"shots": shots, "queries": queries}
    changes = BANDIT | {"chunk_size": tasks, "tasks_per_step": tasks, "task": {"train": shape, "eval": shape}}
    tiny = recipe("rl2", images, **changes)
    components = build_components(tiny)
    worker = build_worker(tiny, components)
    worker.algorithm = kind(*(getattr(worker.algorithm, part) for part in ("config", "model", "loss")))
    return worker, components.theta.clone()


def chunk(step: int, purpose: str, tasks: int) -> Chunk:
    return Chunk(step, 0, tuple(Ticket(1, purpose, "train", step, number) for number in range(tasks)))


@pytest.mark.parametrize(("kind", "kept"), [(RL2, True), (Forgetful, False)])
def test_what_earlier_episodes_of_a_trial_gave_decides_later_actions(kind, kept, small_images):
    worker, theta = bandit_worker(kind, small_images, 5, 1)
    task = worker.drawing.source.sample(Ticket(1, "train", "train", 1, 0))
    noise = worker.algorithm.draw(np.random.default_rng(0), task, "train")
    answers = []
    for luck in (0.0, 1.0):  # each pull is paid, or none
        support = task.support._replace(episodes={"luck": torch.full((5, 1), luck, dtype=torch.float64)})
        memory = worker.algorithm.adapt(worker.layout.unpack(theta), support, Context(1, "train", 1, noise))
        query = task.query._replace(episodes={"luck": torch.full((1, 1), 0.5, dtype=torch.float64)})
        answers.append(worker.algorithm._play(memory, query, lambda t, outputs: outputs.argmax(-1)).outputs)
    assert torch.equal(*answers) != kept


def test_the_weight_of_entropy_falls_along_a_line(small_images):
    """A weight of 0.2 that falls to 0 in four outer steps is 0.2, 0.15, 0.1, 0.05, and 0 from then on."""
    worker, theta = bandit_worker(RL2, small_images, 2, 1)
    task = worker.drawing.source.sample(Ticket(1, "train", "train", 1, 0))
    noise = worker.algorithm.draw(np.random.default_rng(0), task, "train")
    start = worker.layout.unpack(theta)

    def loss(step: int, **settings: float) -> float:
        config = replace(worker.algorithm.config, **settings)
        agent = RL2(config, worker.algorithm.model, worker.algorithm.loss)
        return float(agent.objective(start, task, Context(step, "train", 1, noise)).loss)

    falling = [loss(step, entropy_weight=0.2, entropy_steps=4) for step in (1, 2, 3, 4, 5, 9)]
    assert falling == pytest.approx([loss(1, entropy_weight=weight) for weight in (0.2, 0.15, 0.1, 0.05, 0, 0)], 1e-12)
    assert loss(9, entropy_weight=0.2) == loss(1, entropy_weight=0.2) != loss(1, entropy_weight=0.0)


@pytest.mark.parametrize("units", [None, 3])
def test_a_recurrent_policy_reads_a_whole_transition_and_what_its_observation_recalls(units, small_images):
    """The state after two steps, by hand: with fast weights the second observation recalls the first."""
    algorithm = bandit_worker(RL2, small_images, 2, 1)[0].algorithm
    config = replace(algorithm.config, embedding=6, fast_weights=units)
    agent = RL2(config, algorithm.model, algorithm.loss)
    phi = {name: leaf.double() for name, leaf in agent.init(np.random.default_rng(1))["model"].items()}
    xs = torch.tensor([[[0.3]], [[-0.7]]], dtype=torch.float64)
    memory, number = agent.begin({"model": phi}), xs.new_ones(1)
    first, second = (agent.model.embed(phi, x) for x in xs)
    action, memory = agent.respond(memory, xs[0], 0.4 * number)
    _, memory = agent.respond(agent.rewarded(memory, 2 * number, 0 * number), xs[1], 0.4 * number)
    state = agent.recurrent.cell.start(first)
    for seen, chosen, reward, before in ((first, 0, 0.0, 0 * first), (second, 1, 2.0, first)):
        one_hot = chosen * torch.nn.functional.one_hot(action, 2)
        told = torch.cat([seen, one_hot, torch.tensor([[reward, 0.0]]).double(), before], -1)
        told = (told @ phi["embedding/weight"].T + phi["embedding/bias"]).clamp(min=0)
        recalled = torch.zeros(1, 0)
        if units:  # only the last of two steps was bound to an observation
            recalled = (told @ phi["fast/weight"].T).tanh() * (before * seen).sum()
        state = agent.recurrent.cell(phi, torch.cat([told, recalled.double()], -1), state)
    torch.testing.assert_close(memory.state["h"], state["h"], rtol=0, atol=1e-14)


class Ending(NamedTuple):
    """Episodes that end after ``length`` steps; an observation and a reward are the time."""

    name: str

    def start(self, episodes):
        time = torch.zeros_like(episodes["length"])
        return {"time": time}, time.unsqueeze(1)

    def step(self, state, action, episodes, t):
        time = state["time"] + 1
        return WorldStep({"time": time}, time.unsqueeze(1), time, (time >= episodes["length"]).to(time.dtype))


@pytest.mark.parametrize("frozen", [True, False])
@pytest.mark.parametrize("settings", [{}, {"embedding": 3, "fast_weights": 2}], ids=["cell", "fast weights"])
def test_after_the_end_of_an_episode_nothing_is_remembered(settings, frozen, small_images, monkeypatch):
    """A trial of episodes that end early leaves the memory that one observation at a time leaves."""
    if not frozen:  # the known wrong variant: what follows an episode's end is remembered
        monkeypatch.setattr("pipeline.algorithms.rl2._where", lambda alive, new, old: new)
    worker, _ = bandit_worker(RL2, small_images, 2, 1)
    algorithm, lengths = worker.algorithm, torch.tensor([2.0, 3.0], dtype=torch.float64)
    agent = RL2(replace(algorithm.config, **settings), algorithm.model, algorithm.loss)
    trial = Simulator(Ending("ending"), {"length": lengths}, torch.zeros(5, dtype=torch.float64))
    noise = agent.distribution.noise(np.random.default_rng(0), (2, 5))
    start = cast(agent.init(np.random.default_rng(1)), torch.float64)
    together = agent.adapt(start, trial, Context(1, "evaluate", 1, {"support_actions": noise}))
    alone = agent.begin(start)
    for number, length in enumerate([2, 3]):
        for t in range(length):
            _, alone = agent.respond(alone, lengths.new_full((1, 1), t), noise[number : number + 1, t])
            alone = agent.rewarded(alone, lengths.new_full((1,), t + 1), lengths.new_full((1,), t + 1 == length))
    assert together.returned.tolist() == [3.0, 6.0]
    for name in ("observation", "reward"):
        assert torch.equal(getattr(together, name), getattr(alone, name)) == frozen
    for name, leaf in together.state.items():
        assert torch.equal(leaf, alone.state[name]) == frozen


@pytest.mark.parametrize("name", ["bandits", "mdps"])
def test_a_world_whose_episodes_last_needs_no_masks(name, small_images, monkeypatch):
    """Every bit of what is learned stays, with masks and without."""
    shape = {"shots": 2, "queries": 2}
    changes = BANDIT | {"source": {"name": name}, "task": {"train": shape, "eval": shape}}
    tiny = recipe("rl2", small_images, **changes)
    components = build_components(tiny)
    masked = []

    def learned() -> np.ndarray:
        worker = build_worker(tiny, components)
        return worker.learn(components.theta.numpy(), chunk(1, "train", 2))[0].gradient

    def counted(alive, new, old):
        masked.append(alive is not None)
        return where(alive, new, old)

    where = rl2._where
    monkeypatch.setattr(rl2, "_where", counted)
    without = learned()
    assert masked
    assert not any(masked)
    monkeypatch.setattr(rl2, "lasts", lambda world: False)
    assert np.array_equal(learned(), without)
    assert masked[-1]


@pytest.mark.slow
def test_a_state_that_is_lost_between_the_episodes_of_a_trial_loses(small_images):
    """After the same training, on 1,024 trials of six pulls of two arms."""
    returns = {}
    for kind in (RL2, Forgetful):
        worker, theta = bandit_worker(kind, small_images, 5, 1, tasks=256)
        optimizer = torch.optim.Adam([theta], lr=0.02)
        for step in range(1, 201):
            contribution, _ = worker.learn(theta.numpy(), chunk(step, "train", 256))
            theta.grad = torch.from_numpy(contribution.gradient / 256)
            optimizer.step()
        scores = worker.score(theta.numpy(), chunk(0, "evaluate", 1024))
        returns[kind] = scores.metrics["trial_return"][:, -1].mean()
    assert returns[RL2] > returns[Forgetful] + 0.03
    assert abs(returns[Forgetful] - 0.5) < 0.02
