"""The model on real Ray Serve: the answers of Python, users apart, nothing open to other machines, a clean end."""

from __future__ import annotations

import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import httpx
import psutil
import pytest

from pipeline.algorithms import ALGORITHMS
from pipeline.runs.serve import build_host
from pipeline.serving.http.app import build_app
from pipeline.serving.http.limits import Limits
from tests.http_served import ALICE, BOB, ON_IMAGES, USERS, asked, bearer, load, served, trained_once
from tests.served import LIMIT, difference
from tests.unit.test_http_app import metrics, one_line

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("torch_threads")]

LIMITS = Limits(sessions=4, rows=40, body_bytes=200_000)
START_S, END_S = 120.0, 10.0


@pytest.fixture(scope="module")
def run_of(small_images, tmp_path_factory):
    """The folder of a tiny run of an algorithm; each is trained once."""
    return trained_once(small_images, lambda: tmp_path_factory.mktemp("run") / "out")


@pytest.fixture(scope="module")
def serving(ray_local, run_of):
    """Serves a run on the Ray of these tests; one at a time, by a server that starts once."""
    from ray import serve

    from pipeline.runtime import deployment

    parts = {}

    def of(algorithm, replicas=1) -> httpx.Client:
        folder = run_of(algorithm)
        host = partial(build_host, str(folder), partial(load, folder), LIMITS, 2)
        app = partial(build_app, users=USERS, limits=LIMITS)
        if not parts:
            site = deployment.Site("127.0.0.1", 0, replicas, 60.0)
            parts["open"] = deployment.deployed(app, host, site)
            parts["url"] = parts["open"].__enter__()
        else:
            serve.run(deployment.application(app, host, replicas), name=deployment.APP)
        return httpx.Client(base_url=parts["url"], headers=bearer(ALICE), timeout=60.0)

    yield of
    if parts:
        parts["open"].__exit__(None, None, None)


@pytest.fixture(scope="module")
def client(serving):
    with serving(ON_IMAGES) as made:
        yield made


def listening(process: psutil.Process) -> list[str]:
    """The address of each of its open ports."""
    found = [port.laddr.ip for port in process.net_connections("tcp") if port.status == psutil.CONN_LISTEN]
    return [one.removeprefix("::ffff:") for one in found]


def test_answers_users_limits_and_bad_requests(client, run_of):
    """One deployment, so one test: each start takes seconds."""
    folder = run_of(ON_IMAGES)
    assert client.get("/health", headers={"Authorization": ""}).json() == {"status": "ready"}
    for number in range(2):
        body, rows, one = asked(folder, number)
        assert difference(served(client, body, rows), one.answers) <= LIMIT
    told = client.get("/model").json()
    assert (told["recipe"], told["step"], told["model"]) == ("tiny_maml", 1, str(folder))
    assert client.get("/model", headers={"Authorization": ""}).status_code == 401
    names = [client.post("/adapt", json=body).json()["session"] for _ in range(5)]
    asks = [{"session": name, "query_x": rows} for name in names]
    assert client.post("/predict", json=asks[-1], headers=bearer(BOB)).status_code == 404
    one_line(client.post("/predict", json=asks[0]), 404, "it has ended or was evicted, so adapt again")
    one_line(client.post("/adapt", json={"support_x": [[1.0]], "support_y": [1]}), 422, "support_x: shape (1, 1)")
    one_line(client.post("/adapt", content=b"{", headers={"content-type": "application/json"}), 400, "no valid JSON")
    one_line(client.post("/adapt", content=b" " * 300_000), 415, "Content-Type")
    large = client.post("/adapt", content=b" " * 300_000, headers={"content-type": "application/json"})
    one_line(large, 413, "body: more than 200000 bytes")
    assert client.delete(f"/sessions/{names[-1]}").status_code == 200
    assert client.post("/predict", json=asks[1]).status_code == 200
    told = metrics(client)
    assert told["metafleet_sessions", ""] == 3
    assert told["metafleet_evictions_total", "number"] == 3


def test_a_replica_opens_no_port_of_its_own(client):
    """By itself Ray Serve opens one to all networks, and unpickles what comes. Each Ray process has one port."""
    assert client.get("/health").status_code == 200
    names = {one: " ".join(one.cmdline()) for one in psutil.Process().children(recursive=True)}
    replicas = [one for one, name in names.items() if "ray::ServeReplica" in name]
    assert [len(listening(one)) for one in replicas] == [1]


