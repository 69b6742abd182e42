"""The catalogue of faults: each has a number, and tests that do it, which say so: ``@pytest.mark.fault("F3")``."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

TESTS = Path(__file__).resolve().parents[1]


class Fault(NamedTuple):
    """What goes wrong, and which tests must do it: ``unit`` in one process, ``runtime`` on real processes."""

    what: str
    folders: set[str]


CATALOGUE = {
    "F1": Fault("a worker that crashes in mid-task", {"unit", "runtime"}),
    "F2": Fault("a worker that hangs", {"unit", "runtime"}),
    "F3": Fault("a straggler", {"unit"}),
    "F4": Fault("no memory left", {"unit", "runtime"}),
    "F5": Fault("no memory left on a GPU", {"unit"}),
    "F6": Fault("a task that is not finite", {"unit"}),
    "F7": Fault("a task that raises", {"unit", "runtime"}),
    "F8": Fault("damaged data", {"unit"}),
    "F9": Fault("an answer that comes twice", {"unit", "runtime"}),
    "F10": Fault("a parameter actor that dies within a step", {"unit", "runtime"}),
    "F11": Fault("a driver that is killed", {"unit", "runtime"}),
    "F12": Fault("a node that is lost", {"unit", "runtime"}),
    "F13": Fault("a head that is lost", {"runtime"}),
    "F14": Fault("a network that is cut", {"unit", "runtime"}),
    "F15": Fault("MLflow is away", {"unit", "runtime"}),
    "F16": Fault("MLflow's run is deleted or its params differ", {"unit"}),
    "F17": Fault("a full disk", {"unit"}),
    "F18": Fault("a folder that cannot be written, or vanishes", {"unit"}),
    "F19": Fault("a signal", {"unit", "runtime"}),
    "F20": Fault("a machine that is about to be taken away", {"unit", "runtime"}),
    "F21": Fault("a worker that joins late", {"unit"}),
    "F22": Fault("an object store that is full", {"runtime"}),
    "F23": Fault("a clock that jumps", {"unit"}),
    "F24": Fault("another recipe on a resume", {"unit"}),
    "F25": Fault("another version or torch on a resume", {"unit"}),
    "F26": Fault("a damaged checkpoint", {"unit"}),
    "F27": Fault("two runs in one folder", {"unit"}),
    "F28": Fault("other data on a resume", {"unit"}),
    "F29": Fault("something that is left behind", {"runtime"}),
    "F30": Fault("a task that kills its workers", {"unit", "runtime"}),
    "F31": Fault("a flaky machine", {"unit"}),
    "F32": Fault("no worker left", {"unit"}),
}


def marks(text: str) -> Iterator[str]:
    """The numbers that the marks of tests in a file name."""
    for test in ast.walk(ast.parse(text)):
        if isinstance(test, ast.FunctionDef) and test.name.startswith("test_"):
            for mark in test.decorator_list:
                if isinstance(mark, ast.Call) and ast.unparse(mark.func) == "pytest.mark.fault":
                    yield from (ast.literal_eval(number) for number in mark.args)


@pytest.fixture(scope="module")
def done() -> dict[str, set[str]]:
    """The faults that are done in each folder."""
    folders = {folder for fault in CATALOGUE.values() for folder in fault.folders}
    return {
        folder: {number for path in (TESTS / folder).glob("test_*.py") for number in marks(path.read_text("utf-8"))}
        for folder in folders
    }


@pytest.mark.parametrize("number", CATALOGUE)
def test_every_fault_is_done(number, done):
    fault = CATALOGUE[number]
    assert fault.folders
    missing = [folder for folder in fault.folders if number not in done[folder]]
    assert not missing, f"no test in {', '.join(missing)} is marked fault({number!r}): {fault.what}"


def test_no_number_is_left_out_and_no_mark_names_another(done):
    assert list(CATALOGUE) == [f"F{number}" for number in range(1, 33)]
    assert set().union(*done.values()) <= set(CATALOGUE)


def test_a_mark_counts_where_it_stands_on_a_test():
    marked = '@pytest.mark.drill\n@pytest.mark.fault("F1", "F2")\ndef test_a(): ...\n'
    helper = '@pytest.mark.fault("F3")\ndef b(): ...\n'
    assert list(marks(marked + helper)) == ["F1", "F2"]
