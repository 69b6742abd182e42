"""The commands of ``jobs.ingest`` for data of one's own: a folder of images, a table, a folder of ``datasets``."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any


def add_own(commands: Any) -> None:
    folder = commands.add_parser("folder", help="your own images as CLASS/IMAGE or {train,val,test}/CLASS/IMAGE")
    table = commands.add_parser(
        "table", help="your own embeddings or other numbers: CSV, Parquet, or .npz with x and y"
    )
    saved = commands.add_parser("hf", help="a folder that datasets' save_to_disk wrote, or Parquet files of the hub")
    for one, what in ((folder, "images"), (table, "rows"), (saved, "rows")):
        one.add_argument("path", type=Path, metavar="PATH")
        one.add_argument("--to", type=Path, metavar="FILE", help="default: data/NAME OF PATH.arrow")
        one.add_argument("--split", type=shares, metavar="TRAIN,VAL,TEST", help="shares of classes: 0.64,0.16,0.20")
        one.add_argument("--seed", type=int, default=0, help="draws the classes of the split (default 0)")
        least = f"--min-{what}"
        one.add_argument(least, type=int, default=1, metavar="N", dest="least", help="leave out classes with fewer")
    for one in (folder, saved):
        one.add_argument("--size", type=int, default=84, help="side in pixels; images become squares (default 84)")
        one.add_argument("--mode", choices=("grey", "rgb"), default="rgb")
        one.add_argument("--skip-unreadable", action="store_true", help="leave out what cannot be read, and say so")
    saved.add_argument("--image", metavar="NAME", help="the column of pictures; without it, columns are numbers")
    for one in (table, saved):
        one.add_argument("--label", default="label", metavar="NAME", help="the column of labels (default label)")
        one.add_argument("--leave-out", type=names, default=(), metavar="NAME,…", help="columns that are no features")
        one.add_argument("--like", type=Path, metavar="FILE", help="standardise as this ingested table does")


def shares(text: str) -> tuple[float, ...]:
    return tuple(float(share) for share in text.split(","))


def names(text: str) -> tuple[str, ...]:
    return tuple(text.split(","))


def ingest_own(asked: argparse.Namespace, to: Path) -> tuple[Any, list[str], list[str]]:
    """The file, a line for each thing that was left out or changed, and the report of what was read."""
    from pipeline.tasks.ingest import folder, hf, table
    from pipeline.tasks.ingest.options import Options, TableOptions
    from pipeline.tasks.ingest.reading import next_command, report

    if asked.command == "folder" or getattr(asked, "image", None):
        options = Options(asked.size, asked.mode, asked.split, asked.seed, asked.skip_unreadable, asked.least)
        pictures = (
            folder.ingest(asked.path, to, options)
            if asked.command == "folder"
            else hf.ingest_pictures(asked.path, to, asked.image, asked.label, options)
        )
        return *pictures, [*report(pictures.file, "images"), next_command(pictures.file, to, "images")]
    chosen = TableOptions(asked.label, asked.leave_out, asked.split, asked.seed, asked.least, asked.like)
    rows = (
        table.ingest(asked.path, to, chosen) if asked.command == "table" else hf.ingest_numbers(asked.path, to, chosen)
    )
    return *rows, [*report(rows.file, "rows"), next_command(rows.file, to, "table")]
