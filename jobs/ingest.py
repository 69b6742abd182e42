"""Convert published data, or data of your own, to the file that tasks are sampled from."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from jobs import run
from jobs.own_data import add_own, ingest_own

PUBLISHED = {
    "omniglot": "Omniglot's 1623 characters, 28×28, ink = 1, from its two zips; PATH may be the word download",
    "cifar100": "CIFAR-100's 100 classes, 32×32, split as CIFAR-FS and as FC100, from train/CLASS and test/CLASS",
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
    add_own(commands)
    return parser


def main() -> None:
    asked = parser().parse_args()
    from pipeline.tasks.ingest import captions, cifar100, g2p, inflection, omniglot

    notes, to, lines = list[str](), asked.to, list[str]()
    if asked.command not in PUBLISHED:
        to = to or Path("data") / f"{asked.path.resolve().name}.arrow"
        file, notes, lines = ingest_own(asked, to)
    elif asked.command == "omniglot":
        file = omniglot.ingest(omniglot.archives_of(asked.path), to)
    else:
        others = {"cifar100": cifar100, "g2p": g2p, "inflection": inflection, "captions": captions}
        file, notes = others[asked.command].ingest(asked.path, to)
    print(*notes, sep="\n", end="\n" * bool(notes), file=sys.stderr)
    print(f"{file.summary()}\nfile {to}", *lines, sep="\n")


if __name__ == "__main__":
    run(main)
