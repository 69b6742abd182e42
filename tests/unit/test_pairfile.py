"""The file of pairs: mapped, whole or absent, the same for the same input, and refused in one line where it is bad."""

from __future__ import annotations

import json
from itertools import chain

import numpy as np
import pyarrow as pa
import pytest

from pipeline.core.failures import DataError
from pipeline.tasks import pairfile
from pipeline.tasks.pairfile import Language

LANGUAGES = [
    ("ben", [("ab", ["x", "yy"]), (["b"], ["yy"])], [("ba", ["x"])]),
    ("swe", [("å", ["z", "x", "z"]), ("a", ["x"])], []),
]
SPLITS = {"all": {"train": [0], "test": [1]}, "other": {"val": [1]}}


def written(path, languages=LANGUAGES, splits=SPLITS, source="hash", joiner=" ", pieces=b"\0model"):
    return pairfile.write(path, languages, splits, source, joiner=joiner, pieces=pieces)


def test_what_was_written_is_read(tmp_path):
    written(tmp_path / "new" / "pairs.arrow")
    file = pairfile.read(tmp_path / "new" / "pairs.arrow")
    assert (file.sources, file.targets) == (("a", "b", "å"), ("x", "yy", "z"))
    assert file.languages == (Language("ben", (0, 2), (2, 3)), Language("swe", (3, 5), (5, 5)))
    pairs = [pair for _, support, query in LANGUAGES for pair in chain(support, query)]
    assert len(file.source) == len(file.target) == len(pairs)
    for row, (source, target) in enumerate(pairs):
        assert [file.sources[index] for index in file.source[row]] == list(source)
        assert [file.targets[index] for index in file.target[row]] == list(target)
    assert file.source[0].dtype == np.int32
    assert file.source.offsets.dtype == np.int64
    assert (file.splits, file.joiner, file.pieces, file.source_hash) == (SPLITS, " ", b"\0model", "hash")
    assert all(map(file.is_whole, range(2)))


def test_rows_are_views_of_the_mapped_file(tmp_path):
    file = written(tmp_path / "pairs.arrow")
    assert np.shares_memory(file.source[0], file.source.values)
    assert not file.source[0].flags.writeable
    with pytest.raises(IndexError, match="row 5 of 5"):
        file.source[5]


def test_summary_counts_languages_pairs_and_symbols(tmp_path):
    file = written(tmp_path / "pairs.arrow")
    assert file.summary() == (
        "2 languages, 5 pairs, 3 source symbols, 3 target symbols\n"
        f"split all: 1 train, 1 test\nsplit other: 1 val\nsha256 {file.content}"
    )


def test_content_is_all_but_the_hash_of_the_source(tmp_path):
    def content(name, **changes):
        return written(tmp_path / name, **changes).content

    first = content("a.arrow")
    assert content("b.arrow", source="elsewhere") == first
    (one, support, query), other = LANGUAGES
    others = [
        content("c.arrow", languages=[(one, support, []), other]),
        content("d.arrow", languages=[(one, support[::-1], query), other]),
        content("e.arrow", languages=[("deu", support, query), other]),
        content("f.arrow", languages=[(one, [*support, *query], []), other]),
        content("g.arrow", splits={"all": SPLITS["all"]}),
        content("h.arrow", joiner=""),
        content("i.arrow", pieces=b""),
    ]
    assert len({first, *others}) == 8


def test_the_same_input_gives_the_same_bytes(tmp_path):
    written(tmp_path / "a.arrow")
    written(tmp_path / "b.arrow")
    assert (tmp_path / "a.arrow").read_bytes() == (tmp_path / "b.arrow").read_bytes()


def test_a_lost_bit_is_found_in_its_language_alone(tmp_path):
    file = written(tmp_path / "pairs.arrow")
    data = bytearray((tmp_path / "pairs.arrow").read_bytes())
    at = data.find(file.source.values.tobytes())
    data[at + 4 * int(file.source.offsets[4])] ^= 1
    (tmp_path / "pairs.arrow").write_bytes(data)
    file = pairfile.read(tmp_path / "pairs.arrow")
    assert [file.is_whole(0), file.is_whole(1)] == [True, False]


def column(rows) -> pa.Array:
    return pa.array(rows, pa.list_(pa.int32()))


GOOD = [[0, 1], [1], [0]]


def batch(source=GOOD, target=GOOD, names=("source", "target"), **about) -> pa.RecordBatch:
    """What a good file of two languages holds, with changes to its columns or its metadata."""
    facts = {"format": 1, "sources": ["a", "b"], "targets": ["x", "y"], "joiner": "", "pieces": "", "source": "s"}
    facts |= {"languages": [["one", [0, 1], [1, 2]], ["two", [2, 3], [3, 3]]], "checksums": [1, 2], "content": "c"}
    facts |= {"splits": {"all": {"train": [0], "test": [1]}}}
    columns = [rows if isinstance(rows, pa.Array) else column(rows) for rows in (source, target)]
    return pa.record_batch(columns, list(names)).replace_schema_metadata({b"metafleet": json.dumps(facts | about)})


