"""What is served equals the trainer's evaluation: from a folder, from MLflow's registry, over HTTP, and from files."""

from __future__ import annotations

import base64
import csv
import io
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import mlflow
import numpy as np
import pytest
import torch
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from mlflow.pyfunc import scoring_server

import pipeline
from jobs import predict, register, run, serve
from pipeline.algorithms import ALGORITHMS
from pipeline.config import validate
from pipeline.core.failures import ConfigError, DataError
from pipeline.core.plugins import import_plugins
from pipeline.engine.durability.served import served_files
from pipeline.runs.predicting import predicted
from pipeline.runs.registering import register_run
from pipeline.runs.run import RunOptions, train_run
from pipeline.runs.sync import sync_run
from pipeline.serving.answers import answer
from pipeline.serving.task import SERVED
from pipeline.storage import storage_at
from pipeline.tracking.model import write_model
from tests.mlflow_server import free_port
from tests.runtime import tiny
from tests.served import LIMIT, Episode, difference, episode, written

pytestmark = pytest.mark.usefixtures("torch_threads", "undrawn")

ROOT = Path(__file__).parents[2]
EVERY_DAY = ("protonet", "anp")
"""A metric, and values with deviations; ``test_http_app`` has a memory and actions."""
NAMES = [name if name in EVERY_DAY else pytest.param(name, marks=pytest.mark.slow) for name in (*ALGORITHMS, "ciphers")]


class Silent:
    """Nobody looks on."""

    def start(self, steps: int, done: int) -> None: ...

    def step(self, step: int, loss: float, metrics: dict[str, float], tasks_per_s: float) -> None: ...

    def note(self, text: str) -> None: ...


@pytest.fixture(scope="module")
def uri(migrated_mlflow, tmp_path_factory):
    """MLflow of this module, at which the environment points."""
    path = tmp_path_factory.mktemp("served") / "mlflow.db"
    shutil.copy(migrated_mlflow, path)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{path}")
        patch.setattr(mlflow.tracking._tracking_service.utils, "_tracking_uri", None)
        yield f"sqlite:///{path}"


@pytest.fixture(scope="module")
def run_of(uri, small_images, tmp_path_factory):
    """The folder of a finished run of an algorithm; each is trained once, and its model logged."""
    folders: dict[str, Path] = {}

    def trained(name: str, **changes) -> Path:
        key = name + repr(changes)
        if key not in folders:
            recipe = tiny.words(name, small_images) if name in tiny.WORDS else tiny.recipe(name, small_images, 1)
            plain = recipe.model_dump() | {"tracking": {"uri": uri, "report": True}, "steps": 1}
            plain |= changes | ({"normalisation": "none"} if name == "online_head" else {})
            folder = tmp_path_factory.mktemp(name) / "run"
            ended = train_run(validate(plain, name), RunOptions("serial", output=folder), Silent())
            assert ended.unsent is None
            folders[key] = Path(ended.folder)
        return folders[key]

    return trained


def asked(pyfunc, one: Episode):
    return pyfunc.predict(dict(one.request), params={"normalisation": one.mode})


def body(one: Episode) -> str:
    """The episode as the body of an HTTP request."""
    plain = {name: value.tolist() if isinstance(value, np.ndarray) else value for name, value in one.request.items()}
    return json.dumps({"inputs": plain, "params": {"normalisation": one.mode}})


@pytest.mark.parametrize("name", NAMES)
def test_what_is_served_equals_the_trainers_evaluation(name, run_of, tmp_path, record_property):
    folder = run_of(name)
    one = episode(folder)
    registered = register_run(str(folder), f"served-{name}")
    assert (registered.version, registered.champion) == ("1", True)
    learner = pipeline.load(folder, normalisation=one.mode)
    from_registry = pipeline.load(f"models:/served-{name}@champion", normalisation=one.mode)
    pyfunc = mlflow.pyfunc.load_model(f"models:/served-{name}@champion")
    over_http = scoring_server.invocations(body(one), "application/json", pyfunc, pyfunc.metadata.get_input_schema())
    assert over_http.status == 200
    answers = {
        "folder": answer(learner, one.request),
        "registry": answer(from_registry, one.request),
        "pyfunc": asked(pyfunc, one),
        "HTTP": json.loads(over_http.response)["predictions"],
    }
    if learner.preparation is not None:
        _, *rows = predicted(learner, *written(one, tmp_path))
        answers["files"] = {"probabilities": [row[2:] for row in rows]}
    off = {way: difference(given, one.answers) for way, given in answers.items()}
    record_property("largest difference", max(off.values()))
    assert max(off.values()) <= LIMIT, off


