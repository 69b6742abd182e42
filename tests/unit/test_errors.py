"""The contract of the error tree: every error crosses process borders whole and says what a job ends with."""

from __future__ import annotations

import ast
import pickle
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import jobs.options
from pipeline.core import failures
from pipeline.core.failures import PipelineError

ROOT = Path(__file__).resolve().parents[2]
HOME = "pipeline/core/failures.py"

# Scripts around a job rely on these: a code, once given, keeps its meaning.
EXIT_CODES = {
    "PipelineError": 1,
    "ConfigError": 2,
    "DataError": 2,
    "ResumeError": 2,
    "ClusterError": 3,
    "NonFiniteError": 4,
    "TaskError": 5,
    "PoisonError": 6,
    "StorageError": 7,
    "ForeignFileError": 2,
    "FencedError": 8,
    "CorruptionError": 9,
    "SweepError": 10,
    "InternalError": 70,
}


def tree(root: type[PipelineError]) -> Iterator[type[PipelineError]]:
    yield root
    for child in root.__subclasses__():
        if child.__module__ == failures.__name__:
            yield from tree(child)


ERRORS = sorted(tree(PipelineError), key=lambda error: error.__name__)


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: error.__name__)
def test_it_pickles(error: type[PipelineError]) -> None:
    sent = error("recipe.yaml: steps: expected a whole number, found 'ten'")
    received = pickle.loads(pickle.dumps(sent))
    assert type(received) is error
    assert str(received) == str(sent)
    assert vars(received) == vars(sent)
    assert received.exit_code == sent.exit_code


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: error.__name__)
def test_it_has_an_exit_code_of_its_own_and_says_what_it_is_for(error: type[PipelineError]) -> None:
    assert "exit_code" in vars(error), f"{error.__name__}: give it an exit_code"
    assert 1 <= error.exit_code <= 125, f"{error.__name__}: a shell means something else by {error.exit_code}"
    assert error.__doc__, f"{error.__name__}: say in a docstring when it is raised"


def test_exit_codes_keep_their_meaning() -> None:
    assert {error.__name__: error.exit_code for error in ERRORS} == EXIT_CODES


def test_the_help_of_every_job_names_each_exit_code() -> None:
    codes = {int(found) for found in re.findall(r"(\d+) (?=[a-zA-Z])", jobs.options.EXIT_CODES)}
    assert codes == {0, 130, 143, *EXIT_CODES.values()}


def test_the_message_is_the_error() -> None:
    with pytest.raises(PipelineError, match=r"^data\.arrow: not found$"):
        raise failures.DataError("data.arrow: not found")


def strays(path: str, text: str) -> list[str]:
    """Error classes of ours that are defined outside their home, where the tests above would not see them."""
    names = {error.__name__ for error in ERRORS}
    return [
        f"{path}:{node.lineno}: {node.name} derives from our errors: define it in {HOME}"
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.ClassDef) and any(ast.unparse(base).split(".")[-1] in names for base in node.bases)
    ]


def test_every_error_of_ours_is_in_the_tree() -> None:
    paths = [path.relative_to(ROOT).as_posix() for top in ("pipeline", "jobs") for path in (ROOT / top).rglob("*.py")]
    found = [line for path in paths if path != HOME for line in strays(path, (ROOT / path).read_text("utf-8"))]
    assert not found, "\n".join(found)


@pytest.mark.parametrize("base", ["ConfigError", "failures.DataError"])
def test_a_stray_error_is_found(base: str) -> None:
    assert strays("pipeline/x.py", f"class Other({base}): ...") == [
        f"pipeline/x.py:1: Other derives from our errors: define it in {HOME}"
    ]
