"""Pictures are prepared by one function at ingest and at serving: any mode, depth, orientation, name and size."""

from __future__ import annotations

import hashlib
import io
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import pipeline
from pipeline.config import validate
from pipeline.core.failures import ConfigError, DataError
from pipeline.core.seeding import Ticket
from pipeline.core.source import TaskShape, TaskShapes
from pipeline.runs.run import RunOptions, train_run
from pipeline.serving.learner import Learner
from pipeline.serving.task import TASK
from pipeline.tasks import classfile
from pipeline.tasks.images import Images
from pipeline.tasks.ingest import folder, omniglot
from pipeline.tasks.ingest.options import Options
from pipeline.tasks.preparation import PicturePreparation
from pipeline.tasks.sequences import Sequences
from tests.unit.virtual import Recorder

SIZE = 12
RNG = np.random.default_rng(16)


def noise(*shape: int, top: int = 256, kind: type = np.uint8) -> np.ndarray:
    return RNG.integers(0, top, shape).astype(kind)


def turned() -> Image.Exif:
    exif = Image.Exif()
    exif[0x112] = 6
    return exif


def odd_pictures(root: Path) -> dict[str, Path]:
    """One picture per class, each with something that a plain conversion would get wrong."""
    colours = Image.fromarray(noise(20, 31, 3))
    frames = [Image.fromarray(noise(15, 15, 3)).convert("P") for _ in range(3)]
    written = {
        "transparent": (Image.fromarray(noise(17, 23, 4)), "x.png", {}),
        "deep grey": (Image.fromarray(noise(18, 18, top=1 << 12, kind=np.uint16)), "x.png", {}),
        "turned by the camera": (colours, "x.jpg", {"exif": turned()}),
        "for print": (Image.fromarray(noise(16, 22, 4), "CMYK"), "x.jpg", {}),
        "animated": (frames[0], "x.gif", {"save_all": True, "append_images": frames[1:]}),
        "ünïcødé 名 🙂": (colours, "画像 é.webp", {"lossless": True}),
        "one bit": (colours.convert("1"), "x.tif", {}),
    }
    paths = {}
    for name, (image, file, options) in written.items():
        paths[name] = root / name / file
        paths[name].parent.mkdir(parents=True)
        image.save(paths[name], **options)
    return paths


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> dict[str, Path]:
    """Odd pictures by class, in the folder ``test``; beside it ``train`` has two classes of two plain ones."""
    root = tmp_path_factory.mktemp("odd")
    for name in ("plain a", "plain b"):
        (root / "train" / name).mkdir(parents=True)
        for number in range(2):
            Image.fromarray(noise(14, 9, 3)).save(root / "train" / name / f"{number}.png")
    return odd_pictures(root / "test")


@pytest.fixture(scope="module", params=["rgb", "grey"])
def ingested(request, pictures, tmp_path_factory) -> Path:
    to = tmp_path_factory.mktemp(request.param) / "odd.arrow"
    root = next(iter(pictures.values())).parents[2]
    folder.ingest(root, to, Options(SIZE, request.param))
    return to


