"""Convert published data, or images of your own, to the file that tasks are sampled from."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from jobs import run

PUBLISHED = {
    "omniglot": "Omniglot's 1623 characters, 28×28, ink = 1, from its two zips; PATH may be the word download",
    "g2p": "words and their phones in 126 languages, from the zips of WikiPron and of SIGMORPHON 2021 and 2022",
    "inflection": "lemmas and their forms in 79 languages, from the zip of SIGMORPHON 2019",
    "captions": "Multi30k's captions as translation; needs the extra text, and half a minute",
}


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m jobs.ingest", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    for name, holds in PUBLISHED.items():
        published = commands.add_parser(name, help=holds)
        published.add_argument("--from", dest="path", type=Path, required=True, metavar="PATH", help="a folder")
        published.add_argument("--to", type=Path, default=Path(f"data/{name}.arrow"), metavar="FILE")
    folder = commands.add_parser("folder", help="your own images as CLASS/IMAGE or {train,val,test}/CLASS/IMAGE")
    folder.add_argument("path", type=Path, metavar="PATH")
    folder.add_argument("--to", type=Path, metavar="FILE", help="default: data/NAME OF PATH.arrow")
    folder.add_argument("--size", type=int, default=84, help="side in pixels; images become squares (default 84)")
    folder.add_argument("--mode", choices=("grey", "rgb"), default="rgb")
    folder.add_argument("--split", type=shares, metavar="TRAIN,VAL,TEST", help="shares of classes: 0.64,0.16,0.20")
    folder.add_argument("--seed", type=int, default=0, help="draws the classes of the split (default 0)")
    folder.add_argument("--skip-unreadable", action="store_true", help="leave out what cannot be read, and say so")
    folder.add_argument("--min-images", type=int, default=1, metavar="N", help="leave out classes with fewer")
    return parser


def shares(text: str) -> tuple[float, ...]:
    return tuple(float(share) for share in text.split(","))


def main() -> None:
    asked = parser().parse_args()
    from pipeline.tasks.ingest import captions, folder, g2p, inflection, omniglot

    notes, to = list[str](), asked.to
    if asked.command == "folder":
        chosen = (asked.size, asked.mode, asked.split, asked.seed, asked.skip_unreadable, asked.min_images)
        to = to or Path("data") / f"{asked.path.resolve().name}.arrow"
        file, notes = folder.ingest(asked.path, to, folder.Options(*chosen))
    elif asked.command == "omniglot":
        file = omniglot.ingest(omniglot.archives_of(asked.path), to)
    else:
        file, notes = {"g2p": g2p, "inflection": inflection, "captions": captions}[asked.command].ingest(asked.path, to)
    print(*notes, sep="\n", end="\n" * bool(notes), file=sys.stderr)
    print(f"{file.summary()}\nfile {to}")


if __name__ == "__main__":
    run(main)
