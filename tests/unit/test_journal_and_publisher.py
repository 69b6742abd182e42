"""Every metric once: on disk first, then in the tracker, whatever crashes, fails or hangs in between."""

from __future__ import annotations

import json
import math
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.core.failures import ResumeError, StorageError
from pipeline.engine.durability import publisher as publishing
from pipeline.engine.durability.journal import Journal
from pipeline.engine.durability.publisher import Publisher, TrackedRun, windows
from pipeline.engine.interfaces import RUN_KEY, Entry, Status
from pipeline.storage.local import Local
from tests.unit.virtual import Recorder

LOG_EVERY = 5
LONG_S = 20.0


def train(step: int, **metrics: float) -> Entry:
    return Entry("train", step, 1000 * step, {"step": float(step), **metrics})


def end(status: Status, step: int) -> Entry:
    """What the coordinator adds when a run is closed."""
    return Entry(status, step, 1000 * step + 2, {})


def validation(step: int) -> Entry:
    return Entry("validation", step, 1000 * step + 1, {"val": float(step)})


@pytest.fixture
def path(tmp_path: Path) -> Path:
    (tmp_path / "run").mkdir()
    return tmp_path / "run" / "journal.jsonl"


@pytest.fixture
def reopen(path: Path) -> Iterator[Callable[[], Journal]]:
    """The journal at ``path``, as a process that starts now would see it."""
    opened: list[Journal] = []

    def open_again() -> Journal:
        opened.append(Journal(Local(path.parent)))
        opened[-1].load()
        return opened[-1]

    yield open_again
    for journal in opened:
        journal.close()


def test_the_first_write_wins(reopen, path):
    journal = reopen()
    assert journal.append(train(1, loss=0.5))
    assert not journal.append(train(1, loss=0.7))
    assert journal.append(validation(1))
    assert [entry.metrics.get("loss") for entry in journal.since(0)] == [0.5, None]
    assert len(path.read_text().splitlines()) == 2


def test_another_evaluation_of_the_same_step_is_another_entry(reopen):
    def scored(evaluation: str, value: float) -> Entry:
        return Entry(f"evaluation/{evaluation}", 5, 5000, {"eval": value})

    first, other = scored("1a", 1.0), scored("2b", 2.0)
    journal = reopen()
    wanted = [train(5), first, end("FINISHED", 5), other, end("FINISHED", 5), first, end("FINISHED", 5)]
    for entry in wanted:
        assert journal.append(entry)
        assert not journal.append(entry), "the same evaluation came twice in a row"
    journal.close()
    assert reopen().since(0) == wanted
    assert next(reversed(reopen().newest)) == "FINISHED"


def test_a_reopened_journal_knows_what_it_holds(reopen):
    odd = Entry("train", 2, 3, {"é/µ": math.inf, "tiny": 5e-324, "third": 1 / 3})
    first = reopen()
    for entry in (train(1), odd, validation(2)):
        first.append(entry)
    first.close()
    again = reopen()
    assert again.since(0) == [train(1), odd, validation(2)]
    assert not again.append(train(2))
    again.append(train(3))
    again.close()
    assert reopen().since(0) == [train(1), odd, validation(2), train(3)]


def test_not_a_number_survives(reopen):
    reopen().append(Entry("train", 1, 1, {"loss": math.nan}))
    assert math.isnan(reopen().since(0)[0].metrics["loss"])


def test_entries_are_on_disk_before_append_returns(reopen, path):
    journal = reopen()
    for step in (1, 2, 3):
        journal.append(train(step))
        assert Entry(**json.loads(path.read_text().splitlines()[-1])) == train(step)


def test_a_torn_last_line_is_forgotten_and_the_checkpoint_brings_it_back(reopen, path):
    journal = reopen()
    for step in (1, 2, 3):
        journal.append(train(step))
    journal.close()
    whole = path.read_bytes()
    start_of_last = whole.rstrip(b"\n").rfind(b"\n") + 1
    for cut in range(start_of_last, len(whole)):
        path.write_bytes(whole[:cut])
        torn = reopen()
        assert torn.since(0) == [train(1), train(2)]
        torn.absorb([train(2, loss=9.0), train(3)])
        torn.close()
        assert path.read_bytes() == whole