@pytest.fixture(scope="module")
def learner(ingested) -> Learner:
    """A trained run's, without its data: the preparation comes out of the run's folder."""
    shape = {"ways": 2, "shots": 1, "queries": 1}
    recipe = {
        "name": "odd",
        "steps": 1,
        "tasks_per_step": 2,
        "chunk_size": 2,
        "algorithm": {"name": "protonet"},
        "net": {"name": "conv4", "channels": 8},
        "source": {"name": "images", "path": str(ingested), "split": "folder"},
        "normalisation": "support",
        "task": {"train": shape, "eval": shape},
        "outer": {"model": {"lr": 0.01}},
        "evaluation": {"split": "train", "tasks": 2},
        "tracking": {"uri": f"sqlite:///{ingested.parent}/mlflow.db", "report": False},
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pipeline.tracking.mlflow_tracker.MLflowTracker", lambda uri, experiment: Recorder())
        run = train_run(validate(recipe, "odd"), RunOptions("serial", output=ingested.parent / "run"), Silent())
    return pipeline.load(run.folder)


class Silent:
    """Nobody looks on."""

    def start(self, steps: int, done: int) -> None: ...

    def step(self, step: int, loss: float, metrics: dict[str, float], tasks_per_s: float) -> None: ...

    def note(self, text: str) -> None: ...


def digest(inputs: torch.Tensor | np.ndarray) -> str:
    """Of inputs [N, C, H, W] in [0, 1] as the bytes that they stand for."""
    array = np.asarray(inputs, np.float32)
    pixels = np.rint(array * 255).astype(np.uint8)
    assert np.array_equal(pixels.astype(np.float32) / np.float32(255), array), "values that no pixel has"
    return hashlib.sha256(pixels.tobytes()).hexdigest()


def of_file(file: classfile.ClassFile, name: str) -> str:
    """The digest of the first picture of a class, as ingest wrote it."""
    pixels = file.images[file.offsets[list(file.names).index(name)]]
    channels = pixels[None] if pixels.ndim == 2 else np.moveaxis(pixels, -1, 0)
    return hashlib.sha256(np.ascontiguousarray(channels).tobytes()).hexdigest()


def test_every_picture_is_prepared_at_serving_as_at_ingest(pictures, ingested, learner):
    file = classfile.read(ingested)
    assert len(pictures) == 7
    for name, path in pictures.items():
        expected = of_file(file, name)
        with Image.open(path) as image:
            assert digest(learner.inputs([image], "x")) == expected, name
        assert digest(learner.inputs([path], "x")) == expected, name
        assert digest(learner.inputs([str(path)], "x")) == expected, name
        assert digest(learner.inputs([path.read_bytes()], "x")) == expected, name
    together = learner.inputs(list(pictures.values()), "x")
    assert [digest(one) for one in together] == [of_file(file, name) for name in pictures]


def test_arrays_of_any_size_and_channels_are_prepared_like_their_pictures(learner, tmp_path):
    arrays = [noise(9, 14), noise(20, 11, 3), noise(8, 8, 4), noise(6, 7, top=4000, kind=np.uint16), noise(5, 5, 1)]
    for number, array in enumerate(arrays):
        image = Image.fromarray(array[..., 0] if array.shape[2:] == (1,) else array)
        image.save(tmp_path / f"{number}.png")
    expected = learner.inputs([tmp_path / f"{number}.png" for number in range(len(arrays))], "x")
    assert torch.equal(learner.inputs(arrays, "x"), expected)
    batch = noise(3, 10, 10, 3)
    expected = learner.inputs(list(batch), "x")
    for given in (batch, torch.from_numpy(batch), [Image.fromarray(one) for one in batch]):
        assert torch.equal(learner.inputs(given, "x"), expected)


def test_bytes_of_the_inputs_own_shape_are_scaled_and_values_in_range_pass(learner):
    shape = learner.spec.input_shape
    pixels = noise(4, *shape)
    expected = pixels.astype(np.float32) / 255
    assert np.array_equal(learner.inputs(pixels, "x"), expected)
    assert np.array_equal(learner.inputs(expected, "x"), expected)
    predictor = learner.adapt(pixels, ["a", "b", "a", "b"])
    assert np.array_equal(predictor.outputs(pixels), predictor.outputs(expected))
    assert np.allclose(predictor.probabilities(pixels).sum(1), 1)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (lambda shape: np.full((2, *shape), 2.0), "x: values from 2 to 2, expected 0 to 1 as in training; .* uint8"),
        (lambda shape: np.full((2, *shape), 200), "x: values from 200 to 200, expected 0 to 1"),
        (lambda shape: "a.png", "x: one picture, expected a list of pictures"),
        (lambda shape: noise(5, 5), r"x: one picture of the shape \(5, 5\), expected a list"),
        (lambda shape: noise(5, 5, 3), r"x: one picture of the shape \(5, 5, 3\), expected a list"),
        (lambda shape: noise(5), r"x: shape \(5,\), expected \(N, H, W\)"),
        (lambda shape: [noise(5, 5), "nowhere.png"], r"x\[1\]: 'nowhere.png' No such file or directory"),
        (lambda shape: [noise(5, 5), np.zeros((5, 5))], r"x\[1\]: an array of float64, expected a path"),
        (lambda shape: [noise(5, 5), None], r"x\[1\]: NoneType, expected a path"),
        (lambda shape: [noise(5, 5, 7)], r"x\[0\]: shape \(5, 5, 7\) of uint8, expected \(H, W\)"),
        (lambda shape: [noise(0, 5)], r"x\[0\]: shape \(0, 5\) of uint8"),
        (lambda shape: [b"text"], r"x\[0\]: not a PNG, JPEG"),
        (lambda shape: [Image.new("F", (4, 4))], r"x\[0\]: 32 bits a pixel"),
        (lambda shape: [noise(4, 4, top=65535, kind=np.uint16) | 4096], r"x\[0\]: grey levels up to .* below 4096"),
        (lambda shape: [], r"x: shape \(0,\), expected"),
    ],
)
def test_what_is_no_picture_is_one_line(learner, given, message):
    with pytest.raises(DataError, match=f"^{message}") as raised:
        learner.inputs(given(learner.spec.input_shape), "x")
    assert "\n" not in str(raised.value)


