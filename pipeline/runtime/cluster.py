"""Joins a cluster or starts one on this machine, and checks that it has what a run needs."""

from __future__ import annotations

import logging
import os
import signal
import threading
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import gettempdir
from typing import Any

from pipeline.runtime.addresses import probe, same

# Ray reads these when it is imported.
# Sends no usage statistics.
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
# Starts workers with this Python, also under uv run.
os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
# Prints no traceback for a failed call's second result, which is never fetched.
os.environ.setdefault("RAY_IGNORE_UNHANDLED_ERRORS", "1")

import ray
from ray.exceptions import AuthenticationError

from pipeline.core.failures import ClusterError, PipelineError, Stopped
from pipeline.core.plugins import places
from pipeline.runtime.job import cluster_address, in_ray_job, shown
from pipeline.runtime.placement import check_resources


@dataclass(frozen=True)
class Workers:
    """How many workers, how much of a GPU each may use, and whether they may compute with other numerics."""

    count: int
    gpus: float
    mixed: bool = False


def connect(address: str | None, workers: Workers) -> bool:
    """Join the cluster at ``address``, or start one here for ``local``; whether it was started (and is ours to stop).

    Without an address it is the cluster that this process has joined, otherwise that of ``cluster_address``.

    Raises:
        ClusterError: nobody listens at the address, this process is in another cluster, or the cluster can never hold
            what is asked.
    """
    started = not ray.is_initialized() and cluster_address(address) == "local"
    if started:
        _start_local(workers)
    elif not ray.is_initialized():
        join(cluster_address(address))
    elif address is not None:
        _refuse_another(address)
    check_resources(resources(), workers.gpus)
    return started


@contextmanager
def joined(address: str | None, workers: Workers) -> Iterator[None]:
    """``connect`` for all runs inside the block. A cluster that was started here ends with the block.

    A process that was asked to end does not wait for it: Ray takes more than a second to shut down.
    """
    started, stop = connect(address, workers), ray.shutdown
    try:
        yield
    except KeyboardInterrupt:
        stop = stop_local_raylet
        raise
    finally:
        if started:
            stop()


def join(address: str) -> str:
    """Join the cluster at ``address``; returns HOST:PORT of its dashboard, "" where it has none.

    Raises:
        ClusterError: nobody listens there, or those who do are of another version or ask for another token.
    """
    probe(address)
    try:
        with _signals():
            context = ray.init(
                address=address, log_to_driver=False, logging_level=logging.ERROR, runtime_env=_own_code()
            )
    except (RuntimeError, ConnectionError, AuthenticationError) as error:
        raise ClusterError(f"{shown(address)}: {_refusal(error)}") from error
    return str(context.dashboard_url or "")


def _own_code() -> dict[str, list[str]] | None:
    """The plug-ins' code, for the nodes of a cluster; a job's is in its working directory already."""
    found = [] if in_ray_job() else places()
    return {"py_modules": found} if found else None


def _refuse_another(address: str) -> None:
    """Raises ``ClusterError`` where the cluster that this process has joined is not the one at ``address``."""
    joined = ray.get_runtime_context().gcs_address
    if address == "auto" or (address == "local" and _started_here()) or same(address, joined):
        return
    raise ClusterError(
        f"{shown(address)}: this process has joined the Ray at {joined}; leave --address out to use that one, "
        "or call ray.shutdown() first"
    )


def _started_here() -> bool:
    from ray._private import worker

    return worker._global_node is not None and bool(worker._global_node.head)


@contextmanager
def _signals() -> Iterator[None]:
    """Ray installs a handler of SIGTERM that raises ``SystemExit``. Turn it into ``Stopped``, and restore our
    handler."""
    ours = signal.getsignal(signal.SIGTERM)
    try:
        yield
    except SystemExit as asked:
        raise Stopped(signal.SIGTERM) from asked
    except Stopped:
        raise
    except KeyboardInterrupt as asked:
        raise Stopped(signal.SIGINT) from asked
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, ours or signal.SIG_DFL)


def _refusal(error: Exception) -> str:
    text = " ".join(str(error).split())[:300]
    # With a wrong token Ray says after 20 s that it failed to connect, although probe has found a listener.
    if isinstance(error, AuthenticationError) or text.startswith("Failed to connect"):
        return (
            "the cluster does not let this process in: it has no token or another; set RAY_AUTH_MODE=token and give it "
            "the cluster's in RAY_AUTH_TOKEN, RAY_AUTH_TOKEN_PATH or ~/.ray/auth_token"
        )
    if "mismatch" in text.lower():
        return f"{text}; install the cluster's versions here, or submit the run as a job: ray job submit"
    return f"{text}; start a Ray head with ray start --head, or pass --address local"