def saved(path, *batches: pa.RecordBatch, **options) -> None:
    with pa.ipc.new_file(str(path), batches[0].schema, options=pa.ipc.IpcWriteOptions(**options)) as writer:
        for each in batches:
            writer.write_batch(each)


def rows(*languages):
    return [[name, list(support), list(query)] for name, support, query in languages]


@pytest.mark.parametrize(
    ("write", "says"),
    [
        (lambda path: None, "does not exist"),
        (lambda path: path.write_text("no arrow"), "is truncated or not an Arrow file"),
        (lambda path: (saved(path, batch()), path.write_bytes(path.read_bytes()[:-20])), "is truncated or not"),
        (lambda path: saved(path, batch(), batch()), "has 2 record batches, expected 1"),
        (lambda path: saved(path, batch(), compression="zstd"), "is compressed, so it cannot be mapped"),
        (lambda path: saved(path, batch(names=("x", "target"))), "has the columns x, target, expected source, target"),
        (lambda path: saved(path, batch(source=pa.array([[0], [1], [2]]))), "has columns of types list<item: int64>"),
        (lambda path: saved(path, batch(source=[[0], None, [1]])), "has null rows"),
        (lambda path: saved(path, batch(source=[[0], [None], [1]])), "has null symbols"),
        (lambda path: saved(path, batch(target=[[0], [], [1]])), "has a pair without symbols"),
        (lambda path: saved(path, batch(target=[[0], [2], [1]])), "has an id that its table of 2 symbols lacks"),
        (lambda path: saved(path, batch(source=[[0], [-1], [1]])), "has an id that its table of 2 symbols lacks"),
        (lambda path: saved(path, batch().replace_schema_metadata({})), "has no readable metafleet metadata"),
        (lambda path: saved(path, batch(format=2)), "is in format 2, this version reads 1"),
        (lambda path: saved(path, batch(sources=["a", 1])), "has symbols, names or hashes that are not text"),
        (lambda path: saved(path, batch(sources=["a", "a"])), "has a symbol twice in its table sources"),
        (lambda path: saved(path, batch(joiner="-")), "has the joiner '-', expected '' or ' '"),
        (lambda path: saved(path, batch(pieces="?")), "has no readable metafleet metadata"),
        (lambda path: saved(path, batch(checksums=[1])), "has checksums that do not fit its languages"),
        (lambda path: saved(path, batch(checksums=[1, None])), "has checksums that do not fit its languages"),
        (
            lambda path: saved(path, batch(languages=rows(("a", (0, 1), (1, 2)), ("a", (2, 3), (3, 3))))),
            "has languages that are twice in it or do not fit its 3 rows",
        ),
        (lambda path: saved(path, batch(languages=rows(("a", (0, 2), (2, 2))))), "do not fit its 3 rows"),
        (lambda path: saved(path, batch(languages=rows(("a", (0, 0), (0, 3))))), "do not follow one another"),
        (lambda path: saved(path, batch(languages=rows(("a", (1, 2), (2, 3))))), "do not follow one another"),
        (lambda path: saved(path, batch(languages=rows(("a", (0, 1.0), (1, 3))))), "whose rows are not numbers"),
        (lambda path: saved(path, batch(languages=[["a", 0, 3]])), "has no readable metafleet metadata"),
        (
            lambda path: saved(path, batch(splits={"all": {"train": [0], "test": [0]}})),
            "a split set 'all' with a language that is twice in it or does not exist",
        ),
        (lambda path: saved(path, batch(splits={"all": {"train": []}})), "an empty or unknown split in 'all'"),
    ],
)
def test_a_bad_file_is_refused_in_one_line(tmp_path, write, says):
    bad = tmp_path / "bad.arrow"
    write(bad)
    with pytest.raises(DataError, match="bad.arrow: .*make it again with `python -m jobs.ingest`") as refused:
        pairfile.read(bad)
    assert says in str(refused.value)
    assert "\n" not in str(refused.value)


def test_the_good_batch_is_good(tmp_path):
    saved(tmp_path / "good.arrow", batch())
    assert len(pairfile.read(tmp_path / "good.arrow").languages) == 2


def test_what_cannot_be_written_leaves_nothing(tmp_path):
    (tmp_path / "folder").mkdir()
    with pytest.raises(DataError, match="folder: cannot be written .*choose another place with --to"):
        written(tmp_path / "folder")
    with pytest.raises(DataError, match="a.arrow: the language 'x' has no support pairs"):
        written(tmp_path / "a.arrow", languages=[("x", [], [("a", "b")])])
    with pytest.raises(DataError, match="a.arrow: the language 'x' has a pair without symbols"):
        written(tmp_path / "a.arrow", languages=[("x", [("a", "")], [])])
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]
