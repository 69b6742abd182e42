"""The catalogue of bad input, B1 to B32: each row is a broken fixture, a command line, and how it must end."""

from __future__ import annotations

import contextlib
import importlib
import io
import json
import shutil
import sys
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple
from unittest import mock

import numpy as np
import pyarrow as pa
import yaml
from PIL import Image

import jobs
from pipeline.tasks import classfile

SERIAL = ("--executor", "serial")


class Ended(NamedTuple):
    """How a job ended."""

    code: object
    out: str
    err: str


def run(job: str, *arguments: object) -> Ended:
    """A job in this process: what a new one adds is seconds of imports."""
    out, err = io.StringIO(), io.StringIO()
    main = importlib.import_module(f"jobs.{job}").main
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            with mock.patch.object(sys, "argv", [f"jobs.{job}", *map(str, arguments)]):
                jobs.run(main)
        except SystemExit as ended:
            return Ended(ended.code, out.getvalue(), err.getvalue())


class Place(NamedTuple):
    """Where a row finds its fixtures: an empty folder, a good image file and the folder of a finished run."""

    folder: Path
    images: Path
    trained: Path

    def file(self, content: str | bytes, name: str = "mine.yaml") -> Path:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    def picture(self, name: str, mode: str = "RGB", side: int = 6, *, flat: bool = False) -> None:
        """A picture of noise under ``in/``, another for each name."""
        path = self.folder / "in" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        noise = np.random.default_rng(zlib.crc32(name.encode())).integers(0, 256, (side, side, 3), np.uint8)
        Image.fromarray(noise * 0 if flat else noise).convert(mode).save(path)

    def images_recipe(self, path: Path | None = None) -> Path:
        """A recipe of three-way tasks on the image file."""
        shape = {"ways": 3, "shots": 1, "queries": 2}
        recipe = {
            "steps": 2,
            "tasks_per_step": 4,
            "chunk_size": 2,
            "algorithm": {"name": "protonet"},
            "net": {"name": "conv4", "channels": 8},
            "source": {"name": "images", "path": str(path or self.images)},
            "normalisation": "transductive",
            "task": {"train": shape, "eval": shape},
            "outer": {"model": {"lr": 0.01}},
        }
        return self.file(yaml.safe_dump(recipe), "images.yaml")

    def run(self) -> Path:
        """A copy of the finished run, to be broken."""
        return Path(shutil.copytree(self.trained, self.folder / "run"))


@dataclass(frozen=True)
class Row:
    """``says`` is a pattern of the one line on stderr; nothing may be written unless ``code`` is 0."""

    id: str
    what: str
    command: Callable[[Place], tuple[object, ...]]
    says: str
    code: int = 2


def train(id: str, what: str, says: str, *changes: str, code: int = 2) -> Row:
    return Row(id, what, lambda place: ("train", "sinusoid_maml", *changes, *SERIAL), says, code)


def recipe(id: str, what: str, text: str | bytes, says: str) -> Row:
    return Row(id, what, lambda place: ("train", place.file(text), *SERIAL), says)


def images(id: str, what: str, says: str, *changes: str) -> Row:
    return Row(id, what, lambda place: ("train", place.images_recipe(), *changes, *SERIAL), says)


def arrow(id: str, what: str, says: str, spoil: Callable[[Path], object]) -> Row:
    def command(place: Place) -> tuple[object, ...]:
        path = Path(shutil.copy(place.images, place.folder / "bad.arrow"))
        spoil(path)
        return ("train", place.images_recipe(path), *SERIAL)

    return Row(id, what, command, rf"bad\.arrow: {says}(;|, or) make it again with `python -m jobs\.ingest`")


def ingest(id: str, what: str, says: str, draw: Callable[[Place], object], *options: str, code: int = 2) -> Row:
    def command(place: Place) -> tuple[object, ...]:
        (place.folder / "in").mkdir()
        draw(place)
        to = place.folder / "out" / "pictures.arrow"
        return ("ingest", "folder", place.folder / "in", "--to", to, "--size", 8, *THIRDS, *options)

    return Row(id, what, command, says, code)


def resume(id: str, what: str, says: str, spoil: Callable[[Path], object], *changes: str, code: int = 2) -> Row:
    def command(place: Place) -> tuple[object, ...]:
        folder = place.run()
        spoil(folder)
        return ("train", folder / "recipe.yaml", *changes, *SERIAL, "--resume", "--output", folder)

    return Row(id, what, command, says, code)


