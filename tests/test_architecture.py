"""The house rules as tests: who may import whom, how long things may be, and what may not be written.

The checks read source text with ``ast``: nothing has to be importable, and an import inside a function counts as one.
"""

from __future__ import annotations

import ast
import graphlib
import re
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

ROOT = Path(__file__).resolve().parents[1]


class Rule(NamedTuple):
    """What may be imported, the standard library apart: ``lazily`` names what only a function may import."""

    ours: tuple[str, ...] = ()
    others: tuple[str, ...] = ()
    lazily: tuple[str, ...] = ()


CORE, NETS, FAMILIES = "pipeline.core", "pipeline.nets", "pipeline.families"
ALGORITHMS, TASKS = "pipeline.algorithms", "pipeline.tasks"
STORAGE, ENGINE, RUNTIME = "pipeline.storage", "pipeline.engine", "pipeline.runtime"
TRACKING, SERVING, RECIPES = "pipeline.tracking", "pipeline.serving", "pipeline.recipes"
RUNS, COMPARISON = "pipeline.runs", "pipeline.comparison"
COMPOSED = ("pipeline.config", "pipeline.tracking.commit")
TESTING = "pipeline.testing"
ARRAYS = ("torch", "numpy")
BACKENDS = (*ARRAYS, "ray", "mlflow", "rich")
JOB = Rule(("jobs", "pipeline.core.failures"), (), ("pipeline", *BACKENDS))

# The arrows of the house. The longest path that a file's path starts with decides.
ALLOWED: dict[str, Rule] = {
    "pipeline/__init__.py": Rule(lazily=("pipeline", "torch")),
    "pipeline/core/__init__.py": Rule(),
    "pipeline/core/failures.py": Rule(("pipeline.core.redact",)),
    "pipeline/core/": Rule((CORE,), (*ARRAYS, "annotated_types")),
    "pipeline/storage/": Rule((CORE, STORAGE), ("numpy", "pyarrow")),
    "pipeline/nets/": Rule((CORE, NETS), (*ARRAYS, "annotated_types")),
    "pipeline/families/": Rule((CORE, NETS, FAMILIES), (*ARRAYS, "annotated_types")),
    "pipeline/algorithms/__init__.py": Rule((CORE, ALGORITHMS)),
    "pipeline/algorithms/": Rule((CORE, NETS, FAMILIES), (*ARRAYS, "annotated_types")),
    "pipeline/tasks/": Rule(
        (CORE, STORAGE, TASKS),
        (*ARRAYS, "annotated_types", "pyarrow", "PIL"),
        ("sacrebleu", "sentencepiece", "gymnasium", "metaworld", "scipy", "sklearn"),
    ),
    "pipeline/engine/": Rule((CORE, STORAGE, ENGINE), (*ARRAYS, "annotated_types", "safetensors")),
    "pipeline/runtime/": Rule((CORE, ENGINE, RUNTIME), (*ARRAYS, "ray")),
    "pipeline/tracking/": Rule((CORE, ENGINE, TRACKING), (*ARRAYS, "mlflow", "matplotlib"), ("alembic",)),
    "pipeline/tracking/mlflow_tracker.py": Rule((CORE, ENGINE, TRACKING, "pipeline.serving.task"), ("mlflow",)),
    "pipeline/tracking/model.py": Rule((CORE, SERVING, TRACKING), ("mlflow",)),
    "pipeline/tracking/registry.py": Rule((CORE, TRACKING), ("mlflow",)),
    "pipeline/tracking/model_code.py": Rule((CORE, SERVING, "pipeline.runs.run_folder"), ("mlflow", "pandas")),
    "pipeline/serving/": Rule((CORE, ENGINE, SERVING), (*ARRAYS, "safetensors")),
    "pipeline/recipes/": Rule((CORE,), ("yaml",)),
    "pipeline/testing/": Rule((CORE, NETS, TASKS, ENGINE, TESTING), ARRAYS, ("pytest",)),
    "pipeline/config/": Rule(
        (
            *(CORE, NETS, ALGORITHMS, TASKS, RECIPES, "pipeline.config"),
            *("pipeline.engine.durability.identity", "pipeline.engine.numerics", "pipeline.engine.outer.optimizer"),
        ),
        ("annotated_types", "pydantic", "pydantic_core", "yaml"),
    ),
    "pipeline/registry.py": Rule((CORE, NETS, ALGORITHMS, TASKS)),
    "pipeline/build.py": Rule(
        (CORE, NETS, ALGORITHMS, TASKS, STORAGE, ENGINE, SERVING, RECIPES, *COMPOSED),
        ARRAYS,
        (RUNTIME, TRACKING, "ray", "mlflow"),
    ),
    "pipeline/runs/": Rule(
        (
            *(CORE, ENGINE, STORAGE, SERVING, TRACKING, RECIPES, RUNS),
            *(
                "pipeline.build",
                "pipeline.config",
                "pipeline.runtime.job",
                "pipeline.tasks.texts",
                "pipeline.tasks.film",
                "pipeline.tasks.preparation",
                "pipeline.tasks.ingest.folder",
            ),
        ),
        (*ARRAYS, "rich", "yaml"),
        (RUNTIME,),
    ),
    "pipeline/comparison/": Rule(
        (CORE, NETS, ALGORITHMS, ENGINE, STORAGE, TRACKING, RECIPES, RUNS, COMPARISON, "pipeline.config"),
        ("numpy", "annotated_types", "pydantic"),
    ),
    "jobs/": JOB,
}