def test_a_plain_call_in_python_gives_the_same(run_of):
    one = episode(run_of("protonet"))
    predictor = pipeline.load(run_of("protonet"), normalisation=one.mode).adapt(
        one.request["support_x"], one.request["support_y"]
    )
    assert np.abs(predictor.probabilities(one.request["query_x"]) - one.answers["probabilities"]).max() <= LIMIT


@pytest.fixture
def job(monkeypatch, capfd):
    """Runs a job in this process: its code, and what it printed on stdout and stderr."""

    def go(main, *words: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["job", *map(str, words)])
        capfd.readouterr()
        with pytest.raises(SystemExit) as ended:
            run(main)
        return ended.value.code, *capfd.readouterr()

    return go


def test_the_job_predicts_a_folder(job, run_of, tmp_path):
    folder = run_of("protonet")
    one = episode(folder)
    support, query = written(one, tmp_path)
    options = ("--support", support, "--query", query, "--normalisation", one.mode)
    code, out, err = job(predict.main, folder, *options)
    assert (code, err) == (0, "")
    header, *rows = csv.reader(io.StringIO(out))
    assert header == ["path", "label", "p(class 0)", "p(class 1)", "p(class 2)"]
    assert [row[0] for row in rows] == [path.as_posix() for path in sorted(query.iterdir())]
    assert difference({"probabilities": [list(map(float, row[2:])) for row in rows]}, one.answers) <= LIMIT
    assert [row[1] for row in rows] == [f"class {slot}" for slot in one.answers["probabilities"].argmax(1)]
    assert job(predict.main, folder, *options, "--output", tmp_path / "out.csv") == (0, "", "")
    assert (tmp_path / "out.csv").read_text() == out


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"support": "none"}, "--support: .*none does not exist; name a folder of pictures, or a .csv file"),
        ({"query": "none"}, "--query: .*none does not exist"),
        ({"support": "query"}, "query: no pictures found; expected a sub-folder for each class, as CLASS/PICTURE"),
        ({"query": "empty"}, "empty: no pictures found"),
        ({"support": "broken"}, r"support_x\[\d\]: .*b.png' not a PNG"),
        ({"support": "table.csv"}, r"table.csv is a file, but the model takes inputs of the shape \(1, 16, 16\)"),
        ({"query": "table.csv"}, "table.csv is a file, and --support is a folder"),
        ({"model": "models:/none@champion"}, "error: models:/none@champion: there is none at sqlite"),
        ({"model": "empty"}, "empty: no run"),
        ({"mode": None}, "normalisation: this run is transductive"),
        ({"output": "no/folder/x.csv"}, "--output: .*x.csv: No such file or directory; name another file"),
    ],
)
def test_what_cannot_be_predicted_is_one_line(job, run_of, tmp_path, changed, message):
    one = episode(run_of("protonet"))
    written(one, tmp_path)
    (tmp_path / "empty").mkdir()
    shutil.copytree(tmp_path / "support", tmp_path / "broken")
    next((tmp_path / "broken").iterdir()).joinpath("b.png").write_text("no picture")
    (tmp_path / "table.csv").write_text("a,label\n1,x\n")
    given = {"support": "support", "query": "query", "model": run_of("protonet"), "mode": one.mode} | changed
    words = [given["model"] if "models:" in str(given["model"]) else tmp_path / given["model"]]
    words += ["--support", tmp_path / given["support"], "--query", tmp_path / given["query"]]
    words += ["--normalisation", given["mode"]] if given["mode"] else []
    words += ["--output", tmp_path / given["output"]] if "output" in given else []
    code, out, err = job(predict.main, *words)
    assert (code, out) == (2, "")
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert re.search(message, err), err


