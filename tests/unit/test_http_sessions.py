"""Sessions: an owner's alone, bounded in number, bytes and idle time."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.core.failures import ConfigError
from pipeline.serving.http.limits import Limits, Refused, limits_of
from pipeline.serving.http.sessions import Sessions

LIMITS = Limits(sessions=3, session_bytes=100, idle_s=60)


class Moved:
    """A clock that a test moves."""

    def __init__(self):
        self.time = 0.0

    def now(self) -> float:
        return self.time


@pytest.fixture
def clock():
    return Moved()


@pytest.fixture
def sessions(clock):
    return Sessions(LIMITS, clock)


def gone(sessions, owner, name):
    with pytest.raises(Refused, match="adapt again") as refused:
        sessions.get(owner, name)
    return refused.value.status == 404


def test_a_session_is_its_owners_alone(sessions):
    name = sessions.add("alice", "a", 1)
    assert sessions.get("alice", name) == "a"
    assert gone(sessions, "bob", name)
    with pytest.raises(Refused, match="adapt again"):
        sessions.drop("bob", name)
    assert sessions.get("alice", name) == "a"
    sessions.drop("alice", name)
    assert gone(sessions, "alice", name)
    assert (len(sessions), sessions.bytes) == (0, 0)


def test_others_sessions_and_unknown_ones_are_refused_by_the_same_line(sessions):
    name = sessions.add("alice", "a", 1)
    lines = set()
    for owner, asked in (("bob", name), ("bob", "x"), ("alice", "x" * 32)):
        with pytest.raises(Refused) as refused:
            sessions.get(owner, asked)
        lines.add(refused.value.line)
    assert len(lines) == 1


def test_ids_are_long_and_never_the_same(clock):
    sessions = Sessions(Limits(), clock)
    names = {sessions.add("alice", None, 0) for _ in range(500)}
    assert len(names) == 500
    assert min(map(len, names)) >= 32  # 24 random bytes


def test_the_least_recently_used_session_gives_way(sessions):
    first, second, third = (sessions.add("alice", value, 1) for value in "abc")
    sessions.get("alice", first)
    fourth = sessions.add("alice", "d", 1)
    assert gone(sessions, "alice", second)
    assert [sessions.get("alice", name) for name in (first, third, fourth)] == ["a", "c", "d"]
    assert sessions.evicted == {"number": 1, "bytes": 0, "idle": 0}


def test_bytes_are_bounded_too(sessions):
    first = sessions.add("alice", "a", 60)
    second = sessions.add("alice", "b", 40)
    third = sessions.add("alice", "c", 50)
    assert gone(sessions, "alice", first)
    assert sessions.get("alice", second) == "b"
    assert sessions.get("alice", third) == "c"
    assert sessions.evicted["bytes"] == 1
    with pytest.raises(Refused, match="needs 101 bytes, and the limit session_bytes is 100") as refused:
        sessions.add("alice", "d", 101)
    assert refused.value.status == 413
    assert len(sessions) == 2


def test_a_user_with_many_sessions_does_not_take_those_of_others(sessions):
    his = sessions.add("bob", "b", 1)
    for value in range(20):
        sessions.add("alice", value, 1)
    assert sessions.get("bob", his) == "b"
    assert sessions.evicted["number"] == 18


def test_a_session_ends_when_it_is_idle(sessions, clock):
    first, second = sessions.add("alice", "a", 1), sessions.add("alice", "b", 1)
    clock.time = 60.0
    assert sessions.get("alice", first) == "a"
    clock.time = 60.1
    assert gone(sessions, "alice", second)
    clock.time = 120.0
    assert sessions.get("alice", first) == "a"
    clock.time = 180.1
    sessions.end_idle()
    assert (len(sessions), sessions.bytes, sessions.evicted["idle"]) == (0, 0, 2)


STEPS = st.lists(
    st.tuples(st.sampled_from(["add", "get", "drop", "wait"]), st.sampled_from("ab"), st.integers(0, 90)), max_size=40
)


@settings(max_examples=60, deadline=None)
@given(STEPS)
def test_any_sequence_of_calls_keeps_the_limits_and_the_owners(steps):
    clock = Moved()
    sessions, known = Sessions(LIMITS, clock), {}
    for what, owner, number in steps:
        if what == "wait":
            clock.time += number
        elif what == "add":
            name = sessions.add(owner, (owner, number), number)
            known[name] = (owner, (owner, number))
        elif known:
            name = list(known)[number % len(known)]
            try:
                value = sessions.get(owner, name) if what == "get" else sessions.drop(owner, name)
            except Refused:
                continue
            assert known[name][0] == owner
            assert value in (None, known[name][1])
        assert len(sessions) <= LIMITS.sessions
        assert 0 <= sessions.bytes <= LIMITS.session_bytes


def test_limits_are_named_in_words():
    assert limits_of(["idle_s=5", "rows=7"]) == Limits(idle_s=5, rows=7)
    for word, said in (
        ("session=5", "session=5: no limit; expected sessions=N"),
        ("rows=0", "rows: '0'; expected a whole number above 0"),
        ("rows=-3", "rows: '-3'"),
        ("rows", "rows: ''"),
    ):
        with pytest.raises(ConfigError) as error:
            limits_of([word])
        assert said in str(error.value)