def stop_local_raylet() -> None:
    """Stop a cluster that was started here, even one that is still starting, so that it ends with this process.

    ``ray.shutdown`` would wait a second for a process that does not react. The kernel kills Ray's own processes when
    this one ends, but not those that the raylet started: Ray's agents would look for the head for up to a minute.
    """
    for pid in _children(os.getpid()):
        if _about(Path(f"/proc/{pid}/comm")) == "raylet\n":
            _send(pid, signal.SIGSTOP)  # it starts no process meanwhile
            for one in (*_descendants(pid), pid):
                _send(one, signal.SIGKILL)


def _send(pid: int, number: signal.Signals) -> None:
    with suppress(ProcessLookupError):  # it ended by itself
        os.kill(pid, number)


def _descendants(pid: int) -> list[int]:
    children = _children(pid)
    return [*children, *(one for child in children for one in _descendants(child))]


def _children(pid: int) -> list[int]:
    """The child processes of a process on Linux; elsewhere none."""
    return [int(child) for file in Path(f"/proc/{pid}/task").glob("*/children") for child in _about(file).split()]


def _about(file: Path) -> str:
    """The kernel's record of a process; empty once it has ended."""
    try:
        return file.read_text()
    except OSError:
        return ""


def _start_local(workers: Workers) -> None:
    # One CPU more than there are workers: a replacement need not wait for the lost worker's CPU. The umask keeps the
    # file with the cluster's token private to this user.
    before = os.umask(0o077)
    try:
        with _told(), _signals(), _loopback():
            ray.init(
                address="local",
                num_cpus=workers.count + 1,
                include_dashboard=False,
                log_to_driver=False,
                logging_level=logging.ERROR,
            )
    finally:
        os.umask(before)


@contextmanager
def _told() -> Iterator[None]:
    """Why Ray did not start, in one line. Ray raises OSError and bare Exception alike."""
    try:
        yield
    except PipelineError:
        raise
    except Exception as error:
        stop_local_raylet()
        text = " ".join(str(error).split())[:300] or type(error).__name__
        raise ClusterError(
            f"Ray could not be started on this machine: {text}. {_reason(error)}, or run with --executor serial"
        ) from error


def _reason(error: Exception) -> str:
    folders = f"HOME ({Path.home()}) and RAY_TMPDIR ({os.environ.get('RAY_TMPDIR') or gettempdir()})"
    if "path length" in str(error):
        return "Set RAY_TMPDIR to a shorter path, Ray's sockets lie below it"
    if isinstance(error, OSError):
        return f"Ray writes to {folders}: name folders that can be written"
    limit = _memory_limit()
    if limit is not None:
        return f"ulimit -v allows {limit / 1e9:.1f} GB of address space, and Ray's processes reserve more: raise it"
    return "See the logs in RAY_TMPDIR, free some memory"


def _memory_limit() -> int | None:
    import resource

    soft, _ = resource.getrlimit(resource.RLIMIT_AS)
    return None if soft == resource.RLIM_INFINITY else soft


@contextmanager
def _loopback() -> Iterator[None]:
    """Make Ray use this machine's loopback address, so that no other machine reaches its ports.

    Ray does this on macOS and Windows, and has no option for it elsewhere: it replaces a given 127.0.0.1 by the address
    in the network.
    """
    from ray._private import ray_constants

    before = ray_constants.ENABLE_RAY_CLUSTER
    ray_constants.ENABLE_RAY_CLUSTER = False
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = before


def resources() -> list[Mapping[str, float]]:
    """What each node of the cluster has."""
    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


def here() -> dict[str, Any]:
    """Actor options that keep an actor on the driver's machine, where the run's files are."""
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    node = ray.get_runtime_context().get_node_id()
    return {"scheduling_strategy": NodeAffinitySchedulingStrategy(node, soft=False)}


def own_raylet() -> str:
    """HOST:PORT of this machine's raylet."""
    node = ray.get_runtime_context().get_node_id()
    (own,) = (one for one in ray.nodes() if one["NodeID"] == node)
    return f"{own['NodeManagerAddress']}:{own['NodeManagerPort']}"


def draining_nodes() -> Collection[str]:
    """The nodes that Ray is draining: after a spot machine's notice, or for a scale-down."""
    from ray._private import state

    try:
        return set(state.state.get_draining_nodes())
    except AttributeError:  # this is private to Ray; without it a drained node counts as lost
        return ()
