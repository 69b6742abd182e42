"""The measurements of the benchmark measure what they say: a server taken away, a slow journal, a doubled metric.

Those that train wait for ``make test-all``: they test the benchmark, and no promise of the package rests on them.
"""

from __future__ import annotations

import http.client
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from mlflow.tracking import MlflowClient

from pipeline.build import BuildWorker, build_components, plan_of
from pipeline.config import Recipe
from pipeline.engine import loop
from pipeline.engine.durability import publisher
from pipeline.engine.durability.checkpoint import Checkpoints
from pipeline.engine.durability.coordinator import Coordinator
from pipeline.engine.durability.journal import Journal
from pipeline.engine.serial import SerialExecutor
from pipeline.runs.sync import sync_run
from pipeline.storage.local import Local
from pipeline.tasks.mdps import MDP
from tests import mlflow_server, quiet_runs
from tests.bench.coordinators import BuildCoordinatorByTurns, Spent, TimedCoordinator, Turns, read_spent
from tests.bench.mdp_rules import HORIZON, worths
from tests.bench.outages import share
from tests.bench.proxy import Proxy
from tests.bench.ratio import blocks, ratio
from tests.in_mlflow import check_metrics
from tests.runtime import tiny

ANSWER_S = 0.3
SLOW_S = 0.2


class Greeting(mlflow_server.Answering):
    """Keeps a connection open, as mlflow's client and server do."""

    protocol_version = "HTTP/1.1"

    def answer(self) -> tuple[int, str, bytes]:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        return 200, "text/plain", b"hello"


class Client:
    """One connection, which is kept."""

    def __init__(self, uri: str) -> None:
        self.connection = http.client.HTTPConnection(uri.removeprefix("http://"), timeout=ANSWER_S)
        self.connection.auto_open = False
        self.connection.connect()

    def ask(self) -> tuple[int, bytes]:
        self.connection.request("POST", "/", body=b"x" * 100_000)
        return self.listen()

    def listen(self) -> tuple[int, bytes]:
        answer = self.connection.getresponse()
        return answer.status, answer.read()


@pytest.fixture
def proxy():
    """Before a server that greets."""
    with mlflow_server.answering(Greeting) as server:
        door = Proxy(mlflow_server.free_port(), server.server_port)
        yield door
        door.close()


def test_a_server_that_hangs_says_nothing_until_it_is_back(proxy):
    kept = Client(proxy.uri)
    assert kept.ask() == (200, b"hello")
    proxy.set("hung")
    for client in (kept, Client(proxy.uri)):
        with pytest.raises(TimeoutError):
            client.ask()
    late = Client(proxy.uri)
    late.connection.request("GET", "/")
    proxy.set("up")
    assert late.listen() == (200, b"hello")


def test_a_server_that_fails_answers_500_to_everything(proxy):
    kept = Client(proxy.uri)
    assert kept.ask() == (200, b"hello")
    proxy.set("500")
    with pytest.raises(ConnectionError):
        kept.ask()
    for _ in range(2):
        assert Client(proxy.uri).ask() == (500, b"")
    proxy.set("up")
    assert Client(proxy.uri).ask() == (200, b"hello")


def test_a_server_that_is_gone_refuses_and_lets_go_of_who_was_connected(proxy):
    kept = Client(proxy.uri)
    assert kept.ask() == (200, b"hello")
    proxy.set("gone")
    with pytest.raises(ConnectionError):
        kept.ask()
    with pytest.raises(ConnectionRefusedError):
        Client(proxy.uri)
    proxy.set("up")
    assert Client(proxy.uri).ask() == (200, b"hello")


def test_the_ratio_is_that_of_the_medians_and_its_interval_holds_it():
    chance = np.random.default_rng(3)
    old, other = (50 + chance.normal(0, 5, 2000) for _ in range(2))
    same, slower = ratio(blocks(old), blocks(other)), ratio(blocks(old), blocks(0.9 * other))
    assert same.low < 1 < same.high
    assert slower.low < 0.9 < slower.high < 1
    assert slower.new / slower.old == slower.value == pytest.approx(0.9, abs=0.01)


def test_what_is_slow_now_and_then_shows_in_the_totals_alone():
    old = np.full(100, 50.0)
    bursts = np.where(np.arange(100) % 10 == 0, 5.0, 50.0)
    found = ratio(blocks(old), blocks(bursts))
    assert found.value == 1
    assert found.total == pytest.approx(100 / (90 + 10 * 10))


def test_blocks_that_differ_make_a_wider_interval_than_steps_that_do():
    apart = np.repeat([40.0, 60.0], 100)
    mixed = np.tile([40.0, 60.0], 100)

    def width(rates: np.ndarray) -> float:
        found = ratio(blocks(np.full(200, 50.0)), blocks(rates))
        return found.high - found.low

    assert width(apart) > width(mixed)


def test_what_slows_both_of_a_pair_down_does_not_make_the_interval_wider():
    luck = np.random.default_rng(4).uniform(20, 60, 50)
    old, new = [np.full(5, one) for one in luck], [np.full(5, 0.9 * one) for one in luck]
    paired, apart = ratio(old, new, paired=True), ratio(old, new)
    assert paired.low == pytest.approx(0.9) == paired.high
    assert apart.low < 0.85
    assert apart.high > 0.95


def test_a_share_is_of_the_steps_it_names():
    rates = np.array([10.0, 20.0, 50.0])  # 0.1, 0.05 and 0.02 s
    found = share([Spent(2, 0.02, 0.003, 0.002, 0.01), Spent(3, 0.01, 0.001, 0.001, 0.01)], rates)
    assert (found.steps, found.wall, found.published) == pytest.approx((2, 0.07, 0.02))
    assert found.tracking == pytest.approx(0.007 / 0.07)


