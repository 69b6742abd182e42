"""The served app, without Ray: the answers of Python's predictor, users apart, one line for each bad request."""

from __future__ import annotations

import asyncio
import base64
import functools
import io
import json
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from PIL import Image
from prometheus_client.parser import text_string_to_metric_families
from starlette.testclient import TestClient
from torch.utils import _pytree as pytree

from pipeline.algorithms import ALGORITHMS
from pipeline.serving.answers import episodes_of
from pipeline.serving.http import answers
from pipeline.serving.http.app import build_app
from pipeline.serving.http.host import Host
from pipeline.serving.http.limits import Limits
from pipeline.serving.http.users import Users
from pipeline.tasks.ingest.folder import ingest
from pipeline.tasks.ingest.options import Options
from tests.http_served import (
    ALICE,
    BOB,
    ON_IMAGES,
    USERS,
    app,
    asked,
    bearer,
    calling,
    load,
    served,
    tiny,
    train,
    trained_once,
)
from tests.runtime.tiny import words
from tests.served import LIMIT, difference

pytestmark = pytest.mark.usefixtures("torch_threads")

DAILY = ("protonet", "cnp", "maml_rl", "mann")
"""Distances, values with deviations, an agent, a memory."""


@pytest.fixture(scope="module")
def run_of(small_images, tmp_path_factory):
    """The folder and the learner of a tiny run of an algorithm; each is trained and loaded once."""
    folder_of = trained_once(small_images, lambda: tmp_path_factory.mktemp("run") / "out")

    @functools.cache
    def made(algorithm):
        return folder_of(algorithm), load(folder_of(algorithm))

    return made


@pytest.fixture
def client(run_of):
    """Alice's, of MAML."""
    with TestClient(app(run_of(ON_IMAGES)[1]), headers=bearer(ALICE)) as made:
        yield made


@pytest.fixture
def body(run_of):
    return asked(run_of(ON_IMAGES)[0])[:2]


@pytest.mark.parametrize(
    "algorithm",
    [
        *(ON_IMAGES, *DAILY),
        *(pytest.param(name, marks=pytest.mark.slow) for name in ALGORITHMS if name not in DAILY),
    ],
)
def test_a_served_answer_is_that_of_the_trainers_evaluation(run_of, algorithm):
    folder, learner = run_of(algorithm)
    with TestClient(app(learner), headers=bearer(ALICE)) as client:
        for number in range(2):
            body, rows, one = asked(folder, number)
            assert difference(served(client, body, rows), one.answers) <= LIMIT


def test_what_the_model_is(client, run_of):
    told = client.get("/model").json()
    _, learner = run_of(ON_IMAGES)
    assert (told["model"], told["algorithm"], told["ways"]) == ("tiny", "MAML", 3)
    assert tuple(told["input_shape"]) == learner.spec.input_shape
    assert len(told["theta_sha256"]) == 64


def test_two_users_never_see_each_others_sessions(client, body):
    support, asked = body
    session = client.post("/adapt", json=support).json()["session"]
    mine = {"session": session, "query_x": asked}
    theirs, unknown = (
        client.post("/predict", json=json_, headers=bearer(BOB)) for json_ in (mine, mine | {"session": "0.x"})
    )
    assert (theirs.status_code, theirs.json()) == (unknown.status_code, unknown.json())
    assert theirs.status_code == 404
    assert client.delete(f"/sessions/{session}", headers=bearer(BOB)).status_code == 404
    assert client.post("/predict", json=mine).status_code == 200
    assert client.delete(f"/sessions/{session}").status_code == 200
    gone = client.post("/predict", json=mine)
    assert (gone.status_code, "adapt again" in gone.json()["error"]) == (404, True)


def test_adaptations_at_the_same_time_do_not_mix(run_of):
    folder, learner = run_of(ON_IMAGES)
    tasks = [asked(folder, number) for number in range(6)] * 3
    with TestClient(app(learner)) as client, ThreadPoolExecutor(6) as pool:
        tokens = [bearer(ALICE), bearer(BOB)] * 9
        told = list(pool.map(lambda one, token: served(client, *one[:2], token), tasks, tokens))
    for number, found in enumerate(told):
        assert found == told[number % 6]
        assert difference(found, tasks[number][2].answers) <= LIMIT
    assert difference(told[0], tasks[1][2].answers) > 1e-3


