"""``python -m jobs.serve MODEL``: answer requests over HTTP with a trained model."""

from __future__ import annotations

import argparse
import os
from functools import partial

from jobs import run
from jobs.options import add_model, add_plugins, import_plugins
from pipeline.core.failures import ConfigError

PORTS = {"mlflow": 5001, "ray": 8000}


def parser() -> argparse.ArgumentParser:
    described = argparse.ArgumentParser(
        prog="python -m jobs.serve",
        description="Serve a trained model over HTTP: docs/serving.md and, for many users, docs/serving-http.md.",
    )
    add_model(described)
    described.add_argument("limits", nargs="*", metavar="limit=N", help="ray: for example sessions=100 idle_s=600")
    backends = "MLflow's scoring server (default), or Ray Serve: sessions for many users"
    described.add_argument("--backend", choices=list(PORTS), default="mlflow", help=backends)
    described.add_argument("--host", default="127.0.0.1", help="the address to listen at; default: this machine alone")
    described.add_argument("--port", type=int, help="default: 5001, of Ray Serve 8000; 0 there for a free one")
    described.add_argument("--tokens", metavar="FILE", help="ray: lines name:token, mode 600; default METAFLEET_TOKENS")
    described.add_argument("--replicas", type=int, metavar="N", help="ray: processes with a model each; default 1")
    described.add_argument("--normalisation", metavar="MODE", help="ray: predict under another mode than the run's")
    add_plugins(described)
    return described


def main() -> None:
    arguments = parser().parse_intermixed_args()
    import_plugins(arguments)
    model, host, port = arguments.model, arguments.host, arguments.port
    port = PORTS[arguments.backend] if port is None else port
    if arguments.backend == "mlflow":
        for name in ("limits", "tokens", "replicas", "normalisation"):
            if getattr(arguments, name) not in (None, []):
                raise ConfigError(f"{name}: MLflow's scoring server has none; add --backend ray, or leave it out")
        from pipeline.runs.scoring_server import serve_with_mlflow

        return serve_with_mlflow(model, host, port)

    import pipeline
    from pipeline.runs.serve import ServeOptions, serve_http
    from pipeline.serving.http.limits import limits_of
    from pipeline.serving.http.users import read_users

    load = partial(pipeline.load, model, normalisation=arguments.normalisation, plugins=tuple(arguments.plugins))
    replicas = 1 if arguments.replicas is None else arguments.replicas
    users, limits = read_users(arguments.tokens, os.environ), limits_of(arguments.limits)
    return serve_http(model, load, users, limits, ServeOptions(host, port, replicas), partial(print, flush=True))


if __name__ == "__main__":
    run(main)