def serially(recipe: Recipe, coordinator: Coordinator | TimedCoordinator) -> None:
    executor = SerialExecutor(BuildWorker(recipe.model_dump_json())(), coordinator)
    loop.train(executor, plan_of(recipe, build_components(recipe)), quiet_runs.Onlooker())
    assert executor.close("FINISHED", {}) is None


@pytest.fixture
def spent(tmp_path, torch_threads):
    """What a coordinator spends that somebody has meddled with."""

    def train(name: str, meddle: Callable[[Coordinator], None] = lambda _: None) -> list[Spent]:
        recipe = tiny.recipe("maml", Path(), steps=5)
        coordinator = quiet_runs.BuildQuietCoordinator(recipe.model_dump_json(), str(tmp_path / name))()
        meddle(coordinator)
        serially(recipe, TimedCoordinator(coordinator, tmp_path / f"{name}.spent"))
        found = read_spent(tmp_path / f"{name}.spent")
        assert [one.step for one in found] == list(range(1, recipe.steps + 1))
        return found

    return train


def slowed(call):
    def slow(*arguments):
        time.sleep(SLOW_S)
        return call(*arguments)

    return slow


@pytest.mark.bench
def test_a_slow_journal_is_found_and_what_the_publisher_syncs_beside_it_is_not_taken_for_that(spent):
    def slow_journal(coordinator):
        coordinator.journal.append = slowed(coordinator.journal.append)

    def synced_meanwhile(coordinator):
        write, coordinator.journal.sync = coordinator.checkpoints.write, slowed(coordinator.journal.sync)

        def write_beside(checkpoint):
            thread = threading.Thread(target=lambda: coordinator.journal.sync())
            thread.start()
            thread.join()
            write(checkpoint)

        coordinator.checkpoints.write = write_beside

    # The first step waits for nobody; the others for the writing of the one before, less what they learned meanwhile.
    assert all(SLOW_S / 3 <= one.journal <= one.commit for one in spent("journal", slow_journal)[1:])
    found = spent("beside", synced_meanwhile)[1:]
    assert all(one.commit >= SLOW_S / 3 for one in found)
    assert np.median([one.journal for one in found]) < SLOW_S / 2


@pytest.mark.bench
def test_what_the_publisher_computes_meanwhile_is_found(spent, monkeypatch):
    asked, done = threading.Semaphore(0), threading.Semaphore(0)

    def busy(coordinator):
        apply = coordinator.store.step

        def send():
            if asked.acquire(timeout=0.1):
                end = time.thread_time() + SLOW_S
                while time.thread_time() < end:
                    sum(range(1000))
                done.release()

        def apply_after_that(*arguments):
            asked.release()
            assert done.acquire(timeout=30)
            return apply(*arguments)

        coordinator.publisher.send, coordinator.store.step = send, apply_after_that

    assert np.median([one.stolen for one in spent("calm")]) < SLOW_S / 10
    monkeypatch.setattr(publisher, "PERIOD_S", 0.001)
    found = spent("busy", busy)
    assert all(SLOW_S <= one.stolen <= one.published for one in found)
    assert np.median([one.stolen for one in found]) < 1.5 * SLOW_S


@pytest.mark.bench
def test_a_coordinator_by_turns_is_safe_in_every_second_stretch(tmp_path, torch_threads):
    recipe = tiny.recipe("maml", Path(), steps=9, checkpoint={"every": 1, "keep": 20})
    serially(recipe, BuildCoordinatorByTurns(recipe.model_dump_json(), str(tmp_path / "run"), Turns(2))())
    storage = Local(tmp_path / "run")
    journal = Journal(storage)
    journal.load()
    assert [one.step for one in journal.since(0) if one.kind == "train"] == [3, 4, 7, 8]
    assert Checkpoints(storage, 20).steps() == [3, 4, 7, 8, 9]  # whoever closes a run saves what is unsaved


@pytest.mark.bench
def test_a_metric_that_is_there_twice_or_not_at_all_is_found(tmp_path, mlflow_uri, torch_threads):
    folder = tmp_path / "run"
    quiet_runs.run(tiny.recipe("maml", Path(), steps=5, tracking={"log_every": 2}), folder, 0)
    tracked = sync_run(folder, [f"tracking.uri={mlflow_uri}"]).run
    assert check_metrics(folder, mlflow_uri) == []
    client = MlflowClient(mlflow_uri)
    point = client.get_metric_history(tracked, "train/loss")[0]
    client.log_metric(tracked, "train/loss", point.value, point.timestamp + 1, point.step)
    client.log_metric(tracked, "stray", 1.0)
    with (folder / "journal.jsonl").open("a") as journal:
        journal.write('{"kind": "validation", "step": 4, "timestamp": 1, "metrics": {"val/loss": 1.0}}\n')
    assert check_metrics(folder, mlflow_uri) == [
        "stray: 0 points expected, 1 found",
        "train/loss: 3 points expected, 4 found",
        "val/loss: 1 points expected, 0 found",
    ]


def test_the_rules_of_processes_plan_as_the_source_judges():
    rng = np.random.default_rng(1)
    transitions, rewards = rng.dirichlet(np.ones(4), size=(2, 4, 3)), rng.normal(size=(2, 4, 3))
    planned = worths(rewards, transitions)[-1, :, 0].max(-1)
    judged = [MDP(*map(torch.from_numpy, one)).optimum(HORIZON) for one in zip(transitions, rewards, strict=True)]
    assert planned == pytest.approx([float(best) for best in judged], rel=1e-12)