def test_a_checkpoint_brings_back_what_the_disk_lost(reopen, path):
    journal = reopen()
    journal.append(train(1))
    journal.absorb([train(1, loss=9.0), train(2), train(3)])
    assert journal.since(0) == [train(1), train(2), train(3)]
    assert len(path.read_text().splitlines()) == 3


def test_of_a_long_run_only_the_newest_entries_stay_in_memory(path):
    journal = Journal(Local(path.parent), kept=3)
    written = [*map(train, range(1, 9)), validation(8), train(9)]
    for entry in written[:6]:
        journal.append(entry)
    assert len(journal._tail) == 6, "none that a crash could take may be forgotten"
    journal.sync()
    for entry in written[6:]:
        journal.append(entry)
        journal.sync()
    assert len(journal._tail) <= 4
    for opened in (journal, Journal(Local(path.parent), kept=3)):
        if opened is not journal:
            opened.load()
        assert (opened.count, opened.newest) == (10, {"validation": 8, "train": 9})
        assert not any(map(opened.append, written))
        for start in range(11):
            assert opened.since(start) == written[start:]
            assert opened.since(start, 2) == written[start : start + 2]
        opened.close()


LATER = '{"kind": "train", "step": 2, "timestamp": "later", "metrics": {}}'


@pytest.mark.parametrize("line", [*("{not json", "[1, 2]", '{"kind": "train"}', "", '"text"'), LATER])
def test_a_damaged_line_is_named_and_nothing_is_thrown_away(reopen, path, line):
    journal = reopen()
    journal.append(train(1))
    journal.close()
    text = path.read_text() + f"{line}\n" + path.read_text().replace('"step": 1', '"step": 2')
    path.write_text(text)
    with pytest.raises(ResumeError, match="line 2 is no entry"):
        reopen()
    assert path.read_text() == text


def test_windows_are_means_over_log_every_steps():
    ready, consumed = windows([train(step, loss=step**2) for step in range(1, 13)], LOG_EVERY)
    assert [(entry.step, entry.timestamp, entry.metrics["step"]) for entry in ready] == [
        (5, 5000, 3.0),
        (10, 10000, 8.0),
    ]
    assert ready[0].metrics["loss"] == pytest.approx((1 + 4 + 9 + 16 + 25) / 5)
    assert consumed == 10


def test_an_open_window_waits_and_only_a_finished_run_shows_it():
    entries = [train(step) for step in range(6, 9)]
    assert windows(entries, LOG_EVERY) == ([], 0)
    for status in ("KILLED", "FAILED"):
        assert windows([*entries, end(status, 8)], LOG_EVERY) == ([], 0)
    ready, consumed = windows([*entries, end("FINISHED", 8)], LOG_EVERY)
    assert ([(entry.step, entry.metrics["step"]) for entry in ready], consumed) == ([(8, 7.0)], 0)


def test_a_finished_run_that_is_given_more_steps_goes_on_in_the_same_windows():
    entries = [*map(train, range(6, 9)), end("FINISHED", 8), *map(train, range(9, 12))]
    ready, consumed = windows(entries, LOG_EVERY)
    assert ([(entry.step, entry.metrics["step"]) for entry in ready], consumed) == ([(8, 7.0), (10, 8.0)], 6)


def test_a_metric_that_some_steps_lack_is_the_mean_over_those_that_have_it():
    entries = [train(1), train(2, rare=3.0), train(3), train(4, rare=5.0), train(5)]
    (only,), _ = windows(entries, LOG_EVERY)
    assert only.metrics == {"rare": 4.0, "step": 3.0}


def test_other_kinds_go_as_they_are_and_do_not_wait():
    ready, consumed = windows([train(1), validation(1)], LOG_EVERY)
    assert ready == [validation(1)]
    assert consumed == 0, "the open window must be read again"


