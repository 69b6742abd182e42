"""The image source: pure in the ticket, no leak, exact quarter turns, and one line for what it cannot give."""

from __future__ import annotations

import functools

import numpy as np
import pytest
import torch

from pipeline.core.failures import ConfigError, DataError
from pipeline.core.seeding import Ticket
from pipeline.core.source import Spec, TaskShape, TaskShapes
from pipeline.core.types import Batch
from pipeline.tasks import classfile
from pipeline.tasks.images import Images

COUNTS = [6, 7, 8, 9, 6, 7, 8, 9, 6, 7]
NAMES = [f"class {letter}" for letter in "abcdefghij"]
SPLITS = {
    "random": {"train": [4, 0, 2, 6, 8, 1], "test": [3, 5, 7, 9]},
    "other": {"train": [0, 1], "val": [2, 3], "test": [4, 5]},
}
OWNER = np.repeat(np.arange(len(COUNTS)), COUNTS)


def pixels(*image: int) -> np.ndarray:
    return np.random.default_rng(3).integers(0, 256, (sum(COUNTS), *image), dtype=np.uint8)


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    path = tmp_path_factory.mktemp("images") / "grey.arrow"
    classfile.write(path, pixels(5, 5), COUNTS, NAMES, SPLITS, "source")
    return path


def source(path, split="random", query_order="shuffled", rotations="none", **shape) -> Images:
    asked = TaskShape(**{"ways": 3, "shots": 2, "queries": 4, **shape})
    turned = {"train_rotations": rotations, "eval_rotations": rotations}
    config = Images.Config(str(path), split, query_order=query_order, **turned)
    return Images(config, TaskShapes(train=asked, eval=asked))


def ticket(index: int, split="train") -> Ticket:
    return Ticket(11, "train", split, 0, index)


@functools.cache
def turned(*image: int) -> dict[bytes, tuple[int, int]]:
    """The bytes of every quarter turn of every image -> (row, turns)."""
    stored = enumerate(pixels(*image))
    return {np.rot90(picture, turn).tobytes(): (row, turn) for row, picture in stored for turn in range(4)}


def found(x: torch.Tensor, *image: int) -> list[tuple[int, int]]:
    """Each image's (row in the file, quarter turns), exactly."""
    raw = (x * 255).round().to(torch.uint8).movedim(1, -1).squeeze(-1).numpy()
    return [turned(*image)[np.ascontiguousarray(picture).tobytes()] for picture in raw]


@pytest.mark.fault("F8")
def test_a_bit_that_the_disk_lost_is_found_when_its_class_is_used(path, tmp_path):
    """F8. Arrow itself reads the wrong pixel and says nothing."""
    whole = path.read_bytes()
    first = int(np.flatnonzero(OWNER == 4)[0])
    at = whole.index(pixels(5, 5)[first].tobytes())
    damaged = tmp_path / "damaged.arrow"
    damaged.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
    assert source(damaged).fingerprint == source(path).fingerprint
    images = source(damaged)
    of_others = source(damaged, split="other", ways=2, shots=1, queries=1)
    of_others.sample(ticket(0))
    with pytest.raises(DataError, match=rf"class {NAMES[4]!r} \(rows {first} to \d+\) are not what was written"):
        [images.sample(ticket(index)) for index in range(100)]


def test_spec_splits_and_fingerprint(path):
    images = source(path)
    assert images.spec() == Spec(Batch, (1, 5, 5), 3, "slots", "cross_entropy", bounds=(0.0, 1.0))
    assert images.splits == ("train", "test")
    assert source(path, "other", ways=2).splits == ("train", "val", "test")
    assert images.fingerprint != source(path, "other", ways=2).fingerprint


def test_an_episode(path):
    task = source(path).sample(ticket(5))
    assert (task.id, task.ways) == ("train/train/0/5", 3)
    assert task.support.y.tolist() == [0, 0, 1, 1, 2, 2]
    assert sorted(task.query.y.tolist()) == [0] * 4 + [1] * 4 + [2] * 4
    assert task.query.x.shape == (12, 1, 5, 5)
    assert (task.query.x.dtype, task.query.y.dtype) == (torch.float32, torch.int64)
    row = found(task.query.x, 5, 5)[0][0]
    assert np.array_equal(task.query.x[0, 0].numpy(), pixels(5, 5)[row].astype(np.float32) / np.float32(255))


