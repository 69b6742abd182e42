"""``python -m jobs.serve MODEL``: answers requests over HTTP with a trained model."""

from __future__ import annotations

import argparse
import os
from functools import partial

from jobs import run
from jobs.options import ADDRESS, add_model, add_plugins, import_plugins
from pipeline.core.failures import ConfigError

OF_RAY = ("limits", "tokens", "replicas", "normalisation", "address")


def parser() -> argparse.ArgumentParser:
    described = argparse.ArgumentParser(prog="python -m jobs.serve", description="Serve a trained model over HTTP.")
    add_model(described)
    backend = "MLflow's scoring server (default; docs/serving.md), or Ray Serve with sessions (docs/serving-http.md)"
    described.add_argument("--backend", choices=("mlflow", "ray"), default="mlflow", help=backend)
    described.add_argument("--host", default="127.0.0.1", help="the address to listen at (default: this machine alone)")
    described.add_argument("--port", type=int, default=8000, help="default: 8000; Ray Serve finds a free one for 0")
    ray = described.add_argument_group("with --backend ray")
    ray.add_argument("limits", nargs="*", metavar="limit=N", help="such as sessions=100 idle_s=600 body_bytes=1000000")
    ray.add_argument("--tokens", metavar="FILE", help="lines name:token, mode 600 (default: METAFLEET_TOKENS)")
    ray.add_argument("--replicas", type=int, metavar="N", help="processes with a model of their own (default: 1)")
    ray.add_argument("--normalisation", help="predict under another mode than the run's")
    ray.add_argument("--address", help=ADDRESS)
    add_plugins(described)
    return described


def main() -> None:
    arguments = parser().parse_intermixed_args()
    import_plugins(arguments)
    if arguments.backend == "ray":
        with_ray(arguments)
    elif given := [name for name in OF_RAY if getattr(arguments, name)]:
        raise ConfigError(f"{given[0]}: has no effect on MLflow's scoring server; add --backend ray, or leave it out")
    else:
        from pipeline.runs.scoring_server import serve_with_mlflow

        serve_with_mlflow(arguments.model, arguments.host, arguments.port)


def with_ray(asked: argparse.Namespace) -> None:
    import pipeline
    from pipeline.runs.serve import ServeOptions, serve_http
    from pipeline.serving.http.limits import limits_of
    from pipeline.serving.http.users import read_users

    users = read_users(asked.tokens, os.environ)
    options = ServeOptions(asked.host, asked.port, asked.replicas or 1, asked.address)
    load = partial(pipeline.load, asked.model, normalisation=asked.normalisation, plugins=tuple(asked.plugins))
    serve_http(asked.model, load, users, limits_of(asked.limits), options, partial(print, flush=True))


if __name__ == "__main__":
    run(main)
