"""``python -m jobs.serve MODEL``: serves a trained model to many users over HTTP."""

from __future__ import annotations

import argparse
import os
from functools import partial

from jobs import run
from jobs.options import ADDRESS, add_plugins, import_plugins


def parser() -> argparse.ArgumentParser:
    described = argparse.ArgumentParser(
        prog="python -m jobs.serve", description="Serve a trained model over HTTP, with Ray Serve."
    )
    described.add_argument("model", metavar="MODEL", help="a run's folder or its URI")
    described.add_argument(
        "limits", nargs="*", metavar="limit=N", help="for example sessions=100 idle_s=600 body_bytes=1000000"
    )
    described.add_argument("--host", default="127.0.0.1", help="the address to listen on (default: 127.0.0.1)")
    described.add_argument("--port", type=int, default=8000, help="0 for a free one (default: 8000)")
    described.add_argument(
        "--tokens", metavar="FILE", help="a line name:token for each user, mode 600; default: METAFLEET_TOKENS"
    )
    described.add_argument("--replicas", type=int, default=1, help="processes with a model of their own (default: 1)")
    described.add_argument("--normalisation", help="predict under another mode than the run's")
    described.add_argument("--address", help=ADDRESS)
    add_plugins(described)
    return described


def main() -> None:
    arguments = parser().parse_intermixed_args()
    import_plugins(arguments)

    import pipeline
    from pipeline.runs.serve import ServeOptions, serve_http
    from pipeline.serving.http.limits import limits_of
    from pipeline.serving.http.users import read_users

    users = read_users(arguments.tokens, os.environ)
    options = ServeOptions(arguments.host, arguments.port, arguments.replicas, arguments.address)
    load = partial(
        pipeline.load, arguments.model, normalisation=arguments.normalisation, plugins=tuple(arguments.plugins)
    )
    serve_http(arguments.model, load, users, limits_of(arguments.limits), options, partial(print, flush=True))


if __name__ == "__main__":
    run(main)
