"""``python -m jobs.register RUN --as NAME``: register a run's model in MLflow, as the champion where it is better."""

from __future__ import annotations

import argparse

from jobs import run
from jobs.options import add_plugins, import_plugins


def parser() -> argparse.ArgumentParser:
    described = argparse.ArgumentParser(
        prog="python -m jobs.register",
        description="Register the model of a run. It becomes NAME@champion as the first version, or where it is better "
        "than the champion on the same evaluation tasks: the 95%% interval of the paired difference excludes 0.",
    )
    described.add_argument(
        "run", metavar="RUN", help="the run's folder or its URI; or a run's id or models:/m-ID at MLFLOW_TRACKING_URI"
    )
    described.add_argument("--as", dest="name", metavar="NAME", required=True, help="the registered model's name")
    add_plugins(described)
    return described


def main() -> None:
    arguments = parser().parse_args()
    import_plugins(arguments)

    from pipeline.runs.registering import register_run

    made = register_run(arguments.run, arguments.name)
    print(f"models:/{made.name}/{made.version}: {made.why}")
    print(f"to use it: pipeline.load('models:/{made.name}/{made.version}')")


if __name__ == "__main__":
    run(main)
