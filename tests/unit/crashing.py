"""Runs in processes of their own that end without a word at a named point of an outer step, as a power cut ends them.

Nothing of this is in the product: the points are planted from outside, in a process that is lost anyway.
"""

from __future__ import annotations

import multiprocessing
import os
import resource
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

from pipeline import build
from pipeline.config import recipe_type
from pipeline.core.failures import FencedError, PipelineError
from pipeline.engine import loop
from pipeline.engine.durability.journal import Journal
from pipeline.engine.outer.store import Store
from pipeline.engine.serial import SerialExecutor
from pipeline.storage import local
from tests.quiet_runs import BuildQuietCoordinator, Onlooker, run

POINTS = ("before apply", "after apply", "mid-write", "after fsync", "after rename", "before journal")
CRASHED = 77
LONG_S = 300.0


def plant(point: str, step: int) -> None:
    """End this process at ``point`` of outer step number ``step``."""

    def around(home: Any, name: str, hit: Callable[..., bool], *, after: bool) -> None:
        real = getattr(home, name)

        def planted(*arguments: Any, **named: Any) -> Any:
            if not hit(*arguments, **named):
                return real(*arguments, **named)
            if after:
                real(*arguments, **named)
            os._exit(CRASHED)

        setattr(home, name, planted)

    def half(path: Path, write: Any) -> None:
        (path.parent / f".{path.name}.half").write_bytes(b"half of it")

    this = f"step-{step:08d}.safetensors"
    if point in ("before apply", "after apply"):
        around(Store, "step", lambda _, at, *__: at == step, after=point == "after apply")
    elif point in ("after fsync", "after rename"):
        around(os, "replace", lambda _, to: Path(to).name == this, after=point == "after rename")
    elif point == "before journal":
        around(Journal, "append", lambda _, entry: (entry.kind, entry.step) == ("train", step), after=False)
    else:
        whole = local.write_whole
        around(local, "write_whole", lambda path, _: path.name == this and not half(path, whole), after=False)


def crashes(recipe: str, folder: str, point: str, step: int) -> None:
    plant(point, step)
    run(recipe_type().model_validate_json(recipe), Path(folder), 0)


def trains(recipe: str, folder: str, together: Barrier) -> None:
    """Train beside another process that has opened the same run, on a file system without locks."""
    local.Local.lock = lambda self: self.folder.mkdir(parents=True, exist_ok=True)  # type: ignore[method-assign]
    of = recipe_type().model_validate_json(recipe)
    executor = SerialExecutor(build.BuildWorker(recipe)(), BuildQuietCoordinator(recipe, folder)())
    first = together.wait(LONG_S) == 0
    if not first:  # opening takes a while, and whoever opens meanwhile would fence the other before it has begun
        together.wait(LONG_S)
    opened = executor.open()
    executor.open = lambda: opened  # type: ignore[method-assign]
    if first:
        together.wait(LONG_S)
    together.wait(LONG_S)
    try:
        loop.train(executor, build.plan_of(of, build.build_components(of)), Onlooker())
    except PipelineError as error:
        with suppress(FencedError):
            executor.close("FAILED", {})
        os._exit(error.exit_code)
    executor.close("FINISHED", {})


def outgrows(recipe: str, folder: str, limit: int) -> None:
    """Train where no file may be larger than ``limit`` bytes."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    try:
        run(recipe_type().model_validate_json(recipe), Path(folder), 0)
    except PipelineError as error:
        Path(folder, "why").write_text(str(error))
        os._exit(error.exit_code)


def exit_codes(target: Callable[..., None], *calls: tuple[Any, ...], barrier: bool = False) -> list[int | None]:
    """How processes end that are forked from one that has imported everything, and nothing else."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.unit.crashing"])
    extra = (context.Barrier(len(calls)),) if barrier else ()
    processes = [context.Process(target=target, args=(*call, *extra), daemon=True) for call in calls]
    for process in processes:
        process.start()
    for process in processes:
        process.join(LONG_S)
    return [process.exitcode for process in processes]
