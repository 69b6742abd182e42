"""Parts of one's own in the registries, and modules of one's own in a process: each mistake is one line."""

from __future__ import annotations

import json
import re
import sys
from dataclasses import dataclass
from typing import Any

import pytest
import torch

import pipeline
from pipeline import config
from pipeline.algorithms import ALGORITHMS
from pipeline.algorithms.maml import MAML
from pipeline.build import BuildWorker
from pipeline.core import plugins
from pipeline.core.failures import ConfigError
from pipeline.core.losses import LOSSES, TaskLoss
from pipeline.core.types import Score
from pipeline.nets import NETS
from pipeline.nets.linear import Linear
from pipeline.registry import register
from pipeline.runs.dry_run import dry_run
from pipeline.tasks import SOURCES
from pipeline.tasks.sinusoid import Sinusoid

pytestmark = pytest.mark.usefixtures("torch_threads")

REGISTRIES = (ALGORITHMS, NETS, SOURCES, LOSSES)
REGISTER_IT = "; register it in a plug-in and add --import MODULE (in Python: plugins=[...])"


@pytest.fixture(autouse=True)
def no_plugins(monkeypatch):
    """No plug-in was imported before."""
    monkeypatch.setattr(plugins, "_imported", {})


class Stretched(MAML):
    """MAML with a field of its own."""

    @dataclass(frozen=True)
    class Config(MAML.Config):
        stretch: float = 2.0


@dataclass
class Thawed:
    slope: float = 1.0


@dataclass(frozen=True)
class Untyped:
    slope: Missing = 1.0  # noqa: F821


class Waves(Sinusoid):
    """The packaged source with a loss of its own."""

    def spec(self):
        return super().spec()._replace(loss="test_absolute")


def absolute(outputs, y):
    loss = (outputs - y).abs().mean()
    return Score(loss, {"absolute": loss.detach()})


class Doubled(Linear):
    """A network of one's own."""


def recipe(**changes):
    shape = {"shots": 3, "queries": 3}
    data = {
        "name": "own",
        "steps": 1,
        "tasks_per_step": 2,
        "chunk_size": 2,
        "algorithm": {"name": "maml"},
        "net": {"name": "mlp", "hidden": [4]},
        "source": {"name": "sinusoid"},
        "normalisation": "none",
        "task": {"train": shape, "eval": shape},
        "outer": {"model": {}},
        "evaluation": {"tasks": 2},
    }
    return config.validate(data | changes, "own")


def test_what_is_registered_is_in_the_recipe_and_runs():
    for part in ("algorithm", "net", "source"):
        with pytest.raises(
            ConfigError, match=f"{part}.name: unknown {part} 'test_own'; known are .*{re.escape(REGISTER_IT)}$"
        ):
            recipe(**{part: {"name": "test_own"}})
    for thing in (Stretched, Doubled, Waves):
        pipeline.register("test_own", thing)
    pipeline.register("test_absolute", TaskLoss(absolute, "absolute", higher_is_better=False))
    own = recipe(algorithm={"name": "test_own", "stretch": 3.0}, net={"name": "test_own"}, source={"name": "test_own"})
    algorithm, source, *_ = dry_run(own)
    assert (type(algorithm), type(source), type(algorithm.model.net)) == (Stretched, Waves, Doubled)
    assert algorithm.config == Stretched.Config(stretch=3.0)
    assert algorithm.loss is absolute
    assert json.loads(own.model_dump_json())["algorithm"]["stretch"] == 3.0
    with pytest.raises(ConfigError, match="algorithm.strech: unknown key, did you mean stretch?"):
        recipe(algorithm={"name": "test_own", "strech": 3.0})
    assert recipe().algorithm.name == "maml", "the packaged ones are there too"


def test_the_same_thing_may_be_registered_twice():
    register("test_own", Stretched)
    register("test_own", Stretched)
    assert ALGORITHMS["test_own"] is Stretched


