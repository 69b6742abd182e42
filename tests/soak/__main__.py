"""``make soak``: a run that is broken every few seconds must end as if nothing had happened."""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from jobs import run


def parser() -> argparse.ArgumentParser:
    described = argparse.ArgumentParser(
        prog="python -m tests.soak",
        description="Train with a fault every 2 to 5 seconds, then the same without; make soak ARGS=… does the same.",
    )
    described.add_argument("--minutes", type=float, default=10.0, help="about how long both take together (default 10)")
    described.add_argument("--chaos-seed", type=int, default=0, help="which faults, and when (default 0)")
    return described


def main() -> None:
    arguments = parser().parse_args()

    from tests.soak.soak import soak

    def say(text: str) -> None:
        print(text, flush=True)

    folder = Path(tempfile.mkdtemp(prefix="soak-"))
    problems = soak(arguments.minutes, arguments.chaos_seed, folder, say)
    for problem in problems:
        say(f"PROBLEM: {problem}")
    say(f"everything lies in {folder}")
    sys.exit(1 if problems else 0)


if __name__ == "__main__":
    run(main)