MAX_FILE, MAX_JOB, MAX_FUNCTION = 300, 60, 50
DUMPING_GROUNDS = {"utils", "util", "helpers", "helper", "common", "misc"}
MACHINE_PATH = re.compile(r"(?<![\w.~})/-])/(?:home|root|Users|work|mnt|tmp)/\w")


@dataclass(frozen=True)
class Source:
    """A file: its path from the root, with slashes, and its text."""

    path: str
    text: str

    @cached_property
    def tree(self) -> ast.Module:
        return ast.parse(self.text, self.path)

    @property
    def module(self) -> str:
        return self.path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


Check = Callable[[Source], Iterator[str]]


class Import(NamedTuple):
    line: int
    name: str
    lazy: bool


def imports(source: Source) -> Iterator[Import]:
    """Every import; ``from a import b`` is ``a.b``. Those that run only when something is called are lazy."""

    def walk(node: ast.AST, lazy: bool) -> Iterator[Import]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.Import):
                yield from (Import(child.lineno, alias.name, lazy) for alias in child.names)
            elif isinstance(child, ast.ImportFrom):
                base = "." * child.level + (child.module or "")
                yield from (Import(child.lineno, f"{base}.{alias.name}", lazy) for alias in child.names)
            elif isinstance(child, ast.Call) and ast.unparse(child.func).endswith(("import_module", "__import__")):
                named = [arg.value for arg in child.args[:1] if isinstance(arg, ast.Constant)]
                yield from (Import(child.lineno, str(name), lazy) for name in named)
            deferred = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
            typing_only = isinstance(child, ast.If) and ast.unparse(child.test).endswith("TYPE_CHECKING")
            yield from walk(child, lazy or deferred or typing_only)

    return walk(source.tree, False)


def within(name: str, packages: tuple[str, ...]) -> bool:
    return any(name == package or name.startswith(package + ".") for package in packages)


def check_imports(source: Source) -> Iterator[str]:
    keys = [key for key in ALLOWED if source.path.startswith(key)]
    if not keys:
        yield f"{source.path}: no line of ALLOWED covers it: decide what it may import"
        return
    key = max(keys, key=len)
    rule = ALLOWED[key]
    for line, name, lazy in imports(source):
        if name.split(".")[0] in sys.stdlib_module_names or within(name, rule.ours + rule.others):
            continue
        if not within(name, rule.lazily):
            allowed = ", ".join(rule.ours + rule.others) or "nothing"
            yield f"{source.path}:{line}: imports {name}; {key} may import {allowed}"
        elif not lazy:
            yield f"{source.path}:{line}: imports {name} at the top; do it inside the function that needs it"


def check_file_length(source: Source) -> Iterator[str]:
    limit = MAX_JOB if source.path.startswith("jobs/") else MAX_FILE
    lines = len(source.text.splitlines())
    if lines > limit:
        yield f"{source.path}: {lines} lines, at most {limit}: split it along what it does"


def check_function_length(source: Source) -> Iterator[str]:
    for node in ast.walk(source.tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            lines = (node.end_lineno or node.lineno) - node.lineno + 1
            if lines > MAX_FUNCTION:
                yield f"{source.path}:{node.lineno}: {node.name} has {lines} lines, at most {MAX_FUNCTION}"


def check_name(source: Source) -> Iterator[str]:
    for part in source.module.split("."):
        if part.strip("_") in DUMPING_GROUNDS:
            yield f"{source.path}: a module named {part} collects anything: name it after what it holds"


def check_docstring(source: Source) -> Iterator[str]:
    if not ast.get_docstring(source.tree):
        yield f"{source.path}: open the module with a docstring that says what it is for"


def check_silence(source: Source) -> Iterator[str]:
    for node in ast.walk(source.tree):
        if isinstance(node, ast.ExceptHandler) and {ast.unparse(line) for line in node.body} <= {"pass", "..."}:
            yield f"{source.path}:{node.lineno}: an except that does nothing: let it raise, or suppress one named error"
        if isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] == "suppress":
            for broad in {"Exception", "BaseException"} & {ast.unparse(argument) for argument in node.args}:
                yield f"{source.path}:{node.lineno}: suppress({broad}) hides every fault: name the error"


