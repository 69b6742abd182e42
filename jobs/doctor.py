"""``python -m jobs.doctor``: checks that this machine or a cluster has what a recipe needs, and names each fix."""

from __future__ import annotations

import argparse
import sys

from jobs import run
from jobs.options import ADDRESS, add_plugins, import_plugins


def parser() -> argparse.ArgumentParser:
    described = argparse.ArgumentParser(
        prog="python -m jobs.doctor",
        description="Check versions, cluster, token, MLflow, disk and threads; one line each, with its fix.",
        epilog="exit codes: 0 all good, 3 something fails",
    )
    described.add_argument("--recipe", default="sinusoid_maml", help="a packaged recipe or a .yaml file")
    described.add_argument(
        "overrides", nargs="*", metavar="key=value", help="for example workers.count=8 tracking.uri=http://HOST:5000"
    )
    described.add_argument("--address", help=ADDRESS)
    described.add_argument("--output", metavar="DIR", default="runs", help="a folder or URI where runs are to be kept")
    add_plugins(described)
    return described


def main() -> None:
    arguments = parser().parse_intermixed_args()
    import_plugins(arguments)

    from pipeline.config import load
    from pipeline.core.failures import ClusterError
    from pipeline.runs.doctor import examine
    from pipeline.runs.report import findings_table

    findings = list(examine(load(arguments.recipe, arguments.overrides), arguments.address, arguments.output))
    print(findings_table(findings), flush=True)
    failed = sum(not one.good for one in findings)
    if failed:
        sys.exit(ClusterError.exit_code)


if __name__ == "__main__":
    run(main)
