"""Support sets of images: which classes and images each has, what is asked at the end, and what is judged."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pipeline.build import build_components, build_worker
from pipeline.core.failures import ConfigError, DataError
from pipeline.core.seeding import Ticket
from pipeline.core.source import TaskShape, TaskShapes
from pipeline.core.types import Batch
from pipeline.engine.interfaces import Chunk
from pipeline.runs.dry_run import dry_run
from pipeline.serving.learner import Learner
from pipeline.tasks.image_sets import ImageSets
from tests.runtime.tiny import sets

pytestmark = pytest.mark.usefixtures("torch_threads")

TICKETS = [Ticket(11, "train", "train", 0, number) for number in range(10)]


def source(path, ways=6, shots=2, queries=3, **settings) -> ImageSets:
    shape = TaskShape(ways, shots, queries)
    return ImageSets(ImageSets.Config(str(path), **settings), TaskShapes(shape, shape))


def rows(x: torch.Tensor) -> list[bytes]:
    return [row.numpy().tobytes() for row in x]


def test_each_support_set_has_classes_of_its_own_and_all_are_asked(small_images):
    for ticket in TICKETS:
        support, query = source(small_images, sets=3).sample(ticket)[1:3]
        assert support.number.tolist() == [0] * 4 + [1] * 4 + [2] * 4
        assert support.y.tolist() == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5]
        assert query.y.bincount().tolist() == [3] * 6
        assert isinstance(query, Batch)
        assert query.y.tolist() != sorted(query.y.tolist()), "queries come in no order"
        assert len({*rows(support.x), *rows(query.x)}) == 12 + 18


def test_sets_of_the_same_classes_have_other_images_of_them(small_images):
    for ticket in TICKETS:
        support, query = source(small_images, ways=4, sets=4, change_every=2).sample(ticket)[1:3]
        assert support.number.tolist() == [number for number in range(4) for _ in range(4)]
        assert support.y.tolist() == [0, 0, 1, 1] * 2 + [2, 2, 3, 3] * 2
        assert len({*rows(support.x), *rows(query.x)}) == 16 + 12


def test_the_number_of_sets_changes_no_image(small_images):
    """So that the same classes can come at once or in sets."""
    for ticket in TICKETS:
        together, apart = (source(small_images, sets=sets).sample(ticket) for sets in (1, 3))
        for one, other in zip(together.support[:2], apart.support[:2], strict=True):
            assert torch.equal(one, other)
        for one, other in zip(together.query, apart.query, strict=True):
            assert torch.equal(one, other)


@pytest.mark.parametrize(("sets", "change_every", "means"), [(3, 1, [0.5, 0.25, 1.0]), (4, 2, [1 / 6, 1 / 6, 1, 1])])
def test_each_set_s_classes_are_judged_wherever_their_queries_stand(small_images, sets, change_every, means):
    ways = 6 if change_every == 1 else 4
    images = source(small_images, ways=ways, sets=sets, change_every=change_every)
    each = [[1.0, 0, 1, 0], [1, 0, 0, 0], [1, 1, 1, 1]] if change_every == 1 else [[1.0, 0, 0, 0, 0, 0], [1.0] * 6]
    right = torch.tensor(each).flatten()
    slots = torch.arange(ways).repeat_interleave(len(right) // ways)
    order = torch.from_numpy(np.random.default_rng(2).permutation(len(right)))
    found = images.judge({"accuracy": right[order]}, Batch(torch.empty(0), slots[order]))
    assert found == {f"accuracy_{number}": pytest.approx(mean) for number, mean in enumerate(means, 1)}


def test_an_evaluation_s_hash_knows_the_sets(small_images):
    assert source(small_images, sets=3).evaluation == {
        "rotations": "none",
        "support sets": 3,
        "classes change every": 1,
    }


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"sets": 4, "change_every": 3},
            "source.change_every: 3, but there are source.sets = 4 support sets; use a divisor of that",
        ),
        (
            {"sets": 4},
            "task.train.ways: 6 classes in all, but source.sets = 4 and source.change_every = 1 share them out among "
            "4; use a multiple of 4",
        ),
    ],
)
def test_sets_are_of_equal_size(small_images, settings, message):
    with pytest.raises(ConfigError) as caught:
        source(small_images, **settings)
    assert str(caught.value) == message


def test_the_images_of_all_sets_must_be_there(small_images):
    source(small_images, shots=8, queries=4, sets=2, change_every=1)
    with pytest.raises(DataError, match="16 shots \\+ 8 queries need 24 images per class"):
        source(small_images, shots=8, queries=8, sets=2, change_every=2).sample(Ticket(11, "train", "train", 0, 0))


@pytest.mark.parametrize(("algorithm", "points"), [("maml", (0, 2, 4)), ("ntm", (0, 1, 2)), ("protonet", (0,))])
def test_an_evaluation_tells_what_is_kept_of_each_set(algorithm, points, small_images):
    """Prototypes are never unlearned, and are scored at the end alone."""
    wanted = sets(small_images, algorithm)
    parts = build_components(wanted)
    tickets = tuple(Ticket(1, "evaluate", "test", 0, number) for number in range(3))
    report = build_worker(wanted, parts).score(parts.theta.numpy(), Chunk(0, 0, tickets))
    assert report.points == points
    found = report.metrics
    assert np.allclose(found["accuracy"], (found["accuracy_1"] + found["accuracy_2"]) / 2, atol=1e-6)
    assert ("accuracy_forgetting" in found) == (algorithm != "protonet")
    if algorithm != "protonet":
        assert np.array_equal(
            found["accuracy_forgetting"][:, 2], (found["accuracy_1"][:, 1] - found["accuracy_1"][:, 2])
        )


@pytest.mark.parametrize("algorithm", ["maml", "protonet", "mann", "ntm", "nearest"])
def test_the_recipe_of_each_learner_is_runnable(algorithm, small_images):
    dry_run(sets(small_images, algorithm))


def test_a_method_that_would_see_all_sets_at_once_is_refused(small_images):
    with pytest.raises(ConfigError, match="reptile takes tasks of Batch or Pairs, the source image_sets gives Sets"):
        build_components(sets(small_images, "reptile", normalisation="transductive"))
    with pytest.raises(ConfigError, match="normalisation: 'support' looks at all support sets at once"):
        dry_run(sets(small_images, normalisation="support"))


@pytest.mark.parametrize("algorithm", ["maml", "protonet", "mann", "nearest"])
def test_what_is_served_at_once_is_one_of_the_sets(algorithm, small_images):
    trained, source, layout, theta, _ = build_components(sets(small_images, algorithm))
    learner = Learner(trained, layout.unpack(theta), source.spec())
    support = source.sample(TICKETS[0]).support
    answers = learner.adapt(support.x, support.y.tolist()).outputs(support.x)
    assert answers.shape == (4, 4)
    assert np.isfinite(answers).all()


def test_support_sets_are_as_many_as_asked(small_images):
    """The article has 3 to 10 of them. More than ten are scored at fewer points, as all long traces are."""
    shape = {"ways": 8, "shots": 1, "queries": 1}
    eight = {"name": "image_sets", "path": str(small_images), "sets": 8}
    parts = build_components(sets(small_images, source=eight, task={"train": shape, "eval": shape}))
    assert len(parts.source.sample(TICKETS[0]).support.number.unique()) == 8
