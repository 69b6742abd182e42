"""``python -m jobs.compare PROTOCOL``: trains every method within one budget and evaluates all on the same tasks."""

from __future__ import annotations

import argparse
from contextlib import closing
from pathlib import Path

from jobs import run
from jobs.options import EXIT_CODES, add_executor, add_plugins, import_plugins


def parser() -> argparse.ArgumentParser:
    described = argparse.ArgumentParser(
        prog="python -m jobs.compare",
        description="Train every method of a protocol within one budget, a method at a time, and print the table. "
        "Finished methods are recorded and not repeated: the same command continues.",
        epilog=EXIT_CODES,
    )
    described.add_argument("protocol", help="a packaged protocol or a path to a .yaml file")
    described.add_argument("overrides", nargs="*", metavar="key=value", help="for every recipe: source.path=my.arrow")
    described.add_argument("--only", metavar="METHOD,…", type=methods, default=[], help="these methods of the protocol")
    described.add_argument("--print", action="store_true", help="train nothing: print the table of finished methods")
    described.add_argument("--results", type=Path, help="where results are kept; default results/PROTOCOL")
    described.add_argument("--output", metavar="DIR", help="where the runs lie; default runs/compare")
    add_executor(described)
    described.add_argument("--workers", type=int, metavar="N", default=2, help="Ray workers (2)")
    add_plugins(described)
    return described


def methods(text: str) -> list[str]:
    return text.split(",")


def main() -> None:
    asked = parser().parse_intermixed_args()
    import_plugins(asked)

    from pipeline.comparison.compare import compare
    from pipeline.comparison.leaderboard import table
    from pipeline.comparison.protocol import read
    from pipeline.runs.recorded import RESULTS, load
    from pipeline.runs.report import Progress
    from pipeline.runs.run import RunOptions

    kept, protocol = asked.results or RESULTS / Path(asked.protocol).stem, read(asked.protocol)
    if not asked.print:
        overrides = [*asked.overrides, f"workers.count={asked.workers}"]
        options = RunOptions(asked.executor, asked.address, asked.output)
        with closing(Progress()) as progress:
            compare(asked.protocol, asked.only, overrides, options, kept, progress)
    done = [one for one in load(kept) if not asked.only or one.method in asked.only]
    print(f"\n{table(done, protocol.columns, protocol.against)}")


if __name__ == "__main__":
    run(main)