def check_machine_paths(source: Source) -> Iterator[str]:
    for number, line in enumerate(source.text.splitlines(), 1):
        if found := MACHINE_PATH.search(line):
            yield f"{source.path}:{number}: {found.group()}… is a path of one machine: take it as an argument"


def check_cycles(sources: list[Source]) -> Iterator[str]:
    modules = {source.module for source in sources}

    def home(name: str) -> str:
        while name and name not in modules:
            name = name.rpartition(".")[0]
        return name

    graph = {source.module: {home(item.name) for item in imports(source)} - {"", source.module} for source in sources}
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        yield "import cycle: " + " <- ".join(error.args[1])


SHIPPED, EVERYWHERE = ("pipeline", "jobs"), ("pipeline", "jobs", "tests")
CHECKS: dict[Check, tuple[str, ...]] = {
    check_imports: SHIPPED,
    check_file_length: SHIPPED,
    check_function_length: SHIPPED,
    check_name: EVERYWHERE,
    check_docstring: EVERYWHERE,
    check_silence: EVERYWHERE,
    check_machine_paths: EVERYWHERE,
}


def read(*tops: str, suffix: str = ".py") -> list[Source]:
    paths = sorted(path for top in tops for path in (ROOT / top).rglob(f"*{suffix}"))
    return [Source(path.relative_to(ROOT).as_posix(), path.read_text("utf-8")) for path in paths]