def test_a_run_of_before_takes_no_raw_pictures(learner, pictures):
    before = Learner(learner.algorithm, learner.theta, learner.spec)
    inputs = np.zeros((2, *learner.spec.input_shape), np.float32)
    assert before.inputs(inputs, "x").shape == inputs.shape
    with pytest.raises(DataError, match="x: values from .* expected 0 to 1 as in training"):
        before.inputs(np.full(inputs.shape, 255, np.uint8), "x")
    with pytest.raises(DataError, match="x: "):
        before.inputs(list(pictures.values()), "x")


def test_a_file_says_how_it_was_prepared_and_has_the_same_hash_without(ingested, tmp_path):
    file = classfile.read(ingested)
    how = PicturePreparation.restored(file.preparation)
    assert how == PicturePreparation(SIZE, "rgb" if file.images.ndim == 4 else "grey", 12)
    counts = np.diff(file.offsets).tolist()
    older = classfile.write(tmp_path / "older.arrow", file.images, counts, file.names, file.splits, file.source)
    assert (older.preparation, older.content) == (None, file.content)


def test_ink_of_omniglot_is_bright_and_sequences_are_averaged_as_in_training(tmp_path):
    drawing = Image.fromarray(noise(105, 105, top=2) * 255).convert("1")
    prepared = omniglot.DRAWN.convert(drawing)
    small = np.asarray(drawing.convert("L").resize((28, 28), Image.Resampling.LANCZOS))
    assert np.array_equal(prepared, 255 - small)
    images = np.repeat(prepared[None], 4, 0)
    splits = {"random": {"train": [0, 1]}}
    path = tmp_path / "drawn.arrow"
    classfile.write(path, images, [2, 2], ["a", "b"], splits, "made up", omniglot.DRAWN.saved())
    shapes = TaskShapes(*[TaskShape(2, 1, 1)] * 2)
    for source in (Images(Images.Config(str(path)), shapes), Sequences(Sequences.Config(str(path), side=20), shapes)):
        how = PicturePreparation.restored(json.loads(json.dumps(source.preparation)))
        assert how.input_shape == source.spec().input_shape
        task = source.sample(Ticket(0, "evaluate", "train", 0, 0))
        assert np.array_equal(how.prepare([drawing], "x")[0], task.query.x[0])


@pytest.mark.parametrize(
    "change",
    [{"size": 0}, {"size": "12"}, {"mode": "cmyk"}, {"bits": 7}, {"inverted": 1}, {"side": -1}, {"background": "grey"}]
    + [{"gamma": 2.2}, {"kind": "sounds"}],
)
def test_a_preparation_that_is_not_ours_is_refused(change):
    saved = PicturePreparation(SIZE, "rgb").saved() | change
    with pytest.raises((ValueError, TypeError)):
        PicturePreparation.restored(saved)


def test_a_damaged_preparation_of_a_run_is_one_line(learner, ingested):
    place = ingested.parent / "run" / TASK
    whole = place.read_text()
    try:
        place.write_text(json.dumps(json.loads(whole) | {"preparation": {"size": "large"}}))
        with pytest.raises(ConfigError, match=f"{TASK}: is damaged"):
            pipeline.load(ingested.parent / "run")
    finally:
        place.write_text(whole)


def test_a_picture_in_memory_is_left_as_it_is(learner):
    stored = io.BytesIO()
    Image.fromarray(noise(30, 40, 3)).save(stored, "JPEG")
    image = Image.open(stored)
    learner.inputs([image], "x")
    assert image.size == (40, 30)
