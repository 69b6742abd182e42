"""Convert published image data to the file that image tasks are sampled from."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from jobs import run


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m jobs.ingest", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    omniglot = commands.add_parser("omniglot", help="Omniglot's 1623 characters, 28×28, ink = 1")
    omniglot.add_argument(
        "--from", dest="origin", required=True, metavar="PATH|download", help="folder of the two zips"
    )
    omniglot.add_argument("--to", type=Path, default=Path("data/omniglot.arrow"), metavar="FILE")
    folder = commands.add_parser("folder", help="your own images as CLASS/IMAGE or {train,val,test}/CLASS/IMAGE")
    folder.add_argument("path", type=Path, metavar="PATH")
    folder.add_argument("--to", type=Path, metavar="FILE", help="default: data/NAME OF PATH.arrow")
    folder.add_argument("--size", type=int, default=84, help="side in pixels; images become squares (default 84)")
    folder.add_argument("--mode", choices=("grey", "rgb"), default="rgb")
    folder.add_argument("--split", type=shares, metavar="TRAIN,VAL,TEST", help="shares of classes: 0.64,0.16,0.20")
    folder.add_argument("--seed", type=int, default=0, help="draws the classes of the split (default 0)")
    folder.add_argument("--skip-unreadable", action="store_true", help="leave out what cannot be read, and say so")
    folder.add_argument(
        "--min-images", type=int, default=1, metavar="N", help="leave out classes with fewer, and say so"
    )
    return parser


def shares(text: str) -> tuple[float, ...]:
    return tuple(float(share) for share in text.split(","))


def main() -> None:
    asked = parser().parse_args()
    from pipeline.tasks.ingest import folder, omniglot
    from pipeline.tasks.ingest.options import Options

    if asked.command == "omniglot":
        archives = omniglot.download() if asked.origin == "download" else omniglot.from_folder(Path(asked.origin))
        file, to = omniglot.ingest(archives, asked.to), asked.to
    else:
        to = asked.to or Path("data") / f"{asked.path.resolve().name}.arrow"
        options = Options(asked.size, asked.mode, asked.split, asked.seed, asked.skip_unreadable, asked.min_images)
        file, notes = folder.ingest(asked.path, to, options)
        print(*notes, sep="\n", end="\n" * bool(notes), file=sys.stderr)
    print(f"{file.summary()}\nfile {to}")


if __name__ == "__main__":
    run(main)