@pytest.mark.parametrize("path", ["/adapt", "/predict", "/act", "/rewarded", "/sessions/x", "/metrics", "/model", "/x"])
@pytest.mark.parametrize("token", ["", "Bearer ", "Bearer wrong", f"Basic {ALICE}", ALICE])
def test_no_token_no_answer(client, path, token):
    for method in ("GET", "POST", "DELETE"):
        answer = client.request(method, path, headers={"Authorization": token})
        assert (answer.status_code, list(answer.json())) == (401, ["error"])
        assert answer.headers["WWW-Authenticate"] == "Bearer"


def test_health_needs_no_token_and_says_nothing_more(run_of):
    with TestClient(app(run_of(ON_IMAGES)[1])) as client:
        answer = client.get("/health")
    assert (answer.status_code, answer.json()) == (200, {"status": "ready"})


def test_health_waits_for_the_model(monkeypatch):
    async def loading(*arguments):
        await asyncio.Event().wait()

    monkeypatch.setattr("pipeline.serving.http.app.HEALTH_S", 0.05)
    with TestClient(build_app([loading], Users({}), Limits())) as client:
        answer = client.get("/health")
    assert (answer.status_code, answer.json()) == (503, {"error": "the model is still loading"})


JSON = {"content-type": "application/json"}
ROW = np.zeros((1, 16, 16)).tolist()
X, Y = [ROW] * 3, ["a", "b", "c"]
NOT_JSON = [
    ("{", 400, "body: is no valid JSON"),
    ("", 400, "body: is no valid JSON"),
    ("[]", 400, "body: a JSON list, expected an object"),
    ('{"support_x": [NaN], "support_y": [1]}', 400, "NaN and Infinity are no JSON"),
    ("[" * 5000, 400, "body: is no valid JSON"),
    (b"\xff\xfe", 400, "body: is no valid JSON"),
]
BAD = [
    ({}, "support_x: is missing"),
    ({"support_x": X, "support_y": Y, "ways": 3}, "'ways': no key of this request; expected support_x, support_y"),
    ({"support_x": X}, "support_y: expected a list of texts, or of whole numbers"),
    ({"support_x": X, "support_y": Y[:2]}, "support_y: 2 labels for 3 rows"),
    ({"support_x": [], "support_y": []}, "support_x: shape (0,)"),
    ({"support_x": [[1.0]] * 3, "support_y": Y}, "support_x: shape (3, 1), expected (N, 1, 16, 16)"),
    ({"support_x": [ROW, [1]], "support_y": Y[:2]}, "support_x: rows of unequal shape"),
    ({"support_x": [[[[1e999] * 16] * 16]] * 3, "support_y": Y}, "NaN and Infinity are no JSON"),
    ({"support_x": [[[["1"] * 16] * 16]] * 3, "support_y": Y}, "support_x: expected finite numbers"),
    ({"support_x": [10**400] * 3, "support_y": Y}, "support_x: expected finite numbers"),
    ({"support_x": 3, "support_y": Y}, "support_x: shape ()"),
    ({"support_x": None, "support_y": Y}, "support_x: shape ()"),
    ({"support_x": {"a": 1}, "support_y": Y}, "support_x: shape ()"),
    ({"support_x": "/etc/passwd", "support_y": Y}, "support_x: one text, expected a list"),
    ({"support_x": ["/etc/passwd"], "support_y": Y}, "support_x[0]: '/etc/passwd' is no base64"),
    ({"support_x": ["etcpasswd/aa"], "support_y": Y}, "support_x[0]: not a PNG, JPEG"),
    ({"support_x": [ROW, "aaaa"], "support_y": Y}, "support_x[0]: list beside pictures"),
    ({"support_x": X, "support_y": [1, True, "a"]}, "support_y: expected a list of texts, or of whole numbers"),
    ({"support_x": X, "support_y": [None] * 3}, "support_y: expected a list of texts"),
    ({"support_x": X, "support_y": [[1]] * 3}, "support_y: expected a list of texts"),
    ({"support_x": X, "support_y": [0.5, 1.5, 2.5]}, "support_y: expected a list of texts"),
    (
        {"support_x": [ROW] * 4, "support_y": list("abcd")},
        "support_y: 4 classes, but this model was trained with a head",
    ),
    ({"support_x": [ROW] * 41, "support_y": [1] * 41}, "support_x: 41 rows, and the limit is 40"),
]


