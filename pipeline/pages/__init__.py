"""The pages of ``docs/`` that are made: out of what the code says of itself, and out of the recorded results."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from pipeline.core.failures import ConfigError
from pipeline.pages import algorithms, measured
from pipeline.results import RESULTS
from pipeline.storage.local import write_whole

DOCS = Path(__file__).parents[2] / "docs"

COMMAND = "python -m jobs.document"

PAGES: dict[str, Callable[[Path], str]] = {"algorithms.md": algorithms.page, "results.md": measured.page}
"""File name -> its text, given the folder of recorded results."""


def write(docs: Path = DOCS, results: Path = RESULTS) -> list[Path]:
    """Write every page anew; returns where. Raises ``ConfigError`` where one cannot be written."""
    for name, page in PAGES.items():
        text, path = f"{page(results)}\n".encode(), docs / name
        try:
            write_whole(path, lambda file, text=text: file.write(text))  # type: ignore[misc]
        except OSError as error:
            why = error.strerror or error
            raise ConfigError(f"{path}: cannot be written ({why}); run it from a checkout") from None
    return [docs / name for name in PAGES]


def check(docs: Path = DOCS, results: Path = RESULTS) -> list[Path]:
    """Returns where the pages are. Raises ``ConfigError`` where one is not what it is made of."""
    for name, page in PAGES.items():
        path = docs / name
        if not path.exists() or path.read_text("utf-8") != f"{page(results)}\n":
            raise ConfigError(f"{path}: is not what the registry, the recipes and the results give; run `{COMMAND}`")
    return [docs / name for name in PAGES]
