"""Serves an ASGI app with Ray Serve: in one process, or with a replica of the model in each of several."""

from __future__ import annotations

import logging
import socket
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, NamedTuple

from pipeline.core.extras import missing
from pipeline.core.failures import ClusterError, ConfigError
from pipeline.runtime.cluster import Workers, connect

try:
    from ray import serve
except ImportError as error:
    raise missing("ray[serve]", "serve") from error

import ray
from ray.exceptions import RayError
from ray.serve.exceptions import RayServeException

APP = "metafleet"
QUEUE = 256
"""How many requests wait or are computed; Ray Serve answers more with 503."""

BuildHost = Callable[[], Any]
BuildApp = Callable[[Sequence[Callable[..., Awaitable[Any]]]], Any]


class Site(NamedTuple):
    """Where to serve, with how many replicas, and after how many seconds a request is given up."""

    host: str
    port: int
    replicas: int
    timeout_s: float


def _close_door() -> None:
    """Keep Ray Serve from listening for other replicas, in the process of a replica and before it starts to.

    It would listen on all networks, ask for no token and unpickle what comes: whoever reaches the port could run code
    here. Our replicas call each other as actors, which needs no such port.
    """
    from ray.serve._private import replica

    _ = replica.add_port_to_grpc_server  # raises where Ray has another way to open it
    replica.add_port_to_grpc_server = lambda server, address: 0


class Replica:
    """One host in a process of its own.

    Args:
        build_host: makes the host.
    """

    def __init__(self, build_host: BuildHost) -> None:
        _close_door()
        self._host = build_host()

    async def call(self, method: str, *arguments: Any) -> Any:
        """Call a method of the host."""
        return await getattr(self._host, method)(*arguments)


@serve.ingress()
class Front:
    """Holds the app. Without replicas it has the only host beside it, in the same process.

    Args:
        build_app: makes the app, given what calls each host.
        build_host: makes a host.
        replicas: handles of the replicas.
    """

    def __init__(self, build_app: BuildApp, build_host: BuildHost, *replicas: Any) -> None:
        _close_door()
        calls = [_remote(one, number) for number, one in enumerate(replicas)] or [Replica(build_host).call]
        self._app = build_app(calls)

    def __serve_build_asgi_app__(self) -> Any:
        return self._app


def _remote(handle: Any, number: int) -> Callable[..., Awaitable[Any]]:
    async def call(*arguments: Any) -> Any:
        try:
            return await handle.call.remote(*arguments)
        except (RayError, RayServeException) as error:
            raise ConnectionError(f"replica {number} does not answer ({type(error).__name__})") from error

    return call


@contextmanager
def deployed(build_app: BuildApp, build_host: BuildHost, site: Site) -> Iterator[str]:
    """Serve the app inside the block; the value is its URL. Ray Serve ends with the block.

    Raises:
        ConfigError: the port is taken, or Ray Serve is in use in this cluster.
        ClusterError: Ray or a replica cannot be started.
    """
    port = _free_port(site.host, site.port)
    started = connect(None, Workers(site.replicas, 0.0))
    logging.getLogger("ray.serve").setLevel(logging.ERROR)
    if not started and serve.status().applications:
        raise ConfigError(
            "Ray Serve has an application in this cluster already; end it with serve shutdown, or set RAY_ADDRESS=local"
        )
    try:
        serve.start(
            proxy_location="HeadOnly",
            http_options={"host": site.host, "port": port, "request_timeout_s": site.timeout_s},
            logging_config=QUIET,
        )
        serve.run(application(build_app, build_host, site.replicas), name=APP, logging_config=QUIET)
        yield f"http://{site.host}:{port}"
    except RuntimeError as failed:
        raise ClusterError(f"Ray Serve could not start the model: {' '.join(str(failed).split())[:300]}") from failed
    finally:
        if started:
            with suppress(RayServeException):  # it has not started
                serve.delete(APP)
            ray.shutdown()
        else:
            serve.shutdown()


QUIET: dict[str, Any] = {"log_level": "ERROR", "enable_access_log": False}


def application(build_app: BuildApp, build_host: BuildHost, replicas: int) -> Any:
    """The application of Ray Serve: one replica holds the app and the model, more stand behind it."""
    options = {"max_ongoing_requests": QUEUE, "graceful_shutdown_timeout_s": 2.0, "graceful_shutdown_wait_loop_s": 0.1}
    front = serve.deployment(
        Front, name="front", **options, max_queued_requests=QUEUE, ray_actor_options={"num_cpus": 1}
    )
    if replicas == 1:
        return front.bind(build_app, build_host)
    hosts = [
        serve.deployment(Replica, name=f"replica-{number}", **options, ray_actor_options={"num_cpus": 1}).bind(
            build_host
        )
        for number in range(replicas)
    ]
    return front.options(ray_actor_options={"num_cpus": 0}).bind(build_app, build_host, *hosts)


def _free_port(host: str, port: int) -> int:
    """The port, or a free one for 0; Ray Serve would report a taken one late and at length."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, port))
            return int(probe.getsockname()[1])
    except OSError as refused:
        raise ConfigError(f"{host}:{port}: cannot be listened on ({refused.strerror}); choose another port") from None


def wait(asked: Callable[[], bool]) -> None:
    """Return once somebody asked to end."""
    while not asked():
        time.sleep(0.1)