@pytest.fixture(scope="module")
def strict(run_of):
    """A server with low limits; one for all bad requests, so that it must outlive them."""
    with TestClient(
        app(run_of(ON_IMAGES)[1], limits=Limits(rows=40, body_bytes=200_000)), headers=bearer(ALICE)
    ) as made:
        yield made


def one_line(answer, status, said):
    assert answer.status_code == status, answer.text
    [error] = answer.json().values()
    assert said in error, error
    assert "\n" not in error


@pytest.mark.parametrize(("content", "status", "said"), NOT_JSON)
@pytest.mark.parametrize("path", ["/adapt", "/predict"])
def test_a_body_that_is_no_json_object(strict, path, content, status, said):
    one_line(strict.post(path, content=content, headers=JSON), status, said)
    assert strict.get("/health").status_code == 200


@pytest.mark.parametrize(("wrong", "said"), BAD, ids=[said for _, said in BAD])
def test_a_wrong_support_set(strict, wrong, said):
    status = 400 if said.startswith("NaN") else 422
    one_line(strict.post("/adapt", content=json.dumps(wrong), headers=JSON), status, said)
    assert strict.get("/health").status_code == 200


def test_wrong_queries(strict, body):
    session = strict.post("/adapt", json=body[0]).json()["session"]
    for wrong, status, said in [
        ({"query_x": body[1]}, 422, "session: is missing; expected the id that POST /adapt gave"),
        ({"session": 3, "query_x": body[1]}, 422, "session: is missing"),
        ({"session": "x", "query_x": body[1]}, 404, "adapt again"),
        ({"session": "9.x", "query_x": body[1]}, 404, "adapt again"),
        ({"session": session}, 422, "query_x: is missing"),
        ({"session": session, "query_x": body[1], "k": 1}, 422, "'k': no key of this request; expected query_x"),
        ({"session": session, "query_x": [[1.0]]}, 422, "x: shape (1, 1), expected (N, 1, 16, 16)"),
        ({"session": session, "query_x": [ROW] * 41}, 422, "query_x: 41 rows, and the limit is 40"),
        ({"session": session, "query_x": (np.ones((2, 1, 16, 16)) * 255).tolist()}, 422, "x: values"),
    ]:
        one_line(strict.post("/predict", json=wrong), status, said)
    one_line(strict.post("/act", json={"session": session, "observation": [1]}), 422, "no agent; POST /predict")
    assert strict.post("/predict", json={"session": session, "query_x": body[1]}).status_code == 200


def test_an_answer_that_is_not_finite_is_refused(run_of):
    folder, learner = run_of("maml")
    with TestClient(app(learner), headers=bearer(ALICE)) as client:
        session = client.post("/adapt", json=asked(folder)[0]).json()["session"]
        for value, status in ((3e38, 422), (1.0, 200)):
            answer = client.post("/predict", json={"session": session, "query_x": [[value]]})
            assert (answer.status_code, "are not finite" in answer.text) == (status, status == 422), answer.text


def test_media_types_sizes_and_routes(strict):
    one_line(strict.post("/adapt", content="{}"), 415, "Content-Type: none; expected application/json")
    one_line(strict.post("/adapt", data={"a": "b"}), 415, "Content-Type: application/x-www-form-urlencoded")
    one_line(strict.post("/adapt", content="{}", headers=JSON | {"content-encoding": "gzip"}), 415, "gzip")
    large = b" " * 200_001
    one_line(strict.post("/adapt", content=large, headers=JSON), 413, "body: more than 200000 bytes")
    in_parts = strict.post("/adapt", content=iter([large[:150_000], large[:150_000]]), headers=JSON)
    one_line(in_parts, 413, "body: more than 200000 bytes")
    one_line(strict.get("/adapt"), 405, "GET /adapt: Method Not Allowed")
    one_line(strict.post("/adapter", json={}), 404, "POST /adapter: Not Found")


def test_an_adaptation_that_takes_too_long_is_given_up(run_of, body, monkeypatch):
    begun, go_on = threading.Event(), threading.Event()
    adapted = answers.adapted

    def slow(*arguments):
        begun.set()
        assert go_on.wait(30)
        return adapted(*arguments)

    monkeypatch.setattr("pipeline.serving.http.host.adapted", slow)
    limits = Limits(compute_s=1)
    with TestClient(app(run_of(ON_IMAGES)[1], limits=limits), headers=bearer(ALICE)) as client:
        one_line(client.post("/adapt", json=body[0]), 504, "no answer in 1 s; send fewer rows, or try again later")
        assert begun.is_set()
        assert client.get("/health").status_code == 200
        go_on.set()
        assert client.post("/adapt", json=body[0]).status_code == 200