def test_rows_of_a_table_are_predicted(job, run_of, tmp_path):
    """A regression of one number takes a table of one column."""
    folder = run_of("cnp")
    (tmp_path / "s.csv").write_text("x,label\n-1,0.8\n0.5,-0.4\n")
    (tmp_path / "q.csv").write_text("other,x\n7,1\n7,1.5\n")
    code, out, err = job(predict.main, folder, "--support", tmp_path / "s.csv", "--query", tmp_path / "q.csv")
    assert (code, err) == (0, "")
    header, *rows = csv.reader(io.StringIO(out))
    assert (header, [row[0] for row in rows]) == (["row", "value 1", "value 2"], ["1", "2"])
    expected = pipeline.load(folder).adapt([[-1.0], [0.5]], [0.8, -0.4]).outputs([[1.0], [1.5]])
    assert np.allclose([list(map(float, row[1:])) for row in rows], expected)
    for text, message in (
        ("x\n1\n", "has no column 'label'; its columns are x"),
        ("x,y,label\n1,2,3\n", "has 2 columns beside 'label', the model takes 1"),
        ("x,label\none,3\n", "line 2, column 'x': 'one' is no number"),
        ("x,label\n1,three\n", "line 2, column 'label': 'three' is no number"),
        ("x,label\n1\n", "line 2 has 1 values for 2 columns"),
        ("x,label\n", "no columns or no rows"),
        ("x,x,label\n1,2,3\n", "column 'x' is missing or there twice"),
    ):
        (tmp_path / "s.csv").write_text(text)
        code, _, err = job(predict.main, folder, "--support", tmp_path / "s.csv", "--query", tmp_path / "q.csv")
        assert (code, err.count("\n")) == (2, 1)
        assert message in err


def test_the_model_is_the_runs_and_holds_no_pickle(run_of, uri):
    folder = run_of("protonet")
    tracked = (folder / "tracked_run").read_text().strip()
    client = MlflowClient(uri)
    (model,) = client.search_logged_models([client.get_run(tracked).info.experiment_id], f"source_run_id = '{tracked}'")
    assert (str(model.status), model.name) == ("READY", "tiny_protonet")
    assert model.tags["theta_sha256"] == json.loads((folder / "summary.json").read_text())["theta_sha256"]
    assert [one.model_id for one in client.get_run(tracked).outputs.model_outputs] == [model.model_id]
    place = Path(model.artifact_location.removeprefix("file://"))
    files = {path.relative_to(place).as_posix() for path in place.rglob("*") if path.is_file()}
    run_files = {"recipe.yaml", "task.json", "scores.json", "checkpoints/step-00000001.safetensors"}
    assert {f"artifacts/run/{name}" for name in run_files} <= files
    assert {"MLmodel", "model_code.py", "requirements.txt", "input_example.json"} <= files
    assert not [name for name in files if name.endswith((".pkl", ".pickle", ".pt", ".pth"))]
    told = (place / "MLmodel").read_text()
    assert "/tmp" not in told.replace(str(place), "")
    assert "torch==" in (place / "requirements.txt").read_text()
    info = mlflow.models.get_model_info(f"models:/{model.model_id}")
    assert info.signature.inputs.input_names() == ["support_x", "support_y", "query_x"]
    assert info.signature.outputs.input_names() == ["labels", "classes", "probabilities"]
    assert [one.name for one in info.signature.params.params] == ["normalisation"]
    pyfunc = mlflow.pyfunc.load_model(f"models:/{model.model_id}")
    example = json.loads((place / "input_example.json").read_text())
    answered = pyfunc.predict(example, params={"normalisation": "support"})
    assert (answered["labels"], answered["classes"]) == (["light"], ["dark", "light"])


