"""Pairs of texts in a file → an adapted model → texts, by the lines that the guide shows."""

from __future__ import annotations

import csv
import re
import shutil

import pytest

import pipeline
from pipeline.core.failures import ConfigError, DataError
from tests import small_pairs
from tests.unit.test_readme import GUIDE, blocks

SMALL = (
    "steps=2",
    "tasks_per_step=2",
    "chunk_size=2",
    "net={name: seq2seq, embedding: 8, hidden: 8}",
    "task={train: {shots: 6, queries: 4}, eval: {shots: 6, queries: 4}}",
    "evaluation.tasks=3",
    "algorithm.eval_inner_steps=2",
)
PAIRS = [(f"{a}{b}д", f"{a} {b} ʃ") for a in "abcdefgh" for b in "ijkl"]


@pytest.fixture(scope="module")
def run(migrated_mlflow, tmp_path_factory):
    """A folder with a run ``runs/phones`` and a file ``words.csv``."""
    folder = tmp_path_factory.mktemp("words")
    shutil.copy(migrated_mlflow, folder / "mlflow.db")
    small_pairs.write(folder / "pairs.arrow")
    with open(folder / "words.csv", "w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows(PAIRS)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        pipeline.train(
            "g2p_100_pretrain", [*SMALL, f"source.path={folder / 'pairs.arrow'}"], output=folder / "runs" / "phones"
        )
    return folder


def test_the_lines_of_the_guide_transcribe_new_words(run, monkeypatch, capsys):
    [lines] = [block for block in blocks(GUIDE, "python") if "import csv" in block]
    monkeypatch.chdir(run)
    exec(lines, {})
    answers = capsys.readouterr().out
    assert re.fullmatch(r"\[('[^']*'(, )?){3}\]\n", answers), answers


def test_pairs_may_be_given_apart_and_an_answer_depends_on_them(run):
    learner = pipeline.load(run / "runs" / "phones")
    words, phones = zip(*PAIRS, strict=True)
    together, apart = learner.adapt(PAIRS), learner.adapt(words, phones)
    asked = ["abд", "дc"]
    assert together.predict(asked) == apart.predict(asked)
    assert len(together.predict(asked)) == 2
    assert together.language.support.target.ne(0).sum() == sum(len(one.split()) + 1 for one in phones)


def test_a_run_is_served_without_its_file_of_pairs(run):
    """The spec, the vocabularies and the writing are saved with theta; an old run without them needs its data."""
    with_data = pipeline.load(run / "runs" / "phones").adapt(PAIRS).predict(["abд"])
    pairs, saved = run / "pairs.arrow", run / "runs" / "phones" / "task.json"
    hidden, text = pairs.rename(run / "elsewhere.arrow"), saved.read_text("utf-8")
    try:
        assert pipeline.load(run / "runs" / "phones").adapt(PAIRS).predict(["abд"]) == with_data
        saved.write_text(text[:-9], "utf-8")
        with pytest.raises(ConfigError, match=r"task.json: is damaged .* put back a copy, or remove it"):
            pipeline.load(run / "runs" / "phones")
        saved.unlink()
        with pytest.raises(DataError, match=r"pairs.arrow does not exist"):
            pipeline.load(run / "runs" / "phones")
        hidden.rename(pairs)
        assert pipeline.load(run / "runs" / "phones").adapt(PAIRS).predict(["abд"]) == with_data
    finally:
        saved.write_text(text, "utf-8")


@pytest.mark.parametrize(
    ("support", "told"),
    [
        (([("a", "b"), ("c",)],), r"support_x: \('c',\), expected pairs"),
        ((["ab", "cd"],), r"support_x: 'ab', expected pairs"),
        (([1, 2],), r"support_x: 1, expected pairs"),
        ((7,), r"support_x: 7, expected pairs"),
        ((["a", "b"], ["a"]), r"support_y: 1 texts for 2 of support_x"),
        (([1], ["a"]), r"support_x: 1 is no text"),
        (([], []), r"support_x: no texts"),
        (("ab", "cd"), r"support_x: 'ab', expected a list of texts"),
        ((["a"], [" "]), r"support_y: ' ' has no symbols"),
    ],
)
def test_what_is_no_list_of_texts_is_refused_in_one_line(run, support, told):
    with pytest.raises(DataError, match=told):
        pipeline.load(run / "runs" / "phones").adapt(*support)


def test_a_question_that_is_no_list_of_texts_is_refused(run):
    predictor = pipeline.load(run / "runs" / "phones").adapt(PAIRS)
    with pytest.raises(DataError, match=r"x: 'ab', expected a list of texts"):
        predictor.predict("ab")
