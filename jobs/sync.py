"""``python -m jobs.sync DIR``: sends to MLflow what it missed of a run's journal, and ends the run there."""

from __future__ import annotations

import argparse

from jobs import run
from jobs.options import add_plugins, import_plugins


def parser() -> argparse.ArgumentParser:
    described = argparse.ArgumentParser(prog="python -m jobs.sync", description="Send a run's journal to MLflow.")
    described.add_argument("folder", metavar="DIR", help="the run's folder, or its URI")
    described.add_argument(
        "overrides", nargs="*", metavar="tracking.uri=…", help="where MLflow is now, if not where the run left it"
    )
    add_plugins(described)
    return described


def main() -> None:
    arguments = parser().parse_args()
    import_plugins(arguments)

    from pipeline.runs.report import key_values
    from pipeline.runs.sync import sync_run
    from pipeline.tracking.uri import ui_rows

    synced = sync_run(arguments.folder, arguments.overrides)
    rows = {"MLflow run": f"{synced.run}, {synced.status}", "entries": str(synced.entries)}
    print(key_values(rows | ui_rows(synced.command, synced.link)))


if __name__ == "__main__":
    run(main)