def test_a_bad_request_is_one_line(run_of, tmp_path):
    one = episode(run_of("protonet"))
    write_model(tmp_path / "model", served_files(storage_at(run_of("protonet")), SERVED))
    pyfunc = mlflow.pyfunc.load_model(str(tmp_path / "model"))
    for changes, mode, message in (
        ({}, "", "normalisation: this run is transductive"),
        ({}, "batch", "normalisation: expected .* found 'batch'"),
        ({"support_y": [1]}, one.mode, "support_y: 1 labels for 3 rows of support_x"),
        ({"query_x": ["/etc/passwd"]}, one.mode, r"query_x\[0\]: '/etc/passwd' is no base64"),
        (
            {"query_x": (one.request["query_x"] * 255).astype(int)},
            one.mode,
            "x: values from .* expected 0 to 1",
        ),
        ({"support_x": None}, one.mode, "support_x: "),
    ):
        with pytest.raises(MlflowException, match=message) as raised:
            pyfunc.predict({**one.request, **changes}, params={"normalisation": mode})
        assert raised.value.error_code == "INVALID_PARAMETER_VALUE"
        assert "\n" not in str(raised.value)
        raised.value.message = "Failed to predict data"  # as the server does, with all of it
        assert re.search(message, raised.value.message)


def test_pictures_are_given_to_the_model_as_base64(run_of, tmp_path):
    folder = run_of("protonet")
    one = episode(folder)
    support, query = written(one, tmp_path)
    files = {"support_x": sorted(support.rglob("*.png")), "query_x": sorted(query.iterdir())}
    request = {name: [base64.b64encode(path.read_bytes()).decode() for path in paths] for name, paths in files.items()}
    labels = [path.parent.name for path in files["support_x"]]
    learner = pipeline.load(folder, normalisation=one.mode)
    answered = answer(learner, request | {"support_y": labels})
    assert difference(answered, one.answers) <= LIMIT
    assert set(answered["labels"]) <= set(labels)


@pytest.mark.slow
def test_a_language_is_answered_in_texts(run_of, small_images):
    folder = run_of("g2p")
    learner = pipeline.load(folder)
    pairs, queries = [["ab", "b a"], ["ba", "a b"], ["aab", "b a a"]], ["abb", "bb"]
    expected = learner.adapt([tuple(pair) for pair in pairs]).predict(queries)
    assert answer(learner, {"support_x": pairs, "query_x": queries}) == {"texts": expected}
    apart = {"support_x": [pair[0] for pair in pairs], "support_y": [pair[1] for pair in pairs], "query_x": queries}
    assert answer(learner, apart) == {"texts": expected}
    register_run(str(folder), "language")
    pyfunc = mlflow.pyfunc.load_model("models:/language@champion")
    assert pyfunc.predict(apart) == {"texts": expected}


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        ({"support_x": []}, "'query_x' is missing; a request has support_x, support_y and query_x"),
        ({"support_x": [], "query_x": [1], "z": 1}, "'z' is unknown; a request has support_x"),
        ({"support_x": [[1, 2, 3]], "query_x": [[0, 0]]}, r"support_x\[0\]: expected an object with observations, act"),
        ({"query_x": []}, "query_x: no observations; give one or more"),
        ({"query_x": [[0, 0, 0]]}, "observation: shape"),
    ],
)
def test_a_request_that_does_not_fit_an_agent_is_one_line(run_of, request_, message):
    learner = pipeline.load(run_of("maml_rl"))
    with pytest.raises(DataError, match=message) as raised:
        answer(learner, request_)
    assert "\n" not in str(raised.value)


def test_an_agents_answers_do_not_depend_on_earlier_ones(run_of):
    learner = pipeline.load(run_of("maml_rl"))
    first = answer(learner, {"query_x": [[0.0, 0.0], [0.1, 0.2]]})
    again = answer(learner, {"query_x": [[0.1, 0.2]]})
    assert first["actions"][1] == again["actions"][0]