def flip(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 0xFF
    path.write_bytes(data)


def flip_pixels(path: Path) -> None:
    data, pixels = path.read_bytes(), classfile.read(path).images
    path.write_bytes(data.replace(pixels.tobytes(), (pixels ^ 1).tobytes()))


def rewrite(path: Path, change: Callable[[pa.RecordBatch], pa.RecordBatch], **options: object) -> None:
    """The same image file with another record batch."""
    batch = change(pa.ipc.open_file(pa.py_buffer(path.read_bytes())).get_batch(0))
    with pa.ipc.new_file(str(path), batch.schema, options=pa.ipc.IpcWriteOptions(**options)) as writer:
        writer.write_batch(batch)


def one_lonely_image(path: Path) -> None:
    """Twelve classes of four images and one of a single image."""
    pixels = np.random.default_rng(0).integers(0, 256, (49, 16, 16), dtype=np.uint8)
    names = [f"class {number}" for number in range(13)]
    splits = {"random": {"train": list(range(8)), "val": [8], "test": [9, 10, 11, 12]}}
    classfile.write(path, pixels, [1] + [4] * 12, names, splits, "made up")


def lonely(place: Place) -> tuple[object, ...]:
    one_lonely_image(place.folder / "lonely.arrow")
    return ("train", place.images_recipe(place.folder / "lonely.arrow"), *SERIAL)


def three(place: Place, *more: str) -> None:
    for name in ("ant", "bee", "cat", *more):
        place.picture(f"{name}/0.png")


def spoilt_text(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def without_metadata(batch: pa.RecordBatch) -> pa.RecordBatch:
    return batch.replace_schema_metadata({})


def null_label(batch: pa.RecordBatch) -> pa.RecordBatch:
    labels = [None, *batch.column("label").to_pylist()[1:]]
    return batch.set_column(1, "label", pa.array(labels, pa.int32()))


def other_format(batch: pa.RecordBatch) -> pa.RecordBatch:
    about = json.loads(batch.schema.metadata[b"metafleet"])
    return batch.replace_schema_metadata({b"metafleet": json.dumps(about | {"format": 99})})


THIRDS = ("--split", ".4,.3,.3")

ROWS = [
    train(
        "B1", "an unknown key", r"algorithm\.inner_lrr: unknown key, did you mean inner_lr\?", "algorithm.inner_lrr=1"
    ),
    recipe(
        "B1", "an unknown key in a file", "base: sinusoid_maml\nstepss: 7\n", r"mine\.yaml: stepss: unknown key, did"
    ),
    recipe(
        "B1", "an unknown base", "base: sinusoid_mml\n", r"'sinusoid_mml': no packaged .* did you mean sinusoid_maml"
    ),
    recipe("B1", "a base that is not there", "base: sub/gone.yaml\n", r"recipe \S*sub/gone\.yaml: cannot be read"),
    recipe("B1", "a base that is no name", "base: [a]\n", r"base: expected a packaged name or a path, found \['a'\]"),
    train(
        "B2",
        "a number in quotes",
        r"inner_lr: expected a number, found '1e-3'",
        "algorithm.inner_lr='1e-3'",
    ),
    train(
        "B3", "text for a number", r"shots: expected a whole number or 'auto', found 'five'", "task.train.shots=five"
    ),
    train(
        "B3", "a fraction for a number", r"shots: expected a whole number or 'auto', found 5\.0", "task.train.shots=5.0"
    ),
    train("B3", "true for a number", r"shots: expected a whole number or 'auto', found True", "task.train.shots=true"),
    train("B3", "a number for a section", r"tracking: expected keys and values, found 3", "tracking=3"),
    train("B4", "a rate of 0", r"lr: expected more than 0, found 0", "outer.model.lr=0"),
    train("B4", "no finite rate", r"lr: expected a finite number, found nan", "outer.model.lr=.nan"),
    train("B4", "no steps", r"steps: expected more than 0, found 0", "steps=0"),
    train("B4", "no tasks", r"tasks_per_step: expected more than 0", "tasks_per_step=0"),
    train("B4", "tasks beyond memory", r"tasks_per_step: .* 1048576 or less", "tasks_per_step=1000000000000"),
    train("B4", "shots beyond memory", r"shots: .* 65536 or less", "task.train.shots=100000000000"),
    train(
        "B4", "a number of 5000 digits", r"steps=: no valid YAML: a value that cannot be read", f"steps={'9' * 5000}"
    ),
    train("B4", "a date that is none", r"name=: no valid YAML: a value .*month must be", "name=2026-13-45"),
    recipe("B5", "a key twice", "seed: 1\nsteps: 2\nseed: 3\n", r"duplicate key 'seed' \(lines 1 and 3\)"),
    recipe("B5", "a tab", "net:\n\tname: mlp\n", r"no valid YAML: .*'\\t' .*line 2"),
    recipe("B5", "an empty file", "", r"expected keys and values, found None"),
    recipe("B5", "a list", "- a\n", r"expected keys and values, found \['a'\]"),
    recipe("B5", "no text at all", b"\xff\xfe\x00", r"mine\.yaml: cannot be read"),
    images(
        "B6",
        "more ways than classes",
        r"ways is 20, and there are 12 .* use task\.train\.ways=12 task\.eval\.ways=8",
        "task.train.ways=20",
    ),
    images(
        "B6",
        "more ways in evaluation",
        r"ways is 9, and there are 8 classes; use task\.eval\.ways=8",
        "task.eval.ways=9",
    ),
    images(
        "B7",
        "more images than a class has",
        r"task\.train takes 1 shots \+ 30 queries of each class, and 12 classes have fewer: 'pattern 00' \(20\), .*"
        r"; use task\.train\.queries=19 task\.eval\.queries=19",
        "task.train.queries=30",
    ),
    Row("B8", "a class of one image", lonely, r"and 1 classes have fewer: 'class 0' \(1\)"),
    ingest(
        "B8",
        "a class of no image",
        r"1 class \(dog\) without images; remove the folders or pass --skip-unreadable",
        lambda place: (three(place), (place.folder / "in" / "dog").mkdir()),
    ),
    ingest(
        "B9",
        "a class in two splits",
        r"1 class \(ant in train and test\) in two splits",
        lambda place: [place.picture(f"{part}/0.png") for part in ("train/ant", "val/bee", "test/ant")],
    ),
    ingest(
        "B10",
        "half a picture",
        r"1 unreadable image \(ant/1\.png \(",
        lambda place: (three(place), place.file((place.folder / "in/ant/0.png").read_bytes()[:50], "in/ant/1.png")),
    ),
    ingest(
        "B10",
        "pictures that are none",
        r"4 unreadable images \(ant/0\.png \(.*--skip-unreadable",
        lambda place: (
            three(place),
            [place.file("text"[:n], f"in/ant/{n}.png") for n in range(4)],
        ),
    ),
    ingest(
        "B11",
        "pictures of many modes",
        r"converted: 1 images from mode P to RGB",
        lambda place: (three(place), place.picture("ant/1.gif", "P"), place.picture("bee/1.png", "RGBA")),
        code=0,
    ),
    ingest(
        "B12",
        "a picture of too many pixels",
        r"8000×8001 pixels, the limit is 64 million",
        lambda place: (three(place), Image.new("1", (8000, 8001)).save(place.folder / "in/ant/1.png")),
    ),
    ingest(
        "B13",
        "names of any language",
        r"",
        lambda place: three(place, "žluťoučký kůň", "#7", "魚 🐟", "x" * 200),
        code=0,
    ),
    ingest("B14", "an empty folder", r"no images found \(looked for CLASS/IMAGE .*; saw nothing\)", lambda place: None),
    ingest(
        "B14",
        "a folder of texts",
        r"no images found .*; saw 2 \.txt\)",
        lambda place: [place.file("text", f"in/ant/{name}.txt") for name in "ab"],
    ),
    ingest("B14", "hidden files alone", r"no images found .*; saw nothing", lambda place: place.picture("ant/.0.png")),
    Row(
        "B14",
        "no folder",
        lambda place: ("ingest", "folder", place.folder / "gone"),
        r"gone: No such file or directory",
    ),
    ingest(
        "B15",
        "flat pictures alone",
        r"every image is one flat colour",
        lambda place: [place.picture(f"{name}/0.png", flat=True) for name in "abc"],
    ),
    ingest(
        "B15",
        "a flat picture",
        r"one flat colour: ant/1\.png",
        lambda place: (three(place), place.picture("ant/1.png", flat=True)),
        code=0,
    ),
    arrow("B15", "a null label", "has null rows", lambda path: rewrite(path, null_label)),
    arrow("B16", "an empty file", "is truncated or not an Arrow file", lambda path: path.write_bytes(b"")),
    arrow("B16", "a text", "is truncated or not an Arrow file", lambda path: path.write_text("no images")),
    arrow(
        "B16",
        "half a file",
        "is truncated or not an Arrow file",
        lambda path: path.write_bytes(path.read_bytes()[:5000]),
    ),
    arrow("B16", "no metadata", "has no readable metafleet metadata", lambda path: rewrite(path, without_metadata)),
    arrow("B16", "another format", "is in format 99, this version reads 2", lambda path: rewrite(path, other_format)),
    arrow(
        "B16",
        "a column too few",
        "has the columns image, expected image, label",
        lambda path: rewrite(path, lambda batch: batch.select(["image"])),
    ),
    arrow(
        "B16",
        "compressed",
        "is compressed, so it cannot be mapped",
        lambda path: rewrite(path, lambda batch: batch, compression="zstd"),
    ),
    arrow(
        "B17", "flipped pixels", r"the images of class '.*' \(rows \d+ to \d+\) are not what was written.*", flip_pixels
    ),
    arrow("B17", "a flipped byte in the footer", "is truncated or not an Arrow file", lambda path: flip(path, -10)),
    Row(
        "B16",
        "a file that is not there",
        lambda place: ("train", place.images_recipe(Path("gone.arrow")), *SERIAL),
        r"source\.path: \S*gone\.arrow does not exist; make it with",
    ),
    train(
        "B18",
        "a network larger than any memory",
        r"net: its parameters do not fit into this machine's memory",
        "algorithm={name: mann, hidden: 16384, width: 16384, reads: 256}",
    ),
    train(
        "B19",
        "nobody listens",
        r"tracking\.uri 'http://127\.0\.0\.1:9': no connection; start one with mlflow server",
        "tracking.uri=http://127.0.0.1:9",
    ),
    train(
        "B19", "no address", r"tracking\.uri 'http://\[x': expected http\(s\)://HOST:PORT", "tracking.uri='http://[x'"
    ),
    train(
        "B19",
        "a saved address",
        r"'http://\*\*\*@lab:5000': a run is saved without its password; set MLFLOW_TRACKING_"
        r"USERNAME .* tracking\.uri=http://lab:5000, or",
        "tracking.uri=http://***@lab:5000",
    ),
    train("B20", "a folder for runs", r"no file store, write sqlite:///mlruns/mlflow\.db", "tracking.uri=mlruns"),
    Row(
        "B23",
        "a file for an output",
        lambda place: ("train", *SERIAL, "--output", place.file("mine", "notes")),
        r"--output: \S*notes is a file",
    ),
    Row(
        "B23",
        "an output under a file",
        lambda place: ("train", *SERIAL, "--output", place.file("mine", "notes") / "run"),
        r"--output: \S*notes is a file",
    ),
    Row(
        "B23", "an empty output", lambda place: ("train", *SERIAL, "--output", ""), r"--output: is empty; name a folder"
    ),
    Row("B23", "an output in memory", lambda place: ("train", *SERIAL, "--output", "mock://x"), r"is forgotten when"),
    Row("B23", "an output too long", lambda place: ("train", *SERIAL, "--output", "x" * 300), r"--output: .*too long"),
    Row(
        "B23",
        "an output in use",
        lambda place: ("train", *SERIAL, "--output", place.run()),
        r"already holds a run; pass",
    ),
    train("B24", "nothing to resume", r"--resume: no run of sinusoid_maml", "--resume"),
    resume("B24", "another seed", r"begun with other values: seed: 5 -> 6", lambda folder: None, "seed=6"),
    resume(
        "B24",
        "damaged checkpoints",
        r"no valid checkpoint: checkpoint \S+: ",
        lambda folder: [path.write_bytes(b"gone") for path in (folder / "checkpoints").iterdir()],
    ),
    Row("B24", "no run to evaluate", lambda place: ("evaluate", place.folder, *SERIAL), r"no run \(no recipe\.yaml\)"),
    Row(
        "B24",
        "another network to evaluate",
        lambda place: ("evaluate", place.run(), "net.hidden=[7]", *SERIAL),
        r"does not hold this recipe's theta: .* would be dropped; leave out what changes the network",
    ),
    train(
        "B25", "a GPU where there is none", r"numerics\.device: 'cuda' was asked for", "numerics.device=cuda", code=3
    ),
    train(
        "B29",
        "a group of one value",
        r"normalisation: 8 groups of one value each in layer0",
        "normalisation=group",
        "net.hidden=[8]",
    ),
    train(
        "B29",
        "a batch of one",
        r"no gradient reaches .*model/layer0/weight",
        "normalisation=transductive",
        "task.train.shots=1",
        "task.train.queries=1",
    ),
    train("B31", "a negative seed", r"seed: expected 0 or more, found -1", "seed=-1"),
    train("B31", "a huge seed", r"seed: expected less than 18446744073709551616", "seed=18446744073709551616"),
    train("B31", "no seed for evaluation", r"evaluation\.seed: expected a whole number", "evaluation.seed=null"),
]

ELSEWHERE = {
    "B21": "an address where nobody listens needs a process without Ray: tests/unit/test_jobs.py",
    "B22": "versions and tokens that do not fit need a cluster: tests/runtime",
    "B26": "no GPU memory runs out without a GPU",
    "B27": "more workers than CPUs is a note, not an error: the cluster's tests",
    "B28": "serving is a call, not a command: each bad support set and query in tests/unit/test_serving.py",
    "B30": "no code of a user's is imported: an algorithm is a file of the package",
    "B32": "metrics that are not finite: tests/unit/test_tracking.py, test_journal_and_publisher.py; images are bytes",
}
"""Rows that cannot be met from a command line here, and why.

Images lie in Arrow IPC files, never in Parquet, so B16 and B17 are rows of those.
"""