def without(base: type, **members: Any) -> type:
    return type("Mine", (base,), {"Config": base.Config, **members})


WRONG = {
    "a name that is taken": ("maml", Stretched, "register: there is an algorithm 'maml' already; choose another name"),
    "a network's": ("conv4", Doubled, "register: there is a network 'conv4' already; choose another name"),
    "a source's": ("images", Waves, "register: there is a source 'images' already; choose another name"),
    "a loss's": (
        "cross_entropy",
        TaskLoss(absolute, "absolute", higher_is_better=False),
        "register: there is a loss 'cross_entropy' already; choose another name",
    ),
    "no needs": ("mine", without(MAML, needs=None), "register 'mine': Mine has no needs, expected Needs(…)"),
    "no about": ("mine", without(MAML, about="MAML"), "register 'mine': Mine has no about, expected About(…)"),
    "no Config": (
        "mine",
        without(Linear, Config=dict),
        "register 'mine': Mine.Config is missing, expected a frozen dataclass",
    ),
    "a Config that is not frozen": (
        "mine",
        without(Sinusoid, Config=Thawed),
        "register 'mine': Thawed is not frozen; write @dataclass(frozen=True)",
    ),
    "a Config with an unknown type": (
        "mine",
        without(Sinusoid, Config=Untyped),
        "register 'mine': a type in Untyped is not known (name 'Missing' is not defined); import it at the top of its "
        "module",
    ),
    "a function": ("mine", len, "register 'mine': <built-in function len> is none of an Algorithm class, .*"),
    "an object, not its class": ("mine", object(), "register 'mine': <object object at .*> is none of .*a TaskLoss"),
    "what is written in several lines": ("mine", torch.zeros(2, 2), r"register 'mine': tensor\(.*\) is none of .*"),
    "a source that cannot sample": (
        "mine",
        type("Mine", (), {"spec": Sinusoid.spec}),
        r"register 'mine': <class '.*Mine'> is none of .* a source class \(with spec and sample\) and a TaskLoss",
    ),
    "no name": ("", Stretched, "register: '' is no name; use letters, digits, _ and -"),
    "a name that no recipe can say": (3, Stretched, "register: 3 is no name; use letters, digits, _ and -"),
}
PATTERNS = ("a function", "an object, not its class", "what is written in several lines", "a source that cannot sample")


@pytest.mark.parametrize("case", WRONG)
def test_each_mistake_in_a_registration_is_one_line(case):
    name, thing, message = WRONG[case]
    before = [dict(registry) for registry in REGISTRIES]
    with pytest.raises(ConfigError) as caught:
        register(name, thing)
    said = str(caught.value)
    assert re.fullmatch(message, said) if case in PATTERNS else said == message
    assert "\n" not in said
    assert [dict(registry) for registry in REGISTRIES] == before


def test_a_source_s_loss_must_be_registered():
    register("test_waves", Waves)
    with pytest.raises(ConfigError) as caught:
        dry_run(recipe(source={"name": "test_waves"}))
    assert str(caught.value) == (
        f"source.name: test_waves names the loss 'test_absolute'; known are {', '.join(LOSSES)}{REGISTER_IT}"
    )


@pytest.fixture
def lab(tmp_path, monkeypatch):
    """Writes modules that can be imported, under names that no other test has."""
    monkeypatch.syspath_prepend(tmp_path)

    def write(text, name="lab_module"):
        path = tmp_path / f"{name.replace('.', '/')}.py"
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
        return name

    return write


MINE = """
import pipeline
from pipeline.algorithms.maml import MAML
class Mine(MAML):
    class Inner:
        deep = 3
pipeline.register("lab_mine", Mine)
"""


def test_a_plug_in_is_imported_once_and_known_in_order(lab):
    lab("counted = []\n", "lab_counter")
    first, second = lab("import lab_counter\nlab_counter.counted.append(1)\n", "lab_first"), lab(MINE)
    plugins.import_plugins([second, first])
    plugins.import_plugins([first, second])
    assert plugins.imported() == (second, first)
    assert sys.modules["lab_counter"].counted == [1]
    assert recipe(algorithm={"name": "lab_mine"}).algorithm.name == "lab_mine"