def test_the_champion_is_whoever_is_better_on_the_same_tasks(job, run_of):
    """Of two thetas on the same tasks; and one evaluated on other tasks is refused and not registered."""
    tasks = {"evaluation": {"tasks": 40}}
    worse = run_of("protonet", **tasks, outer={"model": {"optimizer": "adam", "lr": 1e-9}})
    better = run_of("protonet", **tasks, steps=15, outer={"model": {"optimizer": "adam", "lr": 0.01}})
    first = register_run(str(worse), "pets")
    assert (first.version, first.champion) == ("1", True)
    assert "the first version of pets, so it is the champion" in first.why
    code, out, err = job(register.main, better, "--as", "pets")
    assert (code, err) == (0, "")
    scores = [json.loads((run / "scores.json").read_text())["values"] for run in (better, worse)]
    paired = np.subtract(*scores)
    assert f"paired difference {paired.mean():+.2%} ± {1.96 * paired.std(ddof=1) / 40**0.5:.2%}" in out
    assert "better, so it is the champion" in out
    same = register_run(str(better), "pets")
    assert (same.version, same.champion) == ("2", False), "the same model is no new version"
    assert "its 95% interval includes 0, so pets/2 stays the champion" in same.why
    lower = register_run(str(run_of("protonet", **tasks, seed=99, outer={"model": {"lr": 1e-9}})), "pets")
    assert (lower.version, lower.champion) == ("3", False)
    code, out, err = job(register.main, run_of("protonet"), "--as", "pets")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "models:/pets/2: the champion was evaluated on other tasks than this run (evaluation " in err
    client = MlflowClient()
    assert len(client.search_model_versions("name = 'pets'")) == 3
    champion = client.get_model_version_by_alias("pets", "champion")
    assert (str(champion.version), champion.tags["recipe"]) == ("2", "tiny_protonet")
    assert champion.tags["evaluation"] == json.loads((better / "scores.json").read_text())["evaluation"]
    assert champion.tags["accuracy"].count("±") == 1


@pytest.mark.parametrize(
    ("asked", "name", "message"),
    [
        ("nowhere", "x", "nowhere: is neither the folder of a run, nor the id of a run or a model's URI in MLflow"),
        ("0" * 32, "x", "run 0{32}: there is none at sqlite"),
        ("models:/x/1", "x", "models:/x/1: there is none at sqlite"),
        ("models:/x", "x", "models:/x: is no model's URI; expected models:/NAME@ALIAS"),
        ("nowhere", "a/b", "--as: 'a/b'; expected the name of a model"),
    ],
)
def test_what_cannot_be_registered_is_one_line(job, uri, asked, name, message):
    code, out, err = job(register.main, asked, "--as", name)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert re.search(message, err), err


def test_models_are_loaded_by_every_kind_of_uri(run_of, uri):
    folder = run_of("protonet")
    tracked = (folder / "tracked_run").read_text().strip()
    registered = register_run(str(folder), "by uri")
    model = MlflowClient().get_model_version("by uri", registered.version).source
    expected = pipeline.load(folder, normalisation="support").theta["model"]
    for named in ("models:/by uri@champion", "models:/by uri/1", model, f"runs:/{tracked}", f"runs:/{tracked}/model"):
        theta = pipeline.load(named, normalisation="support").theta["model"]
        assert all(torch.equal(theta[leaf], expected[leaf]) for leaf in expected), named


