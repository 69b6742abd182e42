"""``python -m jobs.serve MODEL``: answer requests over HTTP with a trained model."""

from __future__ import annotations

import argparse

from jobs import run
from jobs.options import add_model, add_plugins, import_plugins

BACKENDS = ("mlflow",)


def parser() -> argparse.ArgumentParser:
    described = argparse.ArgumentParser(
        prog="python -m jobs.serve",
        description="Serve a trained model over HTTP. docs/serving.md says what a request and its answer have.",
    )
    add_model(described)
    described.add_argument("--backend", choices=BACKENDS, default="mlflow", help="MLflow's scoring server (default)")
    described.add_argument("--host", default="127.0.0.1", help="the address to listen at; default: this machine alone")
    described.add_argument("--port", type=int, default=5001, help="default: 5001")
    add_plugins(described)
    return described


def main() -> None:
    arguments = parser().parse_args()
    import_plugins(arguments)

    from pipeline.runs.scoring_server import serve_with_mlflow

    serve_with_mlflow(arguments.model, arguments.host, arguments.port)


if __name__ == "__main__":
    run(main)