def run(command: list[str], text: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, input=text, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_the_house_keeps(check: Check) -> None:
    problems = [problem for source in read(*CHECKS[check]) for problem in check(source)]
    assert not problems, "\n" + "\n".join(problems)


def test_the_frame_names_no_machine() -> None:
    names = (
        "pyproject.toml",
        "constraints.txt",
        "Makefile",
        "cluster.yaml",
        "README.md",
        "SECURITY.md",
        "CHANGELOG.md",
        ".ci/run",
    )
    frame = [Source(name, (ROOT / name).read_text("utf-8")) for name in names if (ROOT / name).exists()]
    frame += read("pipeline", suffix=".yaml")
    problems = [problem for source in frame for problem in check_machine_paths(source)]
    assert not problems, "\n" + "\n".join(problems)


def test_no_import_cycles() -> None:
    assert not list(check_cycles(read(*SHIPPED)))


def test_the_doors_import_no_backend() -> None:
    """``--help`` answers at once because jobs and the package's front door load no torch, ray or mlflow."""
    doors = ["pipeline", "pipeline.core.failures", *(source.module for source in read("jobs"))]
    script = "import importlib, sys\nfor door in sys.argv[1:]: importlib.import_module(door)\nprint(*sys.modules)"
    done = run([sys.executable, "-c", script, *doors])
    assert done.returncode == 0, done.stderr
    assert not set(BACKENDS) & set(done.stdout.split())


ALGORITHM = "pipeline/algorithms/maml.py"
FAULTS: list[tuple[Check, str, str, str]] = [
    (check_imports, ALGORITHM, "def learn():\n    import ray", "2: imports ray;"),
    (check_imports, ALGORITHM, "def learn():\n    import_module('ray.util')", "2: imports ray.util;"),
    (check_imports, ALGORITHM, "from pipeline.algorithms import reptile", "imports pipeline.algorithms.reptile;"),
    (check_imports, ALGORITHM, "from pipeline.algorithms.reptile import Reptile", "imports pipeline.algorithms.rep"),
    (check_imports, ALGORITHM, "from pipeline import engine", "imports pipeline.engine;"),
    (check_imports, "pipeline/core/types.py", "import pipeline.nets.mlp", "imports pipeline.nets.mlp;"),
    (check_imports, "pipeline/core/__init__.py", "import torch", "may import nothing"),
    (check_imports, "pipeline/core/failures.py", "import torch", "may import pipeline.core.redact"),
    (check_imports, "pipeline/engine/loop.py", "from mlflow import log_metric", "imports mlflow.log_metric;"),
    (check_imports, "pipeline/tracking/tracker.py", "from pipeline.runtime import cluster", "imports pipeline.runtime"),
    (check_imports, "pipeline/build.py", "import ray", "inside the function"),
    (check_imports, "jobs/train.py", "import torch", "inside the function"),
    (check_imports, "jobs/train.py", "from pipeline.config import load", "inside the function"),
    (
        check_imports,
        "jobs/train.py",
        "def main():\n    from tests.bench import measure",
        "imports tests.bench.measure;",
    ),
    (check_imports, "pipeline/novelty/x.py", "import math", "no line of ALLOWED"),
    (check_file_length, "pipeline/engine/loop.py", "\n" * 301, "301 lines, at most 300"),
    (check_file_length, "jobs/train.py", "\n" * 61, "61 lines, at most 60"),
    (check_function_length, "jobs/train.py", "def main():\n" + "    f()\n" * 50, "1: main has 51 lines"),
    (check_name, "pipeline/engine/utils.py", "", "named utils"),
    (check_docstring, "tests/unit/test_x.py", "import math", "open the module"),
    (check_silence, "pipeline/x.py", "try:\n    f()\nexcept OSError:\n    pass", "3: an except that does nothing"),
    (check_silence, "pipeline/x.py", "with contextlib.suppress(Exception):\n    f()", "suppress(Exception) hides"),
    (check_machine_paths, "pipeline/x.py", "folder = '/" + "home/me/data'", "1: /" + "home/m… is a path"),
]


@pytest.mark.parametrize(("check", "path", "text", "message"), FAULTS)
def test_a_planted_fault_is_found(check: Check, path: str, text: str, message: str) -> None:
    problems = list(check(Source(path, text)))
    assert len(problems) == 1
    assert problems[0].startswith(path)
    assert message in problems[0]


def test_what_is_allowed_passes() -> None:
    algorithm = '"""Doc."""\nimport torch.func\nfrom pipeline.core import types\nfrom pipeline.nets.mlp import Mlp\n'
    job = '"""Doc."""\nimport sys\nfrom pipeline.core.failures import ConfigError\ndef main():\n    import ray\n'
    exact = '"""Doc, ~/home/x and s3://a/tmp/b."""\ndef long():\n' + "    f()\n" * 49 + "\n" * 249
    sources = [Source(ALGORITHM, algorithm), Source("jobs/train.py", job), Source("pipeline/runs/report.py", exact)]
    assert len(exact.splitlines()) == MAX_FILE
    assert not [problem for source in sources for check in CHECKS for problem in check(source)]


def test_a_planted_cycle_is_found() -> None:
    one = Source("pipeline/a.py", "from pipeline.b import f")
    assert list(check_cycles([one, Source("pipeline/b/__init__.py", "import math")])) == []
    (problem,) = check_cycles([one, Source("pipeline/b/__init__.py", "def f():\n    from pipeline import a")])
    assert {"pipeline.a", "pipeline.b"} <= set(problem.split())


BANNED = [
    *("F.batch_norm", "nn.BatchNorm2d", "torch.instance_norm"),
    *("pickle.load", "pickle.loads", "pickle.Unpickler", "cloudpickle.loads", "torch.load", "np.load", "marshal.loads"),
    *("yaml.load", "yaml.unsafe_load", "yaml.full_load"),
    *("eval('1')", "exec('1')", "os.system(command)", "subprocess.run(command, shell=True)"),
]


def test_the_linter_refuses_the_banned_calls() -> None:
    """With the rules of pyproject.toml: no second derivative that is wrong, no code out of a file."""
    text = (
        "import os, pickle, subprocess, cloudpickle, marshal, torch, yaml\nimport numpy as np\nfrom torch import nn\n"
    )
    text += "from torch.nn import functional as F\n"
    command = [sys.executable, "-m", "ruff", "check", "--stdin-filename", "pipeline/nets/x.py"]
    done = run([*command, "--output-format=concise", "-"], text + "\n".join(BANNED))
    assert done.returncode == 1, done.stderr
    start = text.count("\n") + 1
    for number, banned in enumerate(BANNED, start):
        said = [line for line in done.stdout.splitlines() if f":{number}:" in line]
        assert any(rule in line for line in said for rule in ("TID251", " S")), banned


def test_nothing_shipped_is_exempt_from_the_bans() -> None:
    exempt = re.compile(r"noqa\s*($|:.*(TID251|S102|S307|S60))")
    assert not [source.path for source in read(*SHIPPED) if any(map(exempt.search, source.text.splitlines()))]


# What closed holes in reading data of strangers, or in the services that a run starts.
SAFE = {"torch": "2.10", "ray": "2.59", "mlflow": "3.17", "pillow": "12.3", "pyarrow": "14.0.1"}


def test_what_is_installed_is_not_older_than_is_safe() -> None:
    required = {
        found.name: found
        for found in map(Requirement, tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"])
    }
    pinned = dict(
        line.split("==") for line in (ROOT / "constraints.txt").read_text().splitlines() if line and line[0] != "#"
    )
    pins = {name.lower(): Version(version) for name, version in pinned.items()}
    for name, floor in SAFE.items():
        floors = [Version(part.version) for part in required[name].specifier if part.operator == ">="]
        assert max(floors) >= Version(floor), f"pyproject.toml lets in a {name} older than {floor}"
    for name, requirement in required.items():
        assert requirement.specifier.contains(pins[name]), f"constraints.txt: {name} {pins[name]}, not {requirement}"
