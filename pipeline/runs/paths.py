"""The paths of a recipe, which mean the same on every node."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pipeline.config import Recipe, file_fields
from pipeline.core.failures import ConfigError
from pipeline.tracking import uri as tracking_uri


def absolute(recipe: Recipe) -> Recipe:
    """The recipe with absolute paths, since a worker's working directory is not the driver's."""
    uri = tracking_uri.absolute(recipe.tracking.uri)
    update: dict[str, Any] = {"tracking": recipe.tracking.model_copy(update={"uri": uri})}
    files = {name: str(Path(path).expanduser().absolute()) for name, path in _files(recipe).items()}
    if files:
        update["source"] = recipe.source.model_copy(update=files)
    return recipe.model_copy(update=update)


def refuse_relative(output: str | Path | None, recipe: Recipe) -> None:
    """Raises ``ConfigError`` with each path that is relative to a Ray job's working directory, and the fix."""
    problems = []
    if output is None or not (Path(output).is_absolute() or "://" in str(output)):
        given = "is missing" if output is None else f"{str(output)!r} is relative"
        problems.append(f"--output {given}: name a folder that stays, such as /shared/runs/first")
    if tracking_uri.is_relative(uri := recipe.tracking.uri):
        problems.append(f"tracking.uri {uri!r} is relative: write http://HEAD:5000 or sqlite:////FOLDER/mlflow.db")
    for name, path in _files(recipe).items():
        if not Path(path).expanduser().is_absolute():
            problems.append(f"source.{name} {path!r} is relative: name a file that every node can read at that path")
    if problems:
        raise ConfigError(f"Ray deletes a job's working directory when the job ends: {'; '.join(problems)}")


def _files(recipe: Recipe) -> dict[str, str]:
    """The source's file fields that are set, by name."""
    found = {name: getattr(recipe.source, name) for name in file_fields(recipe.source)}
    return {name: path for name, path in found.items() if path}