def test_a_model_names_its_plug_ins(run_of, uri, tmp_path, monkeypatch):
    (tmp_path / "my_small_net.py").write_text(
        "import pipeline\nfrom pipeline.nets.conv4 import Conv4\n\n\n"
        "class Mine(Conv4):\n    pass\n\n\npipeline.register('mine', Mine)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    import_plugins(["my_small_net"])
    folder = run_of("protonet", net={"name": "mine", "channels": 8})
    files = served_files(storage_at(folder), SERVED)
    assert json.loads(files["plugins.json"]) == ["my_small_net"]
    name = register_run(str(folder), "with a plug-in")
    monkeypatch.setattr("pipeline.core.plugins._imported", {})
    with pytest.raises(
        ConfigError, match=r"was trained with plug-ins; add --import my_small_net \(in Python: plugins="
    ):
        pipeline.load(f"models:/{name.name}/1", normalisation="support")
    assert mlflow.pyfunc.load_model(f"models:/{name.name}/1").metadata.metadata["plugins"] == ["my_small_net"]
    monkeypatch.setattr("pipeline.core.plugins._imported", {})
    monkeypatch.delitem(sys.modules, "my_small_net")
    (tmp_path / "my_small_net.py").unlink()
    with pytest.raises(ConfigError, match="--import my_small_net: this machine has no module my_small_net"):
        mlflow.pyfunc.load_model(f"models:/{name.name}/1")


def test_a_model_that_cannot_be_logged_leaves_the_run_finished(small_images, mlflow_uri, tmp_path, monkeypatch):
    recipe = tiny.recipe("protonet", small_images, 1).model_dump() | {"tracking": {"uri": mlflow_uri, "report": True}}

    def full(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("pipeline.tracking.model.write_model", full)
        ended = train_run(validate(recipe, "x"), RunOptions("serial", output=tmp_path / "run"), Silent())
    assert "No space left on device" in ended.unsent
    client, tracked = MlflowClient(mlflow_uri), (tmp_path / "run" / "tracked_run").read_text().strip()
    found = client.get_run(tracked).info
    assert found.status == "FINISHED"
    for _ in range(2):  # what was not sent is sent once, however often it is asked for
        sync_run(tmp_path / "run")
        models = client.search_logged_models([found.experiment_id])
        assert [(str(one.status), one.source_run_id) for one in models] == [("READY", tracked)]


def test_without_a_report_no_model_is_logged(small_images, mlflow_uri, tmp_path):
    recipe = tiny.recipe("protonet", small_images, 1).model_dump() | {"tracking": {"uri": mlflow_uri, "report": False}}
    train_run(validate(recipe, "x"), RunOptions("serial", output=tmp_path / "run"), Silent())
    client, tracked = MlflowClient(mlflow_uri), (tmp_path / "run" / "tracked_run").read_text().strip()
    assert not client.search_logged_models([client.get_run(tracked).info.experiment_id])


@pytest.mark.slow
@pytest.mark.parametrize("name", [*ALGORITHMS, "ciphers"])
def test_the_scoring_server_gives_the_same(name, run_of, tmp_path, record_property):
    """``jobs.serve`` on a port of its own, of those of every day by a run's folder too; it ends with a signal."""
    one, port = episode(run_of(name)), free_port()
    register_run(str(run_of(name)), f"http-{name}")
    for model in (*((str(run_of(name)),) if name in EVERY_DAY else ()), f"models:/http-{name}@champion"):
        with (tmp_path / "log").open("wb") as log:
            command = [sys.executable, "-m", "jobs.serve", model, "--port", str(port)]
            server = subprocess.Popen(command, stdout=log, stderr=log, cwd=ROOT, env=os.environ)
        try:
            _wait_for(port, server)
            request = urllib.request.Request(
                f"http://127.0.0.1:{port}/invocations", body(one).encode(), {"Content-Type": "application/json"}
            )
            with urllib.request.urlopen(request, timeout=60) as given:
                off = difference(json.loads(given.read())["predictions"], one.answers)
            record_property("largest difference", off)
            assert off <= LIMIT
        finally:
            server.terminate()
            assert server.wait(30) == 143, (tmp_path / "log").read_text()
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("127.0.0.1", port))


def test_a_taken_port_and_a_missing_model_are_one_line(job, run_of, tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        code, out, err = job(serve.main, run_of("protonet"), "--port", port)
    assert (code, out) == (2, "")
    assert err == f"error: --host 127.0.0.1 --port {port}: Address already in use; choose another port\n"
    code, _, err = job(serve.main, tmp_path, "--port", free_port())
    assert (code, err.count("\n")) == (2, 1)
    assert "no run (no recipe.yaml)" in err


def _wait_for(port: int, server: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 240
    while server.poll() is None and time.monotonic() < deadline:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/ping", timeout=1):
                return
        except OSError:
            time.sleep(0.2)
    raise TimeoutError("the scoring server did not come up")
