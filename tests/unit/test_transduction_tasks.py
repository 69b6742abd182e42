"""Tasks of pairs of sequences from a file: which pairs, which tokens, and texts in and out."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline import config
from pipeline.build import build_components
from pipeline.core.failures import ConfigError, DataError
from pipeline.core.seeding import Ticket
from pipeline.core.source import TaskShape, TaskShapes
from pipeline.core.types import END, PADDING, UNKNOWN
from pipeline.runs.evaluation_facts import evaluation_facts
from pipeline.tasks import pairfile
from pipeline.tasks.captions import Captions
from pipeline.tasks.g2p import G2P
from pipeline.tasks.inflection import Inflection
from pipeline.tasks.tokens import padded_pairs
from pipeline.tasks.vocabulary import FIRST, Vocabulary, codes
from tests import small_pairs

SHAPES = TaskShapes(TaskShape(1, 6, 5), TaskShape(1, 12, 30))
LAST = sum(small_pairs.SPLITS.values()) - 1
"""The language with a letter that training never shows."""


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """A file whose validation and test languages have 20 query words of their own."""
    return small_pairs.write(tmp_path_factory.mktemp("pairs") / "published.arrow", queries=20)


def g2p(path, shapes=SHAPES, **changes):
    return G2P(G2P.Config(path=str(path), **changes), shapes)


def evaluate(number, split="test"):
    return Ticket(7, "evaluate", split, 0, number)


def test_evaluation_task_n_is_language_n_with_its_published_rows(published):
    source = g2p(published, lengths=(10, 10))
    file = pairfile.read(published)
    for number, language in enumerate(file.splits["sigmorphon2022_100"]["test"]):
        _, support, query = file.languages[language]
        task = source.sample(evaluate(number))
        assert task.support.source.shape == (12, 10)
        assert task.query.target.shape == (30, 10)
        lengths = (task.support.source != PADDING).sum(1).tolist()
        assert lengths == [len(file.source[row]) for row in range(support[0], support[0] + 12)]
        asked = (task.query.target != PADDING).sum(1).tolist()
        assert asked == [len(file.target[row]) + 1 for row in range(*query)] + [0] * 10
    with pytest.raises(ConfigError, match=r"evaluation.tasks: .* has 3 languages .* set it to 3"):
        source.sample(evaluate(3))


def test_an_evaluation_names_its_languages(published):
    changes = [f"source.path={published}", "evaluation.split=test", "evaluation.tasks=2", "net.hidden=4"]
    recipe = config.load("g2p_100_pretrain", [*changes, "source.fewest=1", "task.eval={shots: 12, queries: 30}"])
    assert evaluation_facts(recipe, build_components(recipe), [])["names"] == ["l11", "l12"]


def test_another_seed_gives_the_published_pairs_with_other_slots_alone(published):
    source, number = g2p(published), small_pairs.SPLITS["test"] - 1
    one, other = (source.sample(evaluate(number)._replace(seed=seed)) for seed in (7, 8))
    slots = range(FIRST, FIRST + 96)
    for a, b in ((one.support.source, other.support.source), (one.query.target, other.query.target)):
        differs = a != b
        assert all(value in slots for value in (*a[differs].tolist(), *b[differs].tolist()))
    assert not torch.equal(one.support.source, other.support.source)


def test_training_tasks_are_of_all_languages_and_leave_long_pairs_out(published):
    source = g2p(published, train_lengths=(7, 7), anonymous_sources=0.0, anonymous_targets=0.0)
    tasks = [source.sample(Ticket(7, "train", "train", step, 0)) for step in range(60)]
    assert all(task.support.source.shape == (6, 7) and task.query.target.shape == (5, 7) for task in tasks)
    assert all(((pairs.target == END).sum(1) == 1).all() for task in tasks for pairs in (task.support, task.query))
    file = pairfile.read(published)
    rows = {
        tuple(file.source[row].tolist()): number
        for number, one in enumerate(file.languages)
        for row in range(*one.support)
    }
    tokens = source.vocabularies[0].code(np.random.default_rng(0)).tokens.tolist()
    symbol = {token: number for number, token in enumerate(tokens)}
    words = [[token for token in task.support.source[0].tolist() if token != PADDING] for task in tasks]
    seen = {rows[tuple(symbol[token] for token in word)] for word in words}
    assert seen == set(file.splits["sigmorphon2022_100"]["train"])


def test_the_vocabulary_is_of_the_training_languages_alone(published):
    source = g2p(published)
    known = {source.vocabularies[0].symbols[one] for one in source.vocabularies[0].known}
    assert known == {*small_pairs.LETTERS, small_pairs.TAG}
    assert source.spec().tokens.sources == FIRST + 96 + len(known)
    none = g2p(published, fewest=10_000)
    assert none.spec().tokens.sources == FIRST + 96


def test_a_new_letter_has_one_slot_in_a_task_and_needs_a_support_pair(published):
    source = g2p(published)
    task = source.sample(evaluate(small_pairs.SPLITS["test"] - 1))
    slots = [token for token in task.support.source.unique().tolist() if FIRST <= token < FIRST + 96]
    assert len(slots) == 1
    assert slots[0] in task.query.source
    without = g2p(published, slots=0)
    same = without.sample(evaluate(small_pairs.SPLITS["test"] - 1))
    assert UNKNOWN in same.support.source
    unseen = codes(np.random.default_rng(0), source.vocabularies, ([], []))[0]
    assert unseen.encode("ж") == [UNKNOWN]


def test_anonymous_training_tasks_hide_every_character_and_no_tag(published):
    source = g2p(published, anonymous_sources=1.0, anonymous_targets=0.0)
    task = source.sample(Ticket(7, "train", "train", 1, 0))
    tag = (
        FIRST
        + 96
        + [source.vocabularies[0].symbols[one] for one in source.vocabularies[0].known].index(small_pairs.TAG)
    )
    for pairs in (task.support, task.query):
        assert (pairs.source[:, 0] == tag).all()
        letters = pairs.source[:, 1:]
        assert (letters < FIRST + 96).all()
    assert (task.support.source[:, 1:] != UNKNOWN).all()
    assert (task.support.target[task.support.target > END] >= FIRST + 96).all()


def test_a_symbol_has_one_slot_on_both_sides_of_a_shared_vocabulary(published):
    source = Inflection(Inflection.Config(path=str(published), anonymous=1.0), SHAPES)
    assert source.vocabularies[0] is source.vocabularies[1]
    shared = source.vocabularies[0].with_symbols(["ю"])
    one, other = codes(np.random.default_rng(3), (shared, shared), ([shared.ids("ю")], [shared.ids("a")]))
    assert one.encode("ю") == other.encode("ю") != [UNKNOWN]


def test_more_new_symbols_than_slots_are_unknown():
    vocabulary = Vocabulary(tuple("abcd"), np.array([0]), slots=2)
    code = vocabulary.code(np.random.default_rng(0), [np.arange(4)])
    assert sorted(code.encode("abcd")) == [UNKNOWN, FIRST, FIRST + 1, FIRST + 2]
    assert code.decode([*code.encode("a"), END, *code.encode("a")]) == ["a"]


def test_a_target_that_is_cut_has_no_end_and_a_missing_pair_is_padding():
    pairs = padded_pairs([[5, 6, 7]], [[8, 9, 10]], 2, (2, 3))
    assert pairs.source.tolist() == [[5, 6], [PADDING, PADDING]]
    assert pairs.target.tolist() == [[8, 9, 10], [PADDING] * 3]


@pytest.mark.parametrize(
    ("shapes", "changes", "told"),
    [
        (TaskShapes(TaskShape(1, 30, 11), SHAPES.eval), {}, r"task.train: 30 shots \+ 11 queries need 41 pairs"),
        (TaskShapes(TaskShape(2, 6, 5), SHAPES.eval), {}, r"task.train.ways: 2, .* set it to 1"),
        (TaskShapes(TaskShape(1, 0, 5), SHAPES.eval), {}, r"task.train.shots: 0"),
        (SHAPES, {"split": "2021"}, r"source.split: '2021' .* it has sigmorphon2019, sigmorphon2022_100, six"),
    ],
)
def test_what_a_file_cannot_give_is_refused_in_one_line(published, shapes, changes, told):
    with pytest.raises((ConfigError, DataError), match=told):
        g2p(published, shapes, **changes)


def test_a_missing_file_is_named_with_the_command_that_makes_it(tmp_path):
    with pytest.raises(DataError, match=r"source.path: .*no.arrow does not exist; .* `python -m jobs.ingest g2p"):
        g2p(tmp_path / "no.arrow")


def test_damaged_pairs_are_told_when_they_are_drawn(published, tmp_path):
    path = tmp_path / "damaged.arrow"
    file = pairfile.read(published)
    first = file.languages[file.splits["sigmorphon2022_100"]["test"][0]].support[0]
    row = file.source[first].astype("<i4").tobytes()
    data = bytearray(published.read_bytes())
    place = data.index(row + file.source[first + 1].astype("<i4").tobytes())
    data[place] ^= 1
    path.write_bytes(data)
    with pytest.raises(DataError, match=r"damaged.arrow: the pairs of 'l11' .* damaged"):
        g2p(path).sample(evaluate(0))


def test_a_damaged_training_language_makes_no_vocabulary(published, tmp_path):
    path = Path(shutil.copy(published, tmp_path / "damaged.arrow"))
    blank(path, 3)
    with pytest.raises(DataError, match="damaged.arrow: the pairs of 'l03'"):
        g2p(path)


def blank(path, language):
    """Zeros in the place of a language's first word."""
    file = pairfile.read(path)
    first = file.rows(language)[0]
    row, after = (file.source[number].astype("<i4").tobytes() for number in (first, first + 1))
    with path.open("r+b") as opened:
        opened.seek(path.read_bytes().index(row + after))
        opened.write(bytes(len(row)))


