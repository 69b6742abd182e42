"""``make docs``: write the pages of algorithms, recipes and results again, as they stand."""

from __future__ import annotations

import argparse

from jobs import run


def parser() -> argparse.ArgumentParser:
    described = argparse.ArgumentParser(
        prog="python -m docs.write",
        description="Write docs/algorithms.md, docs/recipes.md and docs/results.md; make docs ARGS=… does the same.",
    )
    described.add_argument(
        "--check", action="store_true", help="write nothing; exit code 2 if a page is not what it is made of"
    )
    return described


def main() -> None:
    arguments = parser().parse_args()

    from pipeline.comparison import pages

    for path in pages.check() if arguments.check else pages.write():
        print(f"{path} is what the registry and the results give")


if __name__ == "__main__":
    run(main)