@settings(derandomize=True, database=None, deadline=None, max_examples=100)
@given(
    steps=st.integers(0, 23),
    validated=st.sets(st.integers(1, 23)),
    cuts=st.lists(st.integers(0, 46)),
    log_every=st.integers(1, 7),
)
def test_however_the_journal_is_cut_the_tracker_sees_the_same_and_no_step_is_unseen(steps, validated, cuts, log_every):
    entries: list[Entry] = []
    for step in range(1, steps + 1):
        entries += [train(step), *([validation(step)] if step in validated else [])]
    entries.append(end("FINISHED", steps))
    tracker, sent = Recorder(), 0
    for cut in sorted(min(cut, len(entries)) for cut in cuts):
        ready, consumed = windows(entries[sent:cut], log_every) if cut > sent else ([], 0)
        tracker.send(ready)
        sent += consumed
    tracker.send(windows(entries[sent:], log_every)[0])
    tracker.send(windows(entries, log_every)[0])  # again from the start: the recorder refuses another value

    expected = {}
    for first in range(1, steps + 1, log_every):
        last = min(first + log_every - 1, steps)
        expected[last] = (first + last) / 2
    assert tracker.curve("step") == sorted(expected.items())
    assert tracker.curve("val") == [(step, float(step)) for step in sorted(validated) if step <= steps]


class Failing(Recorder):
    """Refuses its first ``failures`` calls."""

    def __init__(self, failures: int) -> None:
        super().__init__()
        self.failures, self.delivered = failures, threading.Event()

    def _refuse(self) -> None:
        if self.failures > 0:
            self.failures -= 1
            raise ConnectionError("no\n  answer")

    def start(self, run: str | None, name: str, params: Mapping[str, str], tags: Mapping[str, str]) -> str:
        self._refuse()
        return super().start(run, name, params, tags)

    def send(self, entries: Sequence[Entry]) -> None:
        self._refuse()
        super().send(entries)
        self.delivered.set()

    def tag(self, tags: Mapping[str, str]) -> None:
        self._refuse()
        super().tag(tags)


class Hanging(Recorder):
    """Does not come back from ``send`` until it is released."""

    def __init__(self) -> None:
        super().__init__()
        self.entered, self.released = threading.Event(), threading.Event()

    def send(self, entries: Sequence[Entry]) -> None:
        self.entered.set()
        assert self.released.wait(LONG_S)
        super().send(entries)


Build = Callable[..., tuple[Publisher, Journal]]


@pytest.fixture
def build(reopen, path: Path) -> Build:
    """A publisher and its journal; built again, they are those of the run after a restart."""

    def built(tracker: Recorder, log_every: int = LOG_EVERY) -> tuple[Publisher, Journal]:
        journal = reopen()
        run = TrackedRun("a name", {"seed": "7"}, {"git_commit": "abc"})
        return Publisher(tracker, journal, run, Local(path.parent), log_every), journal

    return built


@pytest.fixture
def eager(monkeypatch: pytest.MonkeyPatch) -> None:
    """Attempts follow each other at once, and close does not wait long."""
    monkeypatch.setattr(publishing, "PERIOD_S", 0.001)
    monkeypatch.setattr(publishing, "BACKOFF_S", (0.001, 0.002))
    monkeypatch.setattr(publishing, "CLOSE_S", 0.2)


@pytest.fixture
def idle(monkeypatch: pytest.MonkeyPatch) -> None:
    """The thread never gets to an attempt of its own: everything is sent at the end."""
    monkeypatch.setattr(publishing, "PERIOD_S", 3600.0)