@pytest.mark.slow
def test_sessions_reach_their_replica(serving, run_of):
    with serving(ON_IMAGES, replicas=2) as client:
        tasks = [asked(run_of(ON_IMAGES), number) for number in range(6)]
        sessions = [client.post("/adapt", json=body).json()["session"] for body, _, _ in tasks]
        for session, (_, rows, one) in zip(sessions, tasks, strict=True):
            told = client.post("/predict", json={"session": session, "query_x": rows}).json()
            assert difference(told, one.answers) <= LIMIT
        assert metrics(client)["metafleet_sessions", ""] == 6
    assert {session.partition(".")[0] for session in sessions} == {"0", "1"}


@pytest.mark.slow
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_each_algorithm_is_served_as_it_was_evaluated(serving, run_of, algorithm):
    body, rows, one = asked(run_of(algorithm))
    with serving(algorithm) as client:
        assert difference(served(client, body, rows), one.answers) <= LIMIT


def started(*words: str, log: Path) -> tuple[subprocess.Popen[bytes], Callable[[str], str]]:
    """``python -m jobs.serve`` in a process of its own, and a wait for a line of its output."""
    with log.open("wb") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", "jobs.serve", "--backend", "ray", *words], stdout=out, stderr=out
        )

    def wait_for(pattern: str) -> str:
        deadline = time.monotonic() + START_S
        while not (found := re.search(pattern, log.read_text())):
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.05)
        return found.group()

    return process, wait_for


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_server_and_all_its_processes(run_of, tmp_path, number):
    """Also: without tokens it serves this machine alone, and no process listens for others."""
    process, wait_for = started(str(run_of(ON_IMAGES)), "--port", "0", log=tmp_path / "log")
    try:
        url = wait_for(r"http://127\.0\.0\.1:\d+(?=, by this machine alone, without a token)")
        assert httpx.get(f"{url}/health").json() == {"status": "ready"}
        assert httpx.get(f"{url}/model").status_code == 200
        children = psutil.Process(process.pid).children(recursive=True)
        assert set().union(*map(listening, children)) == {"127.0.0.1"}
        began = time.monotonic()
        process.send_signal(number)
        assert process.wait(60) == 128 + number
        assert time.monotonic() - began < END_S
        assert (tmp_path / "log").read_text().splitlines()[1:] == [f"stopped by {number.name}"]
        assert not psutil.wait_procs(children, timeout=END_S)[1]
    finally:
        process.kill()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("--host 0.0.0.0", "--host 0.0.0.0: without tokens any machine could use the model"),
        ("--replicas 0", "--replicas: 0; expected 1 or more"),
        ("sesions=3", "sesions=3: no limit; expected sessions=N"),
        ("--tokens nowhere", "nowhere: cannot be read"),
        ("--port TAKEN", "cannot be listened on (Address already in use); choose another port"),
        ("--normalisation nonsense", "normalisation: "),
    ],
)
def test_a_wrong_command_line_is_one_line(run_of, monkeypatch, capsys, words, said):
    import jobs
    from jobs import serve

    monkeypatch.delenv("METAFLEET_TOKENS", raising=False)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        given = shlex.split(words.replace("TAKEN", str(taken.getsockname()[1])))
        monkeypatch.setattr(sys, "argv", ["jobs.serve", str(run_of(ON_IMAGES)), "--backend", "ray", *given])
        with pytest.raises(SystemExit) as ended:
            jobs.run(serve.main)
    [line] = capsys.readouterr().err.splitlines()
    assert (ended.value.code, line[:7]) == (2, "error: ")
    assert said in line


def test_without_a_run_there_is_one_line(monkeypatch, capsys, tmp_path):
    import jobs
    from jobs import serve

    monkeypatch.setattr(sys, "argv", ["jobs.serve", os.fspath(tmp_path), "--backend", "ray"])
    with pytest.raises(SystemExit) as ended:
        jobs.run(serve.main)
    assert ended.value.code == 2
    assert "no run (no recipe.yaml)" in capsys.readouterr().err