@pytest.mark.parametrize("harm", ["cut", "replaced", "damaged"])
def test_a_file_that_changes_while_it_is_used_is_told_at_the_next_task(published, tmp_path, harm):
    path = Path(shutil.copy(published, tmp_path / "used.arrow"))
    source = g2p(path)
    source.sample(evaluate(0))
    told = {"cut": "was cut from", "replaced": "was replaced by other data", "damaged": "the pairs of 'l11'"}[harm]
    if harm == "cut":
        os.truncate(path, path.stat().st_size // 2)
    elif harm == "replaced":
        small_pairs.write(path, queries=10)
    else:
        blank(path, 11)
        os.utime(path, ns=(1, 1))
    with pytest.raises(DataError, match=f"used.arrow: {told}"):
        source.sample(evaluate(1))


def test_test_words_of_a_folder_take_the_place_of_the_queries(published, tmp_path):
    for language in ("l11", "l12", "l13"):
        (tmp_path / f"{language}_test.tsv").write_text("abc\tx y\nчd\ta\n", encoding="utf-8")
    source = g2p(published, test_words=str(tmp_path))
    plain = g2p(published)
    assert (source.spec(), source.fingerprint) == (plain.spec(), plain.fingerprint)
    assert source.evaluation != plain.evaluation
    task = source.sample(evaluate(1))
    assert (task.query.target[:, 0] != PADDING).sum() == 2
    assert task.query.source[1, 0] == UNKNOWN
    assert torch.equal(task.support.source, plain.sample(evaluate(1)).support.source)
    (tmp_path / "l12_test.tsv").write_text("abc x y\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"source.test_words: .*l12_test.tsv: line 1; expected a word, a tab"):
        g2p(published, test_words=str(tmp_path))
    (tmp_path / "l12_test.tsv").unlink()
    with pytest.raises(DataError, match=r"source.test_words: .*l12_test.tsv cannot be read"):
        g2p(published, test_words=str(tmp_path))


def test_a_served_language_reads_and_writes_text(published):
    source = g2p(published)
    language = source.texts.language(["жab", "ba"], ["ʃ a b", "b a"])
    assert language.support.target[0, 0] != UNKNOWN
    assert language.answers(language.support.target) == ["ʃ a b", "b a"]
    assert language.inputs(["жш"])[0, :3].tolist() == [language.support.source[0, 0].item(), UNKNOWN, PADDING]
    with pytest.raises(DataError, match=r"support_y: '' has no symbols"):
        source.texts.language(["a"], [""])


def test_inflection_reads_a_lemma_and_features(published):
    source = Inflection(Inflection.Config(path=str(published)), SHAPES)
    language = source.texts.language(["ab\tV;PST"], ["abb"])
    assert (language.support.source[0] != PADDING).sum() == 4
    assert language.answers(language.support.target) == ["abb"]
    with pytest.raises(DataError, match=r"'ab': expected a lemma, a tab and its features"):
        source.texts.language(["ab"], ["abb"])


def test_captions_are_judged_by_bleu_and_chrf(published):
    pytest.importorskip("sentencepiece", reason="needs the extra text")
    pytest.importorskip("sacrebleu", reason="needs the extra text")
    source = Captions(Captions.Config(path=str(published)), SHAPES)
    assert all("version:" in source.evaluation[metric] for metric in ("bleu", "chrf")), "a metric needs its signature"
    task = source.sample(evaluate(0))
    right = {"answers": task.query.target}
    assert source.judge(right, task.query)["chrf"] == pytest.approx(100)
    wrong = source.judge({"answers": task.query.target.roll(1, 0)}, task.query)
    assert set(wrong) == {"bleu", "chrf"}
    assert wrong["chrf"] < 90
    text = source.texts.language([f"{small_pairs.TAG} abc"], ["abc"])
    assert text.answers(text.support.target) == ["�bc"], "the small file has no piece that begins a word"
    with pytest.raises(DataError, match=r"'abc': expected a tag .* such as <2en>"):
        source.texts.language(["abc"], ["abc"])