def test_a_run_is_started_filled_and_ended(build: Build, idle: None):
    tracker = Recorder()
    publisher, journal = build(tracker)
    publisher.start({"numerics.torch": "2"})
    for step in range(1, 13):
        journal.append(train(step))
    journal.append(end("FINISHED", 12))
    names = ["recipe.yaml", "checkpoints/step-00000012.safetensors"]
    for name in names:
        publisher.storage.write(name, b"...")
    assert publisher.close("FINISHED", names, {"theta_sha256": "f00"}) is None
    assert (tracker.name, tracker.params, tracker.status) == ("a name", {"seed": "7"}, "FINISHED")
    assert tracker.tags.pop(RUN_KEY)
    assert tracker.tags == {"git_commit": "abc", "numerics.torch": "2", "theta_sha256": "f00"}
    assert tracker.curve("step") == [(5, 3.0), (10, 8.0), (12, 11.5)]
    assert tracker.artifacts == ["recipe.yaml", "checkpoints/step-00000012.safetensors"]


def test_after_a_restart_the_same_run_goes_on_and_nothing_is_sent_twice_or_never(build: Build, idle: None):
    tracker = Recorder()
    for first, last, status in ((1, 7, "KILLED"), (5, 13, "FAILED"), (12, 20, "FINISHED")):
        publisher, journal = build(tracker)
        publisher.start({})
        for step in range(first, last + 1):  # a resume replays the steps since its checkpoint
            journal.append(train(step))
        journal.append(end(status, last))
        assert publisher.close(status, [], {}) is None
        journal.close()
        assert tracker.status == status
    assert tracker.starts == [None, "run-1", "run-1"]
    curve = [(5, 3.0), (10, 8.0), (15, 13.0), (20, 18.0)]
    assert tracker.curve("step") == curve, "it is not the curve of a run that nobody disturbed"

    publisher.storage.remove("journal.sent")
    again, _ = build(tracker)
    again.send()
    assert tracker.curve("step") == curve, "what was sent is cut otherwise when all of it is sent again"


def test_after_a_crash_the_tracker_has_each_point_once(build: Build, idle: None):
    """The tracker took a batch, and the process died before it could note that."""
    tracker = Recorder()
    publisher, journal = build(tracker)
    for step in range(1, 11):
        journal.append(train(step))
        journal.append(validation(step))
    publisher.send()
    publisher.storage.remove("journal.sent")
    journal.close()

    again, _ = build(tracker)
    again.start({})
    assert again.close("FINISHED", [], {}) is None
    assert tracker.curve("step") == [(5, 3.0), (10, 8.0)]
    assert len(tracker.curve("val")) == 10


def sent_twice(build: Build, between: Callable[[], None]) -> tuple[Recorder, Publisher]:
    """A tracker that has seen steps 1 to 10 and their validations, then ``between``, then a run that goes on to 20."""
    tracker = Recorder()
    publisher, journal = build(tracker)
    for step in range(1, 13):
        journal.append(train(step))
        journal.append(validation(step))
    publisher.send()
    journal.close()
    between()
    again, journal = build(tracker)
    for step in range(13, 21):
        journal.append(train(step))
        journal.append(validation(step))
    again.send()
    return tracker, again


WHOLE_CURVE = [(5, 3.0), (10, 8.0), (15, 13.0), (20, 18.0)]


@pytest.mark.parametrize("lines", [1, 2])
@pytest.mark.parametrize("first", range(1, 19, 3))
def test_lines_that_are_taken_out_of_what_was_sent_cost_and_double_nothing(build, path, idle, first, lines):
    """The advice for a damaged line; the tracker has what stood there."""

    def damage_and_mend() -> None:
        kept = path.read_text().splitlines(keepends=True)
        path.write_text("".join([*kept[: first - 1], "{damaged\n", *kept[first:]]))
        with pytest.raises(ResumeError, match=f"line {first} is no entry .* delete that line alone and go on"):
            build(Recorder())
        path.write_text("".join([*kept[: first - 1], *kept[first - 1 + lines :]]))

    tracker, _ = sent_twice(build, damage_and_mend)
    assert tracker.curve("step") == WHOLE_CURVE
    assert tracker.curve("val") == [(step, float(step)) for step in range(1, 21)]