def test_queries_are_shuffled_and_else_those_of_the_sorted_order(path):
    shuffled, by_class = source(path), source(path, query_order="sorted")
    for index in range(20):
        one, other = shuffled.sample(ticket(index)), by_class.sample(ticket(index))
        assert torch.equal(one.support.x, other.support.x)
        assert torch.equal(one.support.y, other.support.y)
        assert other.query.y.tolist() == [0] * 4 + [1] * 4 + [2] * 4
        labels = dict(zip(found(other.query.x, 5, 5), other.query.y.tolist(), strict=True))
        assert [labels[row] for row in found(one.query.x, 5, 5)] == one.query.y.tolist()


def test_the_place_of_a_query_does_not_say_its_label(path):
    images = source(path)
    y = torch.stack([images.sample(ticket(index)).query.y for index in range(1000)])
    shares = torch.stack([(y == slot).float().mean(0) for slot in range(3)])
    assert (shares - 1 / 3).abs().max() < 0.06
    assert torch.equal(images.sample(ticket(7)).query.y, y[7])


@pytest.mark.parametrize("split", ["train", "test"])
def test_classes_and_images_without_replacement_and_of_the_split_only(path, split):
    images, used = source(path), set()
    for index in range(200):
        task = images.sample(ticket(index, split))
        support = np.array([row for row, _ in found(task.support.x, 5, 5)])
        query = np.array([row for row, _ in found(task.query.x, 5, 5)])
        assert len({*support, *query}) == 3 * 6
        of_slot = [{*OWNER[support[task.support.y == slot]], *OWNER[query[task.query.y == slot]]} for slot in range(3)]
        assert [len(classes) for classes in of_slot] == [1, 1, 1]
        assert len(set.union(*of_slot)) == 3
        used |= {*support, *query}
    assert used == set(np.flatnonzero(np.isin(OWNER, SPLITS["random"][split])))


def test_neither_slot_nor_position_says_which_class_or_image_it_is(path):
    images, classes, rows = source(path), [], []
    for index in range(1000):
        support = np.array([row for row, _ in found(images.sample(ticket(index)).support.x, 5, 5)])
        classes.append(OWNER[support[::2]])
        rows.append(support[:2])
    classes, rows = np.array(classes), np.array(rows)
    assert abs((classes[:, 0] < classes[:, 1]).mean() - 0.5) < 0.06
    assert abs((rows[:, 0] < rows[:, 1]).mean() - 0.5) < 0.06
    for slot in range(3):
        share = np.array([(classes[:, slot] == index).mean() for index in SPLITS["random"]["train"]])
        assert np.abs(share - 1 / 6).max() < 0.05


def test_a_task_is_pure_in_its_ticket_and_free_of_how_the_split_is_listed(path, tmp_path):
    listed = {"random": {split: indices[::-1] for split, indices in SPLITS["random"].items()}}
    classfile.write(tmp_path / "again.arrow", pixels(5, 5), COUNTS, NAMES, listed, "elsewhere")
    forward = [source(path, rotations="random").sample(ticket(index)) for index in range(5)]
    again = source(tmp_path / "again.arrow", rotations="random")
    backward = [again.sample(ticket(index)) for index in reversed(range(5))][::-1]
    for first, second in zip(forward, backward, strict=True):
        assert torch.equal(first.support.x, second.support.x)
        assert torch.equal(first.query.x, second.query.x)
    assert not torch.equal(forward[0].support.x, forward[1].support.x)


def test_writing_into_a_task_changes_neither_the_file_nor_the_next(path):
    images = source(path)
    task = images.sample(ticket(0))
    kept = task.support.x.clone()
    task.support.x.zero_()
    task.support.y.zero_()
    assert torch.equal(images.sample(ticket(0)).support.x, kept)
    assert images.sample(ticket(0)).support.y.tolist() == [0, 0, 1, 1, 2, 2]


