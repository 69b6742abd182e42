"""The README keeps its word: its Python runs, and its commands are ones that the jobs take."""

from __future__ import annotations

import importlib
import re
import shlex
import shutil
from pathlib import Path

import pytest

from pipeline.config import load

ROOT = Path(__file__).resolve().parents[2]
README = ROOT / "README.md"
OTHERS = {"export", "ray", "git", "cd", "mlflow", "pip"}
"""Commands that are not ours to check."""

SHELLS = {"", "sh", "bash", "shell", "console"}


def text() -> str:
    if not README.exists():
        pytest.skip("there is no README.md yet")
    return README.read_text("utf-8")


def section(heading: str) -> str:
    found = re.search(rf"^#+ {re.escape(heading)}$(.*?)(?=^#+ |\Z)", text(), re.DOTALL | re.MULTILINE)
    assert found, f"README.md has no heading {heading!r}"
    return found[1]


def blocks(source: str) -> list[tuple[str, str]]:
    """The fenced blocks of a text: (language, content)."""
    return re.findall(r"^```(\w*)[^\n]*\n(.*?)^```$", source, re.DOTALL | re.MULTILINE)


def commands() -> list[list[str]]:
    """What the README tells people to type, as words: lines of shell blocks, and what runs a job inside a sentence."""
    lines = [line for language, block in blocks(text()) if language in SHELLS for line in joined(block)]
    prose = re.sub(r"^```.*?^```$", "", text(), flags=re.DOTALL | re.MULTILINE)
    lines += [one.replace("\n", " ") for one in re.findall(r"`((?:python -m jobs|make )[^`]*)`", prose)]
    return [words for line in lines if (words := shlex.split(line.removeprefix("$ ").replace("…", ""), comments=True))]


def joined(block: str) -> list[str]:
    return re.sub(r"\\\n\s*", "", block).splitlines()


def test_the_python_of_the_readme_runs(migrated_mlflow, tmp_path, monkeypatch, capsys):
    (example,) = [block for language, block in blocks(section("From Python")) if language == "python"]
    shutil.copy(migrated_mlflow, tmp_path / "mlflow.db")
    monkeypatch.chdir(tmp_path)
    exec(compile(example, "README.md", "exec"), {})
    assert list(tmp_path.glob("runs/*/*/summary.json"))
    assert capsys.readouterr().out


def test_every_command_of_the_readme_is_understood():
    found = commands()
    assert sum(words[:2] == ["python", "-m"] for words in found) >= 3
    assert any(words[0] == "make" for words in found)
    for words in found:
        understood(words)


def understood(words: list[str]) -> None:
    """Fails where make has no such target, a job does not take these arguments, or there is no such recipe or key."""
    line = " ".join(words)
    if "--" in words:
        return understood(words[words.index("--") + 1 :])
    if words[0] == "make":
        makefile = (ROOT / "Makefile").read_text("utf-8")
        (target,) = [word for word in words[1:] if "=" not in word]
        assert target in re.findall(r"^([\w-]+):", makefile, re.MULTILINE), line
        given = dict(word.split("=", 1) for word in words[1:] if "=" in word)
        if "ARGS" in given:
            module = re.search(rf"^{target}:.*\n\t.* -m (\S+) \$\(ARGS\)$", makefile, re.MULTILINE)
            assert module, f"this target takes no ARGS: {line}"
            understood(["python", "-m", module[1], *shlex.split(given["ARGS"])])
        return None
    if words[:2] == ["python", "-c"]:
        compile(words[2], "README.md", "exec")
        return None
    if words[:2] != ["python", "-m"] or words[2] == "pytest":
        assert words[0] in (*OTHERS, "python"), f"nobody checks: {line}"
        return None
    try:
        module = words[2] if (ROOT / f"{words[2].replace('.', '/')}.py").exists() else f"{words[2]}.__main__"
        parser = importlib.import_module(module).parser()
        parse = parser.parse_args if words[2] == "jobs.ingest" else parser.parse_intermixed_args
        arguments = parse(words[3:])
    except SystemExit:
        pytest.fail(f"the job does not take: {line}")
    if words[2] in ("jobs.train", "jobs.evaluate"):
        load(getattr(arguments, "recipe", "sinusoid_maml"), arguments.overrides)
    return None