def test_a_new_journal_that_begins_with_what_a_checkpoint_carried_goes_on_where_the_old_one_was_sent(build, path, idle):
    def move_away() -> None:
        kept = path.read_text().splitlines(keepends=True)
        path.write_text("".join(kept[-8:]))  # steps 9 to 12

    tracker, _ = sent_twice(build, move_away)
    assert tracker.curve("step") == WHOLE_CURVE
    assert tracker.curve("val") == [(step, float(step)) for step in range(1, 21)]


@pytest.mark.parametrize("count", [b"", b"1", b"14", b"\xff\xfe", b"-3", b"19 train 10 10000", b"9" * 30])
def test_a_count_that_is_damaged_is_not_believed(build, path, idle, count):
    """All is sent again then, which changes nothing."""
    tracker, again = sent_twice(build, lambda: spoil_count(path, count))
    assert tracker.curve("step") == WHOLE_CURVE
    assert again.journal.position(again.storage.read("journal.sent")) == 40


def spoil_count(path: Path, count: bytes) -> None:
    path.with_name("journal.sent").write_bytes(count)


def test_every_cut_and_flip_of_the_count_is_found(build, path, idle):
    tracker, again = sent_twice(build, lambda: None)
    mark = path.with_name("journal.sent").read_bytes()
    spoilt = [mark[:length] for length in range(len(mark))]
    spoilt += [bytes([*mark[:at], mark[at] ^ mask, *mark[at + 1 :]]) for at in range(len(mark)) for mask in (1, 2, 128)]
    assert {again.journal.position(one) for one in spoilt} == {0}


@pytest.mark.fault("F15")
@pytest.mark.parametrize("failures", [1, 2, 7])
def test_a_tracker_that_fails_is_tried_again_until_it_has_all(build: Build, failures: int, eager: None):
    tracker = Failing(failures)
    publisher, journal = build(tracker)
    for step in range(1, 11):
        journal.append(train(step))
    publisher.start({})
    assert tracker.delivered.wait(LONG_S)
    assert publisher.close("FINISHED", [], {}) is None
    assert publisher.last_error is None
    assert tracker.curve("step") == [(5, 3.0), (10, 8.0)]
    assert tracker.status == "FINISHED"


def test_what_could_not_be_sent_is_said_in_one_line_and_sent_the_next_time(build: Build, idle: None):
    down = Failing(1000)
    publisher, journal = build(down)
    publisher.start({})
    for step in range(1, 11):
        journal.append(train(step))
    assert publisher.close("FINISHED", [], {}) == "no answer"
    assert (down.points, down.status) == ({}, None)
    journal.close()

    up = Recorder()
    again, _ = build(up)
    again.start({})
    assert again.close("FINISHED", [], {}) is None
    assert up.curve("step") == [(5, 3.0), (10, 8.0)]


def test_a_tracker_that_fails_only_at_the_end_is_not_silent(build: Build, idle: None):
    tracker = Failing(0)
    publisher, journal = build(tracker)
    publisher.start({})
    journal.append(train(5))
    publisher.send()
    tracker.failures = 1  # the closing tags
    assert publisher.close("FINISHED", [], {}) == "no answer"


@pytest.fixture
def hanging() -> Iterator[Hanging]:
    tracker = Hanging()
    yield tracker
    tracker.released.set()


def test_a_tracker_that_hangs_holds_up_nobody(build: Build, hanging: Hanging, eager: None, reopen):
    publisher, journal = build(hanging)
    journal.append(train(5))
    publisher.start({})
    assert hanging.entered.wait(LONG_S)
    for step in range(6, 200):
        assert journal.append(train(step))
    problem = publisher.close("FINISHED", [], {})
    assert problem is not None
    assert "did not answer" in problem
    assert hanging.points == {}
    assert reopen().since(0)[-1] == train(199)


