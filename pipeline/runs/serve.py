"""Serves a trained model to many users over HTTP, with Ray Serve."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from ipaddress import ip_address
from typing import Any, NamedTuple

from pipeline.core.failures import ConfigError, Stopped
from pipeline.engine.stop import Stop
from pipeline.runs.models import folder_of
from pipeline.runs.run_folder import newest, validate_folder
from pipeline.serving.http.app import build_app
from pipeline.serving.http.host import Host
from pipeline.serving.http.limits import Limits
from pipeline.serving.http.users import VARIABLE, Users
from pipeline.serving.learner import Learner


class ServeOptions(NamedTuple):
    """Where and how to serve.

    Args:
        host: the address to listen on; without tokens a loopback address.
        port: 0 for a free one.
        replicas: processes with a model of their own.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    replicas: int = 1


def serve_http(
    model: str,
    load: Callable[[], Learner],
    users: Users,
    limits: Limits,
    options: ServeOptions,
    say: Callable[[str], None],
) -> None:
    """Serve until SIGTERM or Ctrl-C.

    Args:
        model: the model's name, for ``GET /model``.
        load: loads it; it is called here and in each replica, so it must pickle.
        users: who may use it.
        limits: what they may ask for.
        options: where to serve.
        say: is told the URL once the model answers.

    Raises:
        ConfigError: no model is there, or other machines could use it without a token.
        Stopped: always, in the end.
    """
    if not users.digests and not _is_loopback(options.host):
        raise ConfigError(
            f"--host {options.host}: without tokens any machine could use the model; name a file of tokens with "
            f"--tokens, set {VARIABLE}, or leave --host out to serve this machine alone"
        )
    if options.replicas < 1:
        raise ConfigError(f"--replicas: {options.replicas}; expected 1 or more")
    load()  # a wrong name ends here, with one line, before Ray starts
    from pipeline.runtime.deployment import Site, deployed, wait

    threads = max(1, (os.cpu_count() or 1) // options.replicas)
    app = partial(build_app, users=users, limits=limits)
    host = partial(build_host, model, load, limits, threads)
    site = Site(options.host, options.port, options.replicas, 2.0 * limits.compute_s)
    with deployed(app, host, site) as url:
        stop = Stop()
        with stop.listening():
            asked = "with a bearer token" if users.digests else "by this machine alone, without a token"
            say(f"{model} is served at {url}, {asked}; Ctrl-C ends it")
            wait(lambda: stop.signal is not None)
    assert stop.signal is not None
    raise Stopped(stop.signal)


def build_host(model: str, load: Callable[[], Learner], limits: Limits, threads: int) -> Host:
    """The host of one replica, in its process."""
    return Host(load(), {"model": model, **_facts(model)}, limits, threads)


def _facts(model: str) -> dict[str, Any]:
    with folder_of(model) as folder:
        return {"recipe": validate_folder(folder).name, "step": newest(folder)[0].step}


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