@pytest.mark.parametrize("image", [(5, 5), (5, 5, 3)])
def test_random_turns_are_one_per_class_and_exact(tmp_path, image):
    turns = set()
    path = tmp_path / "coloured.arrow"
    classfile.write(path, pixels(*image), COUNTS, NAMES, SPLITS, "source")
    plain, turned_source = (source(path, query_order="sorted", rotations=named) for named in ("none", "random"))
    for index in range(30):
        before, after = plain.sample(ticket(index)), turned_source.sample(ticket(index))
        rows = found(before.support.x, *image) + found(before.query.x, *image)
        placed = found(after.support.x, *image) + found(after.query.x, *image)
        assert {turn for _, turn in rows} == {0}
        assert [row for row, _ in placed] == [row for row, _ in rows]
        slots = after.support.y.tolist() + after.query.y.tolist()
        of_slot = [{turn for slot, (_, turn) in zip(slots, placed, strict=True) if slot == way} for way in range(3)]
        assert [len(seen) for seen in of_slot] == [1, 1, 1]
        turns |= set.union(*of_slot)
    assert turns == {0, 1, 2, 3}
    assert turned_source.spec().input_shape == (*(image[2:] or [1]), 5, 5)


def test_turned_classes_are_classes_of_their_own(path):
    task = source(path, ways=24, rotations="classes").sample(ticket(0))
    placed = found(task.support.x, 5, 5)
    assert len({(OWNER[row], turn) for row, turn in placed}) == 24
    assert {OWNER[row] for row, _ in placed} == set(SPLITS["random"]["train"])
    assert all(placed[2 * way][1] == placed[2 * way + 1][1] for way in range(24))


def test_evaluation_has_a_shape_of_its_own(path):
    shapes = TaskShapes(train=TaskShape(6, 1, 1), eval=TaskShape(2, 3, 2))
    images = Images(Images.Config(str(path)), shapes)
    assert images.spec().outputs == 6
    task = images.sample(Ticket(0, "evaluate", "test", 0, 0))
    assert (len(task.support.x), len(task.query.x), task.ways) == (6, 4, 2)


def test_a_missing_file_says_how_to_make_it(tmp_path):
    with pytest.raises(DataError, match=r"source.path: .*omniglot.arrow.*jobs.ingest omniglot --from download --to "):
        source(tmp_path / "omniglot.arrow")


@pytest.mark.parametrize(
    ("split", "shape", "says"),
    [
        ("randon", {}, "source.split: 'randon' is not a split set of .*; it has other, random"),
        ("random", {"ways": 7}, "'train' of 'random': has 6 classes, tasks have 7 ways; use ways <= 6"),
        ("random", {"ways": 25, "rotations": "classes"}, "has 24 classes, tasks have 25 ways"),
        (
            "random",
            {"shots": 3, "queries": 5},
            r"need 8 images.* 4 classes have fewer: 'class a' \(6\), .*'class e' \(6\)",
        ),
    ],
)
def test_what_the_file_cannot_fill_is_refused(path, split, shape, says):
    with pytest.raises(DataError, match=says) as refused:
        source(path, split, **shape).sample(ticket(0))
    assert "\n" not in str(refused.value)


def test_a_split_that_cannot_fill_the_shape_is_refused_when_asked(path):
    images = source(path, ways=5)
    with pytest.raises(DataError, match="split 'test' of 'random': has 4 classes, tasks have 5 ways"):
        images.sample(ticket(0, "test"))
    with pytest.raises(DataError, match="split 'val' of 'random': there is none; the set has train, test"):
        images.sample(ticket(0, "val"))


def test_quarter_turns_need_squares(tmp_path):
    classfile.write(tmp_path / "wide.arrow", pixels(4, 6), COUNTS, NAMES, SPLITS, "source")
    assert source(tmp_path / "wide.arrow").sample(ticket(0)).support.x.shape == (6, 1, 4, 6)
    with pytest.raises(DataError, match="square images, these are 4×6; use source.train_rotations=none"):
        source(tmp_path / "wide.arrow", rotations="random").sample(ticket(0))


def test_images_for_an_evaluation_alone_need_no_training_classes(tmp_path):
    splits = {"folder": {"test": list(range(len(NAMES)))}}
    classfile.write(tmp_path / "new.arrow", pixels(5, 5), COUNTS, NAMES, splits, "source")
    images = source(tmp_path / "new.arrow", "folder")
    assert images.spec().outputs == 3
    assert images.sample(ticket(0, "test")).support.x.shape[0] == 6
    assert images.class_sizes("test", training=False) == list(zip(NAMES, COUNTS, strict=True))
    with pytest.raises(DataError, match="split 'train' of 'folder': there is none; the set has test"):
        images.sample(ticket(0))


