"""Checks that this machine, a cluster and a tracking server have what a recipe needs. Each check names its fix."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from pipeline.config import Recipe
from pipeline.core.failures import ClusterError, ConfigError, PipelineError
from pipeline.core.redact import redact_uri
from pipeline.storage import storage_at
from pipeline.tracking.mlflow_tracker import probe

FLOORS = {"python": "3.11", "torch": "2.10", "ray": "2.59", "mlflow": "3.17", "pyarrow": "17"}
FREE_GB = 1.0


class Finding(NamedTuple):
    """One check: what was found, and the fix where it is not good."""

    check: str
    good: bool
    found: str
    fix: str = ""


def examine(recipe: Recipe, address: str | None, output: str) -> Iterator[Finding]:
    """All checks in turn. What cannot be reached fails within seconds."""
    for package, floor in FLOORS.items():
        yield check_version(package, installed(package), floor)
    yield from check_cluster(recipe, address)
    yield check_tracking(recipe.tracking.uri, recipe.tracking.experiment)
    yield check_disk(output)


def installed(package: str) -> str | None:
    """The version that is installed here."""
    if package == "python":
        return platform.python_version()
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def check_version(package: str, version: str | None, floor: str) -> Finding:
    fix = "use a newer Python" if package == "python" else f"pip install '{package}>={floor}'"
    good = version is not None and _numbers(version) >= _numbers(floor)
    return Finding(package, good, f"{version or 'not installed'}, at least {floor}", fix)


def _numbers(version: str) -> tuple[int, ...]:
    release = re.match(r"\d+(\.\d+)*", version)
    return tuple(int(part) for part in release[0].split(".")) if release else ()


def check_cluster(recipe: Recipe, address: str | None) -> Iterator[Finding]:
    """The cluster at ``address``, or this machine, where a run would start its own."""
    import torch

    from pipeline.runtime import cluster_info
    from pipeline.runtime.job import cluster_address

    address = cluster_address(address)
    if address == "local":
        cpus, gpus = os.cpu_count() or 1, float(torch.cuda.device_count())
    else:
        try:
            seen = cluster_info.inspect_cluster(address)
        except ClusterError as error:
            yield _failed("cluster", error)
            return
        # Ray refuses a driver of another version.
        yield Finding("cluster", True, f"{seen.nodes} nodes with {seen.versions}, as here")
        yield check_guard(seen.dashboard, cluster_info.open_to_all)
        cpus, gpus = int(seen.cpus), seen.gpus
    yield check_resources(recipe, cpus, gpus)
    yield check_threads(recipe, cpus)
    yield check_token_file(cluster_info.token_file())


def check_resources(recipe: Recipe, cpus: int, gpus: float) -> Finding:
    """Each worker needs a CPU; the parameter actor asks for none."""
    from pipeline.runtime import placement

    count, share = recipe.workers.count, recipe.workers.gpus
    room = placement.room([{"CPU": cpus, "GPU": gpus}], share)
    found = f"{cpus} CPUs, {gpus:g} GPUs; the recipe asks for {count} CPUs, {count * share:g} GPUs"
    if room >= 1:
        fix = f"--workers {room}, which gives the same result, or more nodes"
    elif cpus >= 1:
        fix = "nodes with GPUs, or workers.gpus=0 numerics.device=cpu"
    else:
        fix = "more nodes: a run needs a CPU"
    return Finding("CPUs and GPUs", room >= count, found, fix)


def check_threads(recipe: Recipe, cpus: int) -> Finding:
    """More threads than CPUs are slow. Another number gives other bits, so the recipe decides it."""
    count, threads = recipe.workers.count, recipe.numerics.threads
    found = f"{count} workers × {threads} of torch on {cpus} CPUs"
    fix = "numerics.threads=1 (not for a resume: another number gives other bits), or fewer workers"
    return Finding("threads", threads == 1 or count * threads <= cpus, found, fix)


def check_guard(dashboard: str, open_to_all: Callable[[str], bool | None]) -> Finding:
    """Whoever can submit a job can run any code, so the jobs API must ask for the token."""
    if not dashboard:
        return Finding("token", True, "the cluster has no dashboard, so it takes no jobs")
    answer = open_to_all(dashboard)
    found = {True: "takes jobs from anybody", False: "refuses who has no token", None: "does not answer"}[answer]
    fix = (
        "start every node with RAY_AUTH_MODE=token, after ray get-auth-token --generate on one of them"
        if answer
        else f"open port {dashboard.rpartition(':')[2]} to this machine"
    )
    return Finding("token", answer is False, f"http://{dashboard}/api/jobs/ {found}", fix)


def check_token_file(path: Path) -> Finding:
    if not path.exists():
        return Finding("token file", True, f"none at {path}")
    mode = stat.S_IMODE(path.stat().st_mode)
    return Finding("token file", not mode & 0o077, f"{path} has mode {mode:o}", f"chmod 600 {path}")


def check_tracking(uri: str, experiment: str) -> Finding:
    try:
        probe(uri, experiment)
    except ConfigError as error:
        return _failed("MLflow", error)
    return Finding("MLflow", True, f"{redact_uri(uri)}, experiment {experiment}")


def check_disk(output: str, free_gb: float = FREE_GB) -> Finding:
    """The place of the run's folder is writable and has free space."""
    storage = storage_at(output)
    try:
        storage.probe()
    except ConfigError as error:
        return _failed("disk", error)
    free = storage.free()
    if free is None:
        return Finding("disk", True, f"{storage.where} can be written")
    fix = f"make room in {storage.where}, or name another --output"
    return Finding(
        "disk", free >= free_gb * 1e9, f"{free / 1e9:.1f} GB free at {storage.where}, at least {free_gb:g}", fix
    )


def _failed(check: str, error: PipelineError) -> Finding:
    """The fix of an error: the text after its last semicolon."""
    found, _, fix = str(error).rpartition("; ")
    return Finding(check, False, found or fix, fix)
