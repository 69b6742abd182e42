"""Pictures: each is a whole PNG with named axes, and says what the arrays say."""

from __future__ import annotations

import io

import numpy as np
import pytest
from matplotlib.colors import to_hex
from PIL import Image

from pipeline.engine.interfaces import Span
from pipeline.pictures import canvas, curves, layers, slots, tasks, workers

RNG = np.random.default_rng(0)


def episode(ways=3):
    y = np.repeat(np.arange(ways), 4)
    images = RNG.random((len(y), 1, 8, 8))
    return tasks.Episode("task 1", images[::4], y[::4], images, y, np.roll(y, 1))


def regression(deviation=None):
    grid = np.linspace(-1, 1, 20)
    fits = (tasks.Fit("before adaptation", grid, deviation), tasks.Fit("after 3 inner steps", grid**2, deviation))
    return tasks.Regression("task 1", RNG.random((5, 2)), RNG.random((9, 2)), grid, fits)


def spans():
    busy = [
        Span(worker, "node", "learn", step, worker, 2.0 * step, 2.0 * step + 1 + worker / 2)
        for step in range(1, 4)
        for worker in (0, 1)
    ]
    return [*busy, Span(0, "node", "score", 0, 0, 8.0, 8.5)]


CURVE = curves.Curve(np.array([0, 1, 5]), np.array([0.2, 0.6, 0.7]), np.array([0.02, 0.02, 0.01]))
ONCE = curves.Curve(*np.zeros((3, 1)))
TRAINED = {"loss": {"training tasks": CURVE}, "accuracy": {"training tasks": CURVE, "validation": CURVE}}
DRAWN = {
    "adaptation": lambda: curves.adaptation("a\nb", {"last theta": CURVE}, RNG.random((30, 3)), "accuracy", "share"),
    "adapted at once": lambda: curves.adaptation("a", {"last theta": ONCE}, RNG.random((9, 1)), "m", ""),
    "training": lambda: curves.training("a\nb", TRAINED, {"accuracy": "share", "loss": "log"}),
    "gradients": lambda: layers.gradients("a", {"layer0": np.array([1.0, 1e3]), "head": np.array([2.0, 3.0])}),
    "rates": lambda: layers.rates("a", {"layer0": RNG.random(50), "head": RNG.random(5)}, 0.01, by_step=False),
    "rates by step": lambda: layers.rates("a", {"layer0": RNG.random(5), "head": RNG.random(5)}, 0.01, by_step=True),
    "fits": lambda: tasks.fits("a", [regression(), regression()]),
    "densities": lambda: tasks.fits("a", [regression(np.full(20, 0.1))]),
    "confusion": lambda: tasks.confusion("a", ["one", "two", "three"], np.array([[3.0, 1, 0], [0, 4, 0], [2, 2, 0]])),
    "memory": lambda: slots.memory("a", RNG.random((6, 2, 8)), RNG.random((6, 2, 8)), list("121212")),
    "workers": lambda: workers.timeline("a", spans()),
}  # fmt: skip


@pytest.mark.parametrize("name", DRAWN)
def test_a_picture_is_whole_and_its_axes_are_named(name):
    figure = DRAWN[name]()
    data = canvas.png(figure)
    width, height = Image.open(io.BytesIO(data)).size
    assert 400 <= width <= 2000
    assert 150 <= height <= 1500
    assert figure.texts[0].get_text() == "a"
    shown = [axes for axes in figure.axes if axes.axison and axes.get_label() != "<colorbar>"]
    assert shown
    assert all(axes.get_xlabel() for axes in shown)
    assert all(axes.get_ylabel() or axes.get_yticklabels()[0].get_text() for axes in shown)


def test_an_episode_frames_each_query_by_right_or_wrong():
    one = episode()
    figure = tasks.episodes("a", [one])
    frames = [to_hex(patch.get_edgecolor()) for patch in figure.axes[0].patches]
    right = int((one.answers == one.query_y).sum())
    assert (frames.count(canvas.RIGHT.lower()), frames.count(canvas.WRONG.lower())) == (right, 12 - right)
    assert "75% right" in figure.axes[0].get_title(loc="left")
    assert canvas.png(figure)


def test_the_hardest_class_comes_first_with_what_it_is_taken_for():
    axes = DRAWN["confusion"]().axes[0]
    assert [text.get_text() for text in axes.get_yticklabels()] == ["three (4)", "one (4)", "two (4)"]
    told = [text.get_text() for text in axes.texts]
    assert told == ["50% one", "50% two", "75%", "25% two", "100%"]


def test_the_share_of_busy_time_is_that_of_the_whole():
    names = [text.get_text() for text in DRAWN["workers"]().axes[0].get_yticklabels()]
    assert names == ["worker 0\nbusy 54%", "worker 1\nbusy 69%"], "3.5 and 4.5 of 6.5 seconds"


def test_text_is_shown_as_it_is():
    figure = tasks.confusion("cost in $ and $x_1$", ["a $x^2$", "号"], np.array([[1.0, 1], [0, 2]]))
    assert canvas.png(figure)
    assert r"\$x\^2" not in figure.axes[0].get_yticklabels()[0].get_text()


def test_colours_differ():
    assert len(set(canvas.COLOURS)) == len(canvas.COLOURS)
    assert canvas.colour(len(canvas.COLOURS)) == canvas.colour(0)


def test_a_task_of_one_score_has_no_interval_and_is_drawn():
    alone = curves.Curve(np.array([0, 1]), np.array([0.5, 0.6]), np.array([np.nan, np.nan]))
    assert canvas.png(curves.adaptation("a", {"last theta": alone}, np.array([[0.5, 0.6]]), "mse", ""))
    assert canvas.png(curves.adaptation("a", {"last theta": alone}, np.array([[0.5, np.nan], [0.5, 1.0]]), "mse", ""))