def by_class(path, rotations="none", **shape) -> Images:
    asked = TaskShape(**{"ways": 3, "shots": 2, "queries": 3, **shape})
    turned = {"train_rotations": rotations, "eval_rotations": rotations}
    return Images(Images.Config(str(path), labels="classes", **turned), TaskShapes(train=asked, eval=asked))


@pytest.mark.parametrize(("rotations", "each"), [("none", 1), ("classes", 4), ("random", 1)])
def test_a_class_has_one_number_in_all_training_tasks(path, rotations, each):
    train, source_, numbers = sorted(SPLITS["random"]["train"]), by_class(path, rotations), set()
    for index in range(60):
        task = source_.sample(ticket(index))
        for batch in task.support, task.query:
            for (row, turn), label in zip(found(batch.x, 5, 5), batch.y.tolist(), strict=True):
                assert label == train.index(OWNER[row]) * each + (turn if each > 1 else 0)
                numbers.add(label)
    assert numbers == set(range(len(train) * each))
    assert source_.spec() == Spec(Batch, (1, 5, 5), len(train) * each, "classes", "cross_entropy", bounds=(0.0, 1.0))


def test_evaluation_tasks_have_slots_and_the_images_they_had(path):
    for split in ("train", "test"):
        judged = ticket(4, split)._replace(purpose="evaluate")
        slots, numbered = source(path, queries=3).sample(judged), by_class(path).sample(judged)
        for one, other in zip((*slots.support, *slots.query), (*numbered.support, *numbered.query), strict=True):
            assert torch.equal(one, other)
    slots, numbered = source(path, queries=3).sample(ticket(4)), by_class(path).sample(ticket(4))
    assert torch.equal(slots.query.x, numbered.query.x)
    assert not torch.equal(slots.query.y, numbered.query.y)


def test_evaluation_may_ask_for_the_support_set_itself(path):
    shapes = TaskShapes(TaskShape(2, 2, 3), TaskShape(3, 2, 3))
    sources = [Images(Images.Config(str(path), eval_queries=name), shapes) for name in ("others", "support")]
    others, own = (one.sample(Ticket(11, "evaluate", "test", 0, 1)) for one in sources)
    assert torch.equal(own.support.x, others.support.x)
    assert torch.equal(own.query.y.bincount(), torch.tensor([2, 2, 2]))
    assert {row for row, _ in found(own.query.x, 5, 5)} == {row for row, _ in found(own.support.x, 5, 5)}
    trained = [one.sample(ticket(1)).query.x for one in sources]
    assert torch.equal(*trained)
    assert [one.evaluation for one in sources] == [
        {"rotations": "none"},
        {"rotations": "none", "queries": "the support set"},
    ]


def test_a_training_task_remembers_other_classes(path):
    """One image of each, labelled with its number among all classes; an evaluation task has its own classes alone."""
    shapes = TaskShapes(TaskShape(2, 2, 3), TaskShape(3, 2, 3))
    images = Images(Images.Config(str(path), labels="classes", remember=3), shapes)
    for number in range(10):
        support, query = images.sample(ticket(number))[1:3]
        own = set(support.y.tolist())
        counts = query.y.bincount(minlength=6).tolist()
        assert len(own) == 2
        assert [counts[one] for one in sorted(own)] == [3, 3]
        assert sorted(counts[one] for one in set(range(6)) - own) == [0, 1, 1, 1]
        for x, y in (support, query):
            owners = [OWNER[row] for row, _ in found(x, 5, 5)]
            assert [sorted(SPLITS["random"]["train"])[one] for one in y] == owners
        assert len({row for row, _ in found(torch.cat([support.x, query.x]), 5, 5)}) == 4 + 6 + 3
    judged = images.sample(Ticket(11, "evaluate", "test", 0, 1))
    assert judged.query.y.bincount().tolist() == [3, 3, 3]
    with pytest.raises(ConfigError, match=r"source.remember: 6 classes beside .* 'train' .* has 6; use at most 4"):
        Images(Images.Config(str(path), labels="classes", remember=6), shapes)
