"""``make bench``: every way to train against a loop by hand; or what safety and an absent MLflow cost."""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path
from typing import Any

from jobs import run

SAFETY = ("sinusoid_maml", "omniglot_maml_5w1s")


def seconds(text: str) -> float:
    if 1 <= float(text) <= 3600:
        return float(text)
    raise argparse.ArgumentTypeError(f"{text} is not from 1 to 3600")


def parser() -> argparse.ArgumentParser:
    described = argparse.ArgumentParser(
        prog="python -m tests.bench",
        description="Measure training against a loop written by hand, by turns, in about 15 minutes; make bench ARGS=… "
        "does the same.",
    )
    described.add_argument("--only", action="append", metavar="NAME", help="one scenario; may be repeated")
    described.add_argument("--omniglot", type=Path, default=Path("data/omniglot.arrow"), help="the ingested images")
    described.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    described.add_argument(
        "--quick", action="store_true", help="two short turns each: that it runs, and no measurement"
    )
    described.add_argument("--json", type=Path, metavar="FILE", help="write the measurements here, after each scenario")
    described.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE", help="changes to every recipe")
    libraries = "a Python that has learn2learn, TorchOpt or higher beside our requirements; default: this one"
    described.add_argument("--libraries", default=sys.executable, metavar="PYTHON", help=libraries)
    instead = described.add_mutually_exclusive_group()
    instead.add_argument("--print", type=Path, metavar="FILE", help="instead: a file of --json as Markdown")
    instead.add_argument("--safety", action="store_true", help="instead: with checkpoints and journal against without")
    taken_away = "instead: sinusoid_maml while MLflow is up, hung, answers 500 and is gone, for so long each (60)"
    instead.add_argument("--outages", metavar="SECONDS", type=seconds, nargs="?", const=60.0, help=taken_away)
    return described


def main() -> None:
    arguments = parser().parse_args()
    if arguments.print is not None:
        from tests.bench import speed_page

        sys.stdout.write(speed_page.page(speed_page.read(arguments.print)))
        return
    with tempfile.TemporaryDirectory() as folder:
        if arguments.outages is None and not arguments.safety:
            from tests.bench import speeds

            problems = speeds.measure(arguments, Path(folder))
        else:
            problems = costs(arguments, Path(folder))
    print(*(f"PROBLEM: {one}" for one in problems), sep="\n", end="\n" if problems else "")
    sys.exit(1 if problems else 0)


def costs(arguments: argparse.Namespace, folder: Path) -> list[str]:
    """What safety or an absent MLflow costs."""
    from pipeline.core.failures import ConfigError
    from pipeline.runs.report import Progress
    from tests.bench import outages, safety

    found: list[Any]
    if arguments.outages is not None:
        found = list(outages.outages(arguments.outages, folder, Progress(sys.stderr).note))
        print(outages.outage_table(found))
    else:
        for name in set(arguments.only or ()) - set(SAFETY):
            raise ConfigError(f"--only: {name!r} is not measured with --safety; there are {', '.join(SAFETY)}")
        images = {SAFETY[1]: [f"source.path={arguments.omniglot}"]}
        chosen = [name for name in SAFETY if name in (arguments.only or SAFETY)]
        found = [safety.price(name, images.get(name, []), folder) for name in chosen]
        print(safety.price_table(found))
    return [problem for one in found for problem in one.problems()]


if __name__ == "__main__":
    run(main)
