"""Published pairs become one file: the right languages in the right splits, the same file each time, or one line."""

from __future__ import annotations

import gzip
import hashlib
import re
import sys
import unicodedata
import zipfile
from pathlib import Path

import pytest

from pipeline.core.failures import ConfigError, DataError
from pipeline.tasks import pairfile
from pipeline.tasks.ingest import captions, g2p, inflection, texts

DATA = Path(__file__).parents[3] / "shared" / "data"


def zipped(path: Path, entries: dict[str, str]) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as opened:
        for name, text in entries.items():
            opened.writestr(name, text)


def known(monkeypatch, module, folder: Path) -> None:
    """Let ``module`` expect the files that lie in ``folder``."""
    hashes = {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in module.ARCHIVES}
    monkeypatch.setattr(module, "ARCHIVES", hashes)


def language(file: pairfile.PairFile, name: str) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    """The support pairs and query pairs of a language, each as symbols joined by a bar."""
    found = next(each for each in file.languages if each.name == name)

    def text(rows, table, row):
        return "|".join(table[index] for index in rows[row])

    return tuple(
        [(text(file.source, file.sources, row), text(file.target, file.targets, row)) for row in range(*rows)]
        for rows in (found.support, found.query)
    )


def named(file: pairfile.PairFile, of: str) -> dict[str, list[str]]:
    return {split: [file.languages[index].name for index in indices] for split, indices in file.splits[of].items()}


@pytest.fixture
def words(tmp_path, monkeypatch) -> Path:
    """The three zips of g2p in small."""
    folder = tmp_path / "g2p"
    folder.mkdir()
    zipped(folder / g2p.WIKIPRON, {"wikipron/aar_latn_broad.tsv": "é\te ː\nab\ta b\n", "wikipron/kat_x.tsv": "კ\tk\n"})
    low = {f"sigmorphon2021/low/ady_{part}.tsv": f"{part}\td\n" for part in ("train", "dev")}
    zipped(folder / g2p.TASK_2021, low | {"sigmorphon2021/medium/bul_dev.tsv": "x\ty\n"})
    files = {"_100_train": "a\ta\n", "_train": "a\ta\nb\tb\n", "_dev": "c\tc  \n\nd\t\n", "_test": "e\n"}
    zipped(
        folder / g2p.TASK_2022,
        {f"sigmorphon2022/target_languages/ben{end}.tsv": text for end, text in files.items()}
        | {"sigmorphon2022/transfer_languages/asm_ben.tsv": "z\tz\n"},
    )
    known(monkeypatch, g2p, folder)
    monkeypatch.setattr(g2p, "VALIDATION", ("kat_x",))
    return folder


def test_g2p_s_languages_and_what_was_left_out(words, tmp_path):
    file, notes = g2p.ingest(words, tmp_path / "g2p.arrow")
    assert [each.name for each in file.languages] == ["aar_latn_broad", "kat_x", "ben", "ben_800", "ady_2021"]
    tests = {name: named(file, name)["test"] for name in file.splits}
    assert tests == {
        "sigmorphon2022_100": ["ben"],
        "sigmorphon2022_800": ["ben_800"],
        "sigmorphon2021_800": ["ady_2021"],
    }
    assert all(named(file, name)["train"] == ["aar_latn_broad"] for name in file.splits)
    assert all(named(file, name)["val"] == ["kat_x"] for name in file.splits)
    assert language(file, "aar_latn_broad") == ([("e|\u0301", "e|ː"), ("a|b", "a|b")], [])
    assert language(file, "ben") == ([("a", "a")], [("c", "c")])
    assert language(file, "ben_800") == ([("a", "a"), ("b", "b")], [("c", "c")])
    assert language(file, "ady_2021") == ([("t|r|a|i|n", "d")], [("d|e|v", "d")])
    assert (file.joiner, file.pieces) == (" ", b"")
    lost = "left out of target_languages/ben_dev.tsv, without a word or its phones: 1"
    assert notes == [lost, lost]


def test_inflection_keeps_poor_languages_out_of_training(tmp_path, monkeypatch):
    line = "e\u0301t\té\tV; PL\n"
    names = ("both-train-high", "rich-train-high", "held-train-high", "both-train-low", "poor-train-low")
    tests = ("both-test", "poor-test", "both-dev", "poor-dev")
    entries = {f"sigmorphon2019/{name}": line for name in (*names, *tests)} | {"sigmorphon2019/pairs.txt": "a--b\n"}
    zipped(tmp_path / inflection.ARCHIVE, entries)
    known(monkeypatch, inflection, tmp_path)
    monkeypatch.setattr(inflection, "VALIDATION", ("held",))
    file, notes = inflection.ingest(tmp_path, tmp_path / "inflection.arrow")
    assert named(file, "sigmorphon2019") == {"train": ["rich"], "val": ["held"], "test": ["both", "poor"]}
    assert language(file, "poor") == ([("é|t|<V>|<PL>", "é")], [("é|t|<V>|<PL>", "é")])
    assert language(file, "rich")[1] == []
    assert (file.joiner, file.pieces) == ("", b"")
    assert notes == ["left out of training, because they are test languages too: both"]


def some_captions(code: str, count: int) -> str:
    of = {"en": "a dog runs on the grass", "de": "ein Hund läuft über das Gras", "fr": "un chien court sur l'herbe"}
    return "".join(f"{of.get(code, 'pes běží')} {chr(97 + number % 26)}{number % 7} .\n" for number in range(count))