def test_a_tracker_that_hangs_at_the_end_holds_up_nobody(build: Build, hanging: Hanging, monkeypatch, idle: None):
    """The thread was between two attempts: what is left is sent within CLOSE_S too, not in the caller's own time."""
    monkeypatch.setattr(publishing, "CLOSE_S", 0.2)
    publisher, journal = build(hanging)
    publisher.start({})
    journal.append(train(5))
    problems: list[str | None] = []
    caller = threading.Thread(target=lambda: problems.append(publisher.close("FINISHED", [], {})), daemon=True)
    caller.start()
    caller.join(3.0)
    returned = not caller.is_alive()
    hanging.released.set()
    caller.join(LONG_S)
    assert returned, "close() waits for as long as the tracker does"
    assert problems[0] is not None


def test_a_deleted_run_is_followed_by_one_that_has_all(build: Build, idle: None):
    """The tracker answers with another id: nothing of the journal is there yet."""

    class Deleted(Recorder):
        def start(self, run: str | None, name: str, params: Mapping[str, str], tags: Mapping[str, str]) -> str:
            super().start(run, name, params, tags)
            return "run-2"

    old, new = Recorder(), Deleted()
    for tracker, last in ((old, 10), (new, 15)):
        publisher, journal = build(tracker)
        publisher.start({})
        for step in range(1, last + 1):
            journal.append(train(step))
        assert publisher.close("FINISHED", [], {}) is None
        journal.close()
    assert new.curve("step") == [(5, 3.0), (10, 8.0), (15, 13.0)]


@pytest.mark.fault("F16")
def test_a_run_that_is_deleted_while_it_trains_is_followed_by_one_that_has_all(build: Build, idle: None):
    class Gone(Recorder):
        def start(self, run: str | None, name: str, params: Mapping[str, str], tags: Mapping[str, str]) -> str:
            super().start(run, name, params, tags)
            return "run-1" if len(self.starts) == 1 else "run-2"

        def send(self, entries: Sequence[Entry]) -> None:
            if len(self.starts) == 1 and self.points:
                self.points.clear()
                raise ConnectionError("the run was deleted")
            super().send(entries)

    tracker = Gone()
    publisher, journal = build(tracker)
    for last in (5, 10):
        for step in range(last - 4, last + 1):
            journal.append(train(step))
        if last == 5:
            publisher.send()
    with pytest.raises(ConnectionError):
        publisher.send()
    publisher.send()
    assert tracker.starts == [None, "run-1"]
    assert tracker.curve("step") == [(5, 3.0), (10, 8.0)]
    assert publisher.storage.read("tracked_run") == b"run-2"


def test_what_gathered_in_a_long_absence_is_sent_part_by_part(build: Build, idle: None, monkeypatch):
    monkeypatch.setattr("pipeline.engine.durability.publisher.BATCH", 4)
    publisher, journal = build(tracker := Failing(1))
    for step in range(1, 43):
        journal.append(train(step))
        journal.append(validation(step))
    with pytest.raises(ConnectionError):
        publisher.send()
    publisher.send()
    assert tracker.curve("step") == [(last, last - 2.0) for last in range(5, 41, 5)]
    assert [step for step, _ in tracker.curve("val")] == list(range(1, 43))
    assert journal.position(publisher.storage.read("journal.sent")) == 80


class Full(Local):
    """A folder in which the files called ``refused`` cannot be written."""

    refused: tuple[str, ...] = ()

    def write(self, name: str, data: bytes) -> None:
        if name in self.refused:
            raise StorageError(f"{name}: no space left")
        super().write(name, data)


@pytest.mark.parametrize("refused", [("tracked_run",), ("journal.sent",), ("tracked_key",)])
def test_a_disk_that_fills_up_leaves_one_tracked_run_and_it_is_ended(reopen, path: Path, refused, idle: None):
    tracker, journal, folder = Keyed(), reopen(), Full(path.parent)
    folder.refused = refused
    for step in range(1, 8):
        journal.append(train(step))
    publisher = Publisher(tracker, journal, TrackedRun("a name", {}, {}), folder, LOG_EVERY)
    for _ in range(2):
        with pytest.raises(StorageError):
            publisher.send()
    publisher.start({})
    assert "no space left" in (publisher.close("FAILED", [], {}) or "")
    assert tracker.statuses == ([] if refused == ("tracked_key",) else ["FAILED"])

    folder.refused = ()  # somebody made room, and the run is resumed
    resumed = Publisher(tracker, journal, TrackedRun("a name", {}, {}), folder, LOG_EVERY)
    journal.append(end("FINISHED", 7))
    resumed.start({})
    assert resumed.close("FINISHED", [], {}) is None
    assert tracker.statuses == ["FINISHED"]
    assert tracker.curve("step") == [(5, 3.0), (7, 6.5)]


