"""One command from a folder of pictures, or a table, to an evaluated and registered model."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

import pipeline
from jobs import quickstart as job
from jobs import run
from pipeline.core.failures import DataError
from pipeline.runs.quickstart import own_recipe
from pipeline.tasks import classfile
from pipeline.tasks.ingest.suited import suited

CLASSES = [f"kind {number}" for number in range(12)]


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Twelve classes of four pictures, 18 wide and 20 high, and one class of one picture."""
    folder, rng = tmp_path_factory.mktemp("quick") / "photos", np.random.default_rng(0)
    for name in CLASSES:
        (folder / name).mkdir(parents=True)
        middle = rng.integers(0, 256, 3)
        for number in range(4):
            noisy = (middle + rng.normal(0, 30, (20, 18, 3))).clip(0, 255).astype(np.uint8)
            Image.fromarray(noisy).save(folder / name / f"{number}.png")
    (folder / "lonely").mkdir()
    Image.fromarray(noisy).save(folder / "lonely" / "0.png")
    return folder


@pytest.fixture
def job_in(tmp_path, monkeypatch, capsys, mlflow_uri):
    """Runs the job in a folder of its own: exit code, stdout and stderr."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", mlflow_uri)

    def ended(*arguments):
        monkeypatch.setattr("sys.argv", ["quickstart", *map(str, arguments), "--executor", "serial"])
        with pytest.raises(SystemExit) as exit_:
            run(job.main)
        return exit_.value.code, *capsys.readouterr()

    return ended


@pytest.mark.usefixtures("torch_threads")
def test_a_folder_of_pictures_becomes_a_registered_model(photos, job_in, tmp_path):
    small = ("steps=2", "tasks_per_step=2", "net.channels=8", "evaluation.tasks=6")
    code, out, err = job_in(photos, *small)
    assert code == 0, err
    shown = dict(line.split(maxsplit=1) for line in out.partition("judged on")[2].splitlines() if line)
    assert "12 classes, 48 images of 18×18×3" in out
    assert "left out, fewer than 2 images: class lonely (1)" in out
    assert "6 tasks of test classes, 2-way 1-shot" in out
    assert shown["registered"].startswith("models:/photos/1: ")
    assert shown["accuracy"].count("%") == 2
    assert "the difference is" in shown["1-NN"]
    learner = pipeline.load("models:/photos@champion")
    predictor = learner.adapt([photos / CLASSES[0] / "0.png", photos / CLASSES[1] / "0.png"], ["a", "b"])
    assert set(predictor.predict([photos / CLASSES[0] / "1.png"])) <= {"a", "b"}
    assert list((tmp_path / "data").iterdir()) == [tmp_path / "data" / "photos.arrow"]


def test_bad_input_ends_in_one_line(photos, job_in, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "notes.txt").write_text("none")
    for arguments, says in [
        ((tmp_path / "empty",), "empty: no images found"),
        ((tmp_path / "notes.txt",), "expected a folder of pictures with a folder for each class, or a table"),
        ((tmp_path / "gone",), "expected a folder of pictures with a folder for each class, or a table"),
        ((photos, "--name", "a/b"), "--name: 'a/b' cannot name a model"),
        ((photos, "--name", "../up"), "--name: '../up' cannot name a model"),
        ((photos, "stepz=7"), "stepz: unknown key, did you mean steps"),
    ]:
        code, out, err = job_in(*arguments)
        assert (code, out, err.count("\n")) == (2, "", 1)
        assert says in err
    assert not (tmp_path / "data").exists()


def test_a_table_takes_the_recipe_of_tables(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rows = "".join(f"{name},{at},{at * row}\n" for at, name in enumerate(CLASSES) for row in range(3))
    (tmp_path / "own.csv").write_text(f"label,x,y\n{rows}")
    told = []
    recipe = own_recipe(tmp_path / "own.csv", "own", ["steps=7"], told.append)
    assert (recipe.name, recipe.algorithm.name, recipe.source.name, recipe.steps) == ("own", "protonet", "table", 7)
    assert "own recipes take: train 8 ways, 1 shots, 2 queries; eval 2 ways, 1 shots, 2 queries" in told
    (tmp_path / "own.csv").write_text("label,x\na,1\na,2\n")
    with pytest.raises(DataError, match="1 class in the column of labels"):
        own_recipe(tmp_path / "own.csv", "own", [], told.append)


@pytest.mark.parametrize(
    ("mode", "size", "expected"),
    [("RGB", (300, 200), (84, "rgb")), ("L", (40, 50), (40, "grey")), ("RGBA", (9, 9), (16, "rgb"))],
)
def test_the_size_and_the_colours_are_those_of_the_pictures(tmp_path, mode, size, expected):
    Image.new(mode, size).save(tmp_path / "a.png")
    (tmp_path / "broken.png").write_bytes(b"none")
    assert suited(tmp_path) == expected


def test_a_folder_without_pictures_suits_anything(tmp_path):
    assert suited(tmp_path) == (84, "rgb")


def test_the_ingested_file_is_read_again(photos, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    recipe = own_recipe(photos, "again", [], lambda line: None)
    file = classfile.read(tmp_path / recipe.source.path)
    assert sorted(file.names) == sorted(CLASSES)
    assert recipe.source.split == "random"