def test_captions_test_on_a_language_that_nothing_else_has_seen(tmp_path, monkeypatch):
    sentencepiece = pytest.importorskip("sentencepiece")
    for name in captions.ARCHIVES:
        part, code, _ = name.split(".")
        (tmp_path / name).write_bytes(gzip.compress(some_captions(code, {"train": 60, "val": 9}.get(part, 5)).encode()))
    known(monkeypatch, captions, tmp_path)
    monkeypatch.setattr(captions, "SUPPORT", 8)
    monkeypatch.setattr(captions, "PIECES", 300)
    file, notes = captions.ingest(tmp_path, tmp_path / "captions.arrow")
    assert notes == []
    train = ["en-de", "en-fr", "de-en", "de-fr", "fr-en", "fr-de"]
    assert named(file, "six") == {"train": train, "val": ["de-en_val", "fr-en_val"], "test": ["cs-en"]}
    held_out = named(file, "four")
    assert not {"de-fr", "fr-de"} & set(held_out["train"])
    assert held_out["val"] == ["de-fr_val", "fr-de_val"]
    sizes = {each.name: (each.support[1] - each.support[0], each.query[1] - each.query[0]) for each in file.languages}
    assert sizes["en-de"] == (52, 0)
    assert sizes["de-en_val"] == (9, 0)
    assert sizes["cs-en"] == (8, 5)
    model = sentencepiece.SentencePieceProcessor(model_proto=file.pieces)
    (source, target), *_ = language(file, "cs-en")[1]
    assert source.split("|")[0] == "<2en>"
    assert model.decode_pieces(source.split("|")[1:]) == "pes běží a0 ."
    assert model.decode_pieces(target.split("|")) == "a dog runs on the grass a0 ."
    assert "ě" not in "".join(model.id_to_piece(number) for number in range(model.get_piece_size()))


def test_a_model_of_pieces_has_the_same_bytes_each_time():
    pytest.importorskip("sentencepiece")
    lines = [some_captions(code, 40) for code in ("en", "de", "fr")]
    assert captions.trained(lines, 300) == captions.trained(lines, 300)


def test_captions_without_sentencepiece_say_how_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "sentencepiece", None)
    with pytest.raises(ConfigError, match=r"^sentencepiece is not installed; .*: pip install -e '.\[text\]'$"):
        captions.trained(["a"], 10)


def test_the_same_zips_give_the_same_bytes(words, tmp_path):
    g2p.ingest(words, tmp_path / "a.arrow")
    g2p.ingest(words, tmp_path / "b.arrow")
    assert (tmp_path / "a.arrow").read_bytes() == (tmp_path / "b.arrow").read_bytes()


@pytest.mark.parametrize("module", [g2p, inflection, captions])
def test_other_files_are_refused_in_one_line(module, tmp_path):
    first = next(iter(module.ARCHIVES))
    for says in (f"{first}: No such file or directory; --from takes the folder that holds {first}", "has sha256 "):
        with pytest.raises(DataError, match=re.escape(says)) as refused:
            module.ingest(tmp_path, tmp_path / "new" / "a.arrow")
        assert str(tmp_path / first) in str(refused.value)
        assert "\n" not in str(refused.value)
        (tmp_path / first).write_bytes(b"another")
    assert [path.name for path in tmp_path.iterdir()] == [first]


def published(module, folder: str) -> Path:
    if not all((DATA / folder / name).is_file() for name in module.ARCHIVES):
        pytest.skip(f"{', '.join(module.ARCHIVES)} are not in {DATA / folder}")
    return DATA / folder


@pytest.mark.data
def test_real_g2p_trains_on_no_language_that_it_tests(tmp_path):
    file, notes = g2p.ingest(published(g2p, "g2p"), tmp_path / "g2p.arrow")
    assert notes == []
    assert all(map(file.is_whole, range(len(file.languages))))
    for name in file.splits:
        sizes = {split: len(names) for split, names in named(file, name).items()}
        assert sizes == {"train": 98, "val": 8, "test": 10}
    splits = named(file, "sigmorphon2022_100")
    assert splits["val"] == sorted(g2p.VALIDATION)
    codes = {each.split("_")[0] for each in (*splits["train"], *splits["val"])}
    tested = "ady ell isl ita khm lav mlt ron slv cym ben mya deu gle fas swe tgl tha ukr"
    assert not codes & set(tested.split())
    sizes = {each.name: (each.support[1] - each.support[0], each.query[1] - each.query[0]) for each in file.languages}
    assert sizes["ben"] == (100, 73)
    assert sizes["per_800"] == (452, 56)
    assert sizes["wel_sw_2021"] == (800, 100)
    assert all(unicodedata.is_normalized("NFD", symbol) for symbol in file.sources)


@pytest.mark.data
@pytest.mark.slow
def test_real_inflection_leaves_nine_languages_out(tmp_path):
    """``test_inflection_keeps_poor_languages_out_of_training`` shows it of a small zip."""
    file, (note,) = inflection.ingest(published(inflection, "inflection"), tmp_path / "inflection.arrow")
    assert note.endswith("bengali, czech, greek, irish, latin, portuguese, russian, sorani, swahili")
    assert {split: len(names) for split, names in named(file, "sigmorphon2019").items()} == {
        "train": 31,
        "val": 4,
        "test": 44,
    }


@pytest.mark.data
def test_the_pinned_hashes_of_captions_are_those_of_the_real_files():
    folder = published(captions, "multi30k")
    read = texts.read_known(folder, captions.ARCHIVES)
    lines = {(name.split("_")[0].split(".")[0], gzip.decompress(data).count(b"\n")) for name, data in read.items()}
    assert lines == {("train", 29000), ("val", 1014), ("test", 1000)}