class Keyed(Recorder):
    """A tracker of many runs, which finds the one with the same key again as MLflow's does."""

    def __init__(self) -> None:
        super().__init__()
        self.keys: list[str] = []
        self.statuses: list[Status] = []

    def start(self, run: str | None, name: str, params: Mapping[str, str], tags: Mapping[str, str]) -> str:
        if tags[RUN_KEY] not in self.keys:
            self.keys.append(tags[RUN_KEY])
            self.statuses.append("KILLED")
        return super().start(f"run-{self.keys.index(tags[RUN_KEY])}", name, params, tags)

    def end(self, status: Status) -> None:
        self.statuses[-1] = status


def test_a_window_of_more_entries_than_are_read_at_a_time(build: Build, idle: None, monkeypatch):
    monkeypatch.setattr(publishing, "BATCH", 2)
    publisher, journal = build(tracker := Recorder())
    for step in range(1, 11):
        journal.append(train(step))
        for status in ("KILLED", "FAILED"):  # a run that crashes at each step
            journal.append(end(status, step))
    publisher.send()
    assert tracker.curve("step") == [(5, 3.0), (10, 8.0)]


def test_what_is_sent_is_durable_before(build: Build, reopen, idle: None):
    publisher, journal = build(Failing(1))
    journal.append(train(5))
    assert list(journal.pending()) == [train(5)]
    with pytest.raises(ConnectionError):
        publisher.send()
    assert not journal.pending()


@pytest.mark.fault("F23")
def test_time_does_not_go_back(reopen, monkeypatch):
    """Clocks jump, and a resumed run may be on a machine whose clock is behind."""
    journal = reopen()
    journal.append(Entry("train", 1, 5_000, {}))
    monkeypatch.setattr("time.time_ns", lambda: 3_000 * 1_000_000)
    assert journal.entry("train", 2, {}).timestamp == 5_000
    monkeypatch.setattr("time.time_ns", lambda: 7_000 * 1_000_000)
    assert journal.entry("train", 2, {}).timestamp == 7_000


def test_a_killed_run_is_ended_first_and_uploads_nothing(build: Build, idle: None):
    order: list[str] = []

    class Ordered(Recorder):
        def send(self, entries):
            order.append("send")
            super().send(entries)

        def end(self, status):
            order.append(status)
            super().end(status)

    tracker = Ordered()
    publisher, journal = build(tracker)
    publisher.send()  # started, as it is a second after the run has begun
    publisher.start({})
    journal.append(train(LOG_EVERY))
    journal.append(journal.entry("KILLED", LOG_EVERY, {}))
    publisher.storage.write("checkpoints/step-00000001.safetensors", b"...")
    assert publisher.close("KILLED", ["checkpoints/step-00000001.safetensors"], {}) is None
    assert order[0] == "KILLED"
    assert "send" in order
    assert (tracker.status, tracker.artifacts) == ("KILLED", [])


def test_a_killed_run_does_not_wait_for_a_tracker_that_hangs(build: Build, idle: None, monkeypatch):
    release = threading.Event()

    class Hanging(Recorder):
        def start(self, *_):
            release.wait(30)
            return "late"

    monkeypatch.setattr(publishing, "KILLED_S", 0.05)
    publisher, _ = build(Hanging())
    publisher.start({})
    assert publisher.close("KILLED", [], {}) == "the tracker did not answer for 0.05 s"
    release.set()
    publisher._thread.join(10)
