"""Options that several jobs have."""

from __future__ import annotations

import argparse

EXIT_CODES = (
    "exit codes: 0 done, 1 MLflow refused a call, 2 wrong recipe, arguments, data or resume, 3 cluster error, "
    "4 losses are not finite, 5 a task raised an error, 6 a task ends every worker, 7 the run's folder cannot be "
    "written, 8 another process took over the run, 9 two workers disagree, 70 internal error, 130 Ctrl-C, 143 SIGTERM "
    "(--resume continues after the last finished step)"
)

ADDRESS = (
    "HOST:PORT of a Ray head, auto, or local to start a Ray here; default: RAY_ADDRESS, else auto in a Ray job, else "
    "local"
)


def add_executor(described: argparse.ArgumentParser) -> None:
    """Where the work is done: ``--executor`` and ``--address``."""
    described.add_argument(
        "--executor", choices=["serial", "ray"], default="ray", help="this process, or Ray workers (default)"
    )
    described.add_argument("--address", help=ADDRESS)


def add_model(described: argparse.ArgumentParser) -> None:
    """The model that a job serves: ``MODEL``."""
    described.add_argument(
        "model",
        metavar="MODEL",
        help="a run's folder, or at MLFLOW_TRACKING_URI models:/NAME@champion, models:/NAME/3, models:/m-ID, runs:/ID",
    )


def add_plugins(described: argparse.ArgumentParser) -> None:
    """The option ``--import`` of a job that reads a recipe."""
    described.add_argument(
        "--import",
        dest="plugins",
        metavar="MODULE",
        action="append",
        default=[],
        help="a Python module with an algorithm, network, source or loss of your own; may be given again",
    )


def import_plugins(asked: argparse.Namespace) -> None:
    """Import what ``--import`` names, here; workers do the same. Raises ``ConfigError`` where that fails."""
    from pipeline.core import plugins

    plugins.import_plugins(asked.plugins)
