"""The paths of a recipe, which mean the same on every node, and the folder of its run."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Any

from pipeline.config import Recipe, file_fields
from pipeline.core.failures import ConfigError, ResumeError
from pipeline.storage import named, storage_at
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


def output_folder(name: str, output: str | Path | None, *, resume: bool) -> Path | str:
    """The folder (or URI) of a run of the recipe ``name``.

    Raises:
        ConfigError: it is a file, or holds another run.
        ResumeError: there is no run to resume.
    """
    folder: Path | str
    if output is not None:
        folder = named(output)
    elif resume:
        runs = sorted(path.parent for path in Path("runs", name).absolute().glob("*/checkpoints"))
        if not runs:
            raise ResumeError(f"--resume: no run of {name} under runs/{name}; name it with --output DIR")
        folder = runs[-1]
    else:
        folder = Path("runs", name, datetime.now().strftime("%Y%m%d-%H%M%S")).absolute()
    if isinstance(folder, Path):
        try:
            place = next(place for place in (folder, *folder.parents) if place.exists())
        except OSError as error:
            raise ConfigError(f"--output: {folder}: {error.strerror}; name another folder") from None
        if not place.is_dir():
            raise ConfigError(f"--output: {place} is a file; name a folder")
    has_run = "recipe.yaml" in storage_at(folder).names("")
    if resume and not has_run:
        raise ResumeError(f"--resume: {folder} holds no run; leave --resume out to start one there")
    if has_run and not resume:
        raise ConfigError(f"--output: {folder} already holds a run; pass --resume to continue it, or another folder")
    return folder


def _files(recipe: Recipe) -> dict[str, str]:
    """The source's file fields that are set, by name."""
    found = {name: getattr(recipe.source, name) for name in file_fields(recipe.source)}
    return {name: path for name, path in found.items() if path}