def test_an_internal_error_is_one_line_and_the_server_lives(run_of, body, monkeypatch):
    with TestClient(app(run_of(ON_IMAGES)[1]), headers=bearer(ALICE), raise_server_exceptions=False) as client:
        with monkeypatch.context() as patch:
            patch.setattr("pipeline.serving.http.host.adapted", lambda *arguments: 1 / 0)
            one_line(client.post("/adapt", json=body[0]), 500, "internal error (ZeroDivisionError)")
        assert client.post("/adapt", json=body[0]).status_code == 200


def test_an_evicted_session_asks_to_adapt_again(run_of, body):
    with TestClient(app(run_of(ON_IMAGES)[1], limits=Limits(sessions=2)), headers=bearer(ALICE)) as client:
        names = [client.post("/adapt", json=body[0]).json()["session"] for _ in range(3)]
        first, *others = (client.post("/predict", json={"session": name, "query_x": body[1]}) for name in names)
        one_line(first, 404, "it has ended or was evicted, so adapt again")
        assert [one.status_code for one in others] == [200, 200]
        told = metrics(client)
    assert told["metafleet_evictions_total", "number"] == 1
    assert told["metafleet_sessions", ""] == 2


def metrics(client):
    """Name and labels -> value, out of Prometheus' own parser."""
    families = text_string_to_metric_families(client.get("/metrics").text)
    return {(one.name, " ".join(one.labels.values())): one.value for family in families for one in family.samples}


def test_metrics_count_what_was_done(client, body):
    session = client.post("/adapt", json=body[0]).json()["session"]
    for name in (session, session, "x"):
        client.post("/predict", json={"session": name, "query_x": body[1]})
    client.get("/x")
    client.get("/model", headers={"Authorization": ""})
    told = metrics(client)
    assert told["metafleet_requests_total", "adapt 200"] == 1
    assert told["metafleet_requests_total", "predict 200"] == 2
    assert told["metafleet_requests_total", "predict 404"] == 1
    assert told["metafleet_requests_total", "none 404"] == 1
    assert told["metafleet_requests_total", "none 401"] == 1
    assert told["metafleet_request_seconds_count", "predict"] == 3
    assert told["metafleet_adapt_seconds_count", ""] == 1
    assert told["metafleet_adapt_seconds_sum", ""] > 0
    assert told["metafleet_session_bytes", ""] > 0
    assert not any("alice" in labels for _, labels in told)


def test_sessions_of_several_hosts_are_found_where_they_are(run_of):
    folder, learner = run_of(ON_IMAGES)
    hosts = [calling(Host(learner, {}, Limits(), 1)) for _ in range(3)]
    with TestClient(build_app(hosts, USERS, Limits()), headers=bearer(ALICE)) as client, ThreadPoolExecutor(6) as pool:
        tasks = [asked(folder, number) for number in range(6)]
        for one, found in zip(tasks, pool.map(lambda one: served(client, *one[:2]), tasks), strict=True):
            assert difference(found, one[2].answers) <= LIMIT
        assert metrics(client)["metafleet_sessions", ""] == 6
        alone = [client.post("/adapt", json=tasks[0][0]).json()["session"] for _ in range(3)]
    assert {one.partition(".")[0] for one in alone} == {"0", "1", "2"}


def test_a_session_shares_theta_and_nothing_else(run_of):
    folder, maml = run_of(ON_IMAGES)
    theta = sum(leaf.nbytes for leaf in maml.theta["model"].values())
    predictor = maml.adapt(**asked(folder)[0])
    own, size = answers.packed(predictor.adapted, maml.theta)
    assert theta <= size < 3 * theta
    before, after = (pytree.tree_leaves(value) for value in (predictor.adapted, own))
    assert all(torch.equal(one, other) for one, other in zip(before, after, strict=True))
    places = {one.untyped_storage().data_ptr() for one in after}
    assert not places & {one.untyped_storage().data_ptr() for one in before}
    assert len(places) == 1
    assert {one.data_ptr() % 64 for one in after} == {0}
    folder, protonet = run_of("protonet")
    predictor = protonet.adapt(**asked(folder)[0])
    _, size = answers.packed(predictor.adapted, protonet.theta)
    assert 0 < size < theta / 4