def test_a_worker_imports_the_plug_ins_before_it_reads_the_recipe(lab):
    plugins.import_plugins([lab(MINE)])
    text = recipe(algorithm={"name": "lab_mine"}).model_dump_json()
    del ALGORITHMS["lab_mine"], sys.modules["lab_module"]
    plugins._imported.clear()
    with pytest.raises(ConfigError, match="unknown algorithm 'lab_mine'"):
        BuildWorker(text)()
    assert type(BuildWorker(text, ("lab_module",))().algorithm).__name__ == "Mine"


def test_where_plug_ins_lie_that_a_cluster_must_be_sent(lab, tmp_path):
    lab("", "lab_package.__init__")
    plugins.import_plugins([lab("", "lab_package.nets"), lab("", "lab_alone"), "yaml"])
    assert plugins.places() == [str(tmp_path / "lab_package"), str(tmp_path / "lab_alone.py")]


@pytest.mark.parametrize(
    ("text", "name", "message"),
    [
        (None, "lab_absent", "--import lab_absent: this machine has no module lab_absent; start in the folder .*"),
        (None, "lab_absent.nets", "--import lab_absent.nets: this machine has no module lab_absent; .* on every node"),
        ("", "lab_module.nets", "--import lab_module.nets: this machine has no module lab_module.nets; .*"),
        (
            "import lab_nowhere",
            "lab_module",
            "--import lab_module: it imports lab_nowhere, which is not installed here",
        ),
        ("1 / 0", "lab_module", "--import lab_module: raised ZeroDivisionError: division by zero"),
        ("raise ValueError('a\\nb')", "lab_module", "--import lab_module: raised ValueError: a b"),
        ("def", "lab_module", "--import lab_module: raised SyntaxError: .*"),
        ("import pipeline\npipeline.register('x', 3)", "lab_module", "register 'x': 3 is none of .*"),
        (None, "", "--import : raised ValueError: Empty module name"),
        (None, ".nets", "--import .nets: raised TypeError: .*"),
    ],
)
def test_each_mistake_in_a_plug_in_is_one_line(lab, text, name, message):
    if text is not None:
        lab(text)
    with pytest.raises(ConfigError) as caught:
        plugins.import_plugins([name])
    assert re.fullmatch(message, str(caught.value)), str(caught.value)
    assert plugins.imported() == ()


def test_an_attribute_is_found_at_any_depth(lab):
    plugins.import_plugins([lab(MINE)])
    assert plugins.attribute("lab_module:Mine", "net.factory") is ALGORITHMS["lab_mine"]
    assert plugins.attribute("lab_module:Mine.Inner.deep", "net.factory") == 3


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("lab_module", "net.factory: 'lab_module', expected MODULE:NAME, for example my_lab.nets:resnet"),
        ("lab_module:", "net.factory: 'lab_module:', expected MODULE:NAME, for example my_lab.nets:resnet"),
        (":Mine", "net.factory: ':Mine', expected MODULE:NAME, for example my_lab.nets:resnet"),
        ("os:system", "net.factory: os is no imported plug-in; imported are lab_module; add --import os"),
        ("lab_module:Yours", "net.factory: lab_module has no Yours"),
        ("lab_module:Mine.Outer", "net.factory: lab_module has no Mine.Outer"),
    ],
)
def test_an_attribute_that_is_not_there_is_one_line(lab, path, message):
    plugins.import_plugins([lab(MINE)])
    with pytest.raises(ConfigError) as caught:
        plugins.attribute(path, "net.factory")
    assert str(caught.value) == message


def test_a_recipe_imports_no_code():
    with pytest.raises(ConfigError) as caught:
        plugins.attribute("os:system", "net.factory")
    assert str(caught.value) == "net.factory: os is no imported plug-in; add --import os"
