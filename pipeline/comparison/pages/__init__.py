"""The generated pages of ``docs/``, from the code and from the recorded results."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import BinaryIO

from pipeline.comparison.pages import algorithms, measured, packaged
from pipeline.core.failures import ConfigError
from pipeline.runs.recorded import RESULTS
from pipeline.storage.local import write_whole

DOCS = Path(__file__).parents[3] / "docs"

PAGES: dict[str, Callable[[Path], str]] = {
    "algorithms.md": algorithms.page,
    "recipes.md": packaged.page,
    "results.md": measured.page,
}
"""File name -> its text, given the folder of recorded results."""


def write(docs: Path = DOCS, results: Path = RESULTS) -> list[Path]:
    """Write every page and return their paths. Raises ``ConfigError`` where one cannot be written."""
    made = _made(docs, results)
    for path, text in made.items():
        try:
            write_whole(path, partial(_put, text))
        except OSError as error:
            why = error.strerror or error
            raise ConfigError(f"{path}: cannot be written ({why}); run it from a checkout") from None
    return list(made)


def check(docs: Path = DOCS, results: Path = RESULTS) -> list[Path]:
    """The paths of the pages. Raises ``ConfigError`` where one differs from what would be generated."""
    made = _made(docs, results)
    for path, text in made.items():
        if not path.exists() or path.read_bytes() != text:
            raise ConfigError(f"{path}: is not what the registry, the recipes and the results give; run `make docs`")
    return list(made)


def _made(docs: Path, results: Path) -> dict[Path, bytes]:
    return {docs / name: f"{page(results)}\n".encode() for name, page in PAGES.items()}


def _put(text: bytes, file: BinaryIO) -> None:
    file.write(text)