def in_base64(data):
    return base64.b64encode(data).decode()


def png(pixels):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "png")
    return file.getvalue()


def test_pictures_with_too_many_pixels_are_refused_unread(strict):
    large = in_base64(png(np.zeros((6000, 6000), np.uint8)))
    one_line(
        strict.post("/adapt", json={"support_x": [large, large], "support_y": ["a", "b"]}),
        422,
        "support_x: more than 64 million pixels in one request",
    )


def test_pictures_in_base64_are_prepared_as_files_are(tmp_path):
    rng = np.random.default_rng(0)
    for number in range(16):
        (tmp_path / "pictures" / f"class {number}").mkdir(parents=True)
        for shot in range(4):
            pixels = rng.integers(0, 256, (20 + shot, 24), np.uint8)
            (tmp_path / "pictures" / f"class {number}" / f"{shot}.png").write_bytes(png(pixels))
    ingest(tmp_path / "pictures", tmp_path / "pictures.arrow", Options(size=16))
    recipe = tiny(ON_IMAGES, tmp_path / "pictures.arrow")
    learner = load(train(recipe, tmp_path / "run"))
    files = [tmp_path / "pictures" / f"class {number}" / f"{shot}.png" for number in range(3) for shot in (0, 1)]
    support, queries = files[::2], files[1::2]
    body = {"support_x": [in_base64(one.read_bytes()) for one in support], "support_y": ["a", "b", "c"]}
    with TestClient(app(learner), headers=bearer(ALICE)) as client:
        found = served(client, body, [in_base64(one.read_bytes()) for one in queries])
        paths = body | {"support_x": [str(one) for one in support]}
        one_line(client.post("/adapt", json=paths), 422, "is no base64; expected the bytes of a picture")
    predictor = learner.adapt(support, body["support_y"])
    assert found["probabilities"] == predictor.probabilities(queries).tolist()


def test_texts_go_in_and_come_out(small_images, tmp_path):
    recipe = words("g2p", small_images).model_copy(update={"steps": 1})
    learner = load(train(recipe, tmp_path / "run"))
    pairs = [[f"{one}{other}д", f"{one} {other} ʃ"] for one in "abcd" for other in "ij"]
    body = {"support_x": [one for one, _ in pairs], "support_y": [other for _, other in pairs]}
    with TestClient(app(learner), headers=bearer(ALICE)) as client:
        for support in (body, {"support_x": pairs}):
            session = client.post("/adapt", json=support).json()["session"]
            told = client.post("/predict", json={"session": session, "query_x": ["abд", "дc"]})
            assert told.json() == {"texts": learner.adapt(**body).predict(["abд", "дc"])}
        one_line(client.post("/adapt", json={"support_x": [[1.0]]}), 422, "expected pairs of a text and its answer")
        one_line(client.post("/predict", json={"session": session, "query_x": "abд"}), 422, "expected a list of texts")


def test_an_agent_is_told_its_rewards(run_of):
    folder, learner = run_of("rl2")
    body, rows, _ = asked(folder)
    actor = learner.adapt(episodes_of(body["support_x"])).copy()
    with TestClient(app(learner), headers=bearer(ALICE)) as client:
        session = client.post("/adapt", json=body).json()["session"]
        for number, observation in enumerate(rows):
            action = client.post("/act", json={"session": session, "observation": observation}).json()["action"]
            np.testing.assert_allclose(action, actor.act(observation), rtol=1e-6)
            told = {"session": session, "reward": 1.0, "done": number == 1}
            assert client.post("/rewarded", json=told).status_code == 200
            actor.rewarded(1.0, done=number == 1)
        for wrong, said in (({"reward": "x"}, "reward"), ({"reward": 1, "done": 1}, "done: 1; expected true or false")):
            one_line(client.post("/rewarded", json={"session": session} | wrong), 422, said)
        one_line(client.post("/predict", json={"session": session, "query_x": [1]}), 422, "agent; POST /act")
        assert client.post("/adapt", json={}).status_code == 200  # the agent before any experience
        one_line(client.post("/adapt", json=body | {"support_y": []}), 422, "'support_y': no key of this request")
        one_line(client.post("/adapt", json={"support_x": ["x"]}), 422, "support_x[0]: expected an object")
        one_line(client.post("/adapt", json={"support_x": "x"}), 422, "support_x: str, expected a list of episodes")
