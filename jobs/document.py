"""``python -m jobs.document``: write docs/algorithms.md anew, from what every algorithm says of itself."""

from __future__ import annotations

import argparse

from jobs import run


def parser() -> argparse.ArgumentParser:
    described = argparse.ArgumentParser(
        prog="python -m jobs.document", description="Write the page of all algorithms; run it from a checkout."
    )
    described.add_argument(
        "--check", action="store_true", help="write nothing; exit code 2 if the page is not as it was"
    )
    return described


def main() -> None:
    arguments = parser().parse_args()

    from pipeline import document

    if arguments.check:
        document.check()
    else:
        document.write()
    print(f"{document.PAGE} is what the registry gives")


if __name__ == "__main__":
    run(main)
