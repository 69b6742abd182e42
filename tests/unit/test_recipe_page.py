"""The page of recipes: a recipe stands there with a run that had its very settings, and every field has its line."""

from __future__ import annotations

from dataclasses import replace
from typing import get_args

from pipeline import recipes
from pipeline.algorithms import ALGORITHMS
from pipeline.comparison.pages import fields, packaged
from pipeline.config import Recipe, Section, recipe_type
from pipeline.runs.recorded import load

NAME = "omniglot_maml_5w1s"


def recorded(**changes):
    (one,) = [one for one in load(packaged.RESULTS / packaged.OWN_RUNS) if one.method == NAME]
    return replace(one, summary={**one.summary, **changes})


def every_section(hint=None):
    hint = recipe_type() if hint is None else hint
    if isinstance(hint, type) and issubclass(hint, Section):
        yield hint
        for field in hint.model_fields.values():
            yield from every_section(field.annotation)
    for argument in get_args(hint):
        yield from every_section(argument)


def test_every_packaged_recipe_has_a_recorded_run_of_its_very_settings():
    assert sorted(packaged.recorded_runs()) == recipes.names()


def test_a_recipe_stands_there_with_what_is_recorded_of_it(tmp_path):
    one = recorded()
    one.save(tmp_path / packaged.OWN_RUNS)
    (row,) = [row for row in packaged.page(tmp_path).splitlines() if row.startswith("| `omniglot")]
    assert [cell.strip() for cell in row.strip("|").split(" | ")] == [
        f"`{NAME}`",
        "accuracy 94.12% ± 0.47% after 3 steps †",
        "600 test tasks of random, 5-way 1-shot",
        "transductive",
        "3,000 steps, 1,002 s",
        "AMD EPYC, Ray with 2 workers",
        "2026-11-21",
        f"`python -m jobs.train {NAME}`",
        "98.7 ± 0.4",
    ]


def test_a_run_of_other_settings_or_steps_is_not_the_recipes(tmp_path):
    for changes in ({"identity": "0000"}, {"steps": 2999}):
        recorded(**changes).save(tmp_path / packaged.OWN_RUNS)
        assert packaged.recorded_runs(tmp_path) == {}
        text = packaged.page(tmp_path)
        assert "94.12" not in text
        assert f"`{NAME}`" in text.partition("No run is recorded of")[2].splitlines()[0]


def test_every_field_has_a_line_in_the_docstring_of_its_class_and_no_line_is_of_none():
    for section in every_section():
        own = {key for key, field in section.model_fields.items() if not list(every_section(field.annotation))}
        chosen = {"name"} if not issubclass(section, Recipe) else set()
        assert set(fields.meanings(section)) == own - chosen, section.__name__


def test_a_field_stands_there_with_its_type_default_and_bounds():
    text = "\n\n".join(fields.sections(recipe_type()))
    for row in (
        "| `inner_lr` | number | `0.01` | > 0, ≤ 10^6 | Rate of an inner step, on the *mean* support loss. |",
        "| `seed` | integer | `0` | ≥ 0, < 2^64 |",
        '| `device` | `auto`, `cpu`, `cuda` | `"auto"` |  |',
        "| `side` | integer or `null` | `null` | ≥ 1, ≤ 1024 |",
        "| `hidden` | list of integers | `[40, 40]` | 0 to 16 of them, ≥ 1, ≤ 2^14 |",
        "| `channels` | list of integers | `[64, 160, 320, 640]` | 4 of them, ≥ 1, ≤ 2^14 |",
        "| `arguments` | keys with `true` or `false` or integer or number or text | `{}` | ≥ −2^53, ≤ 2^53 |",
        '| `uri` | text | `"sqlite:///mlflow.db"` |  |',
        '| `experiment` | text | `"metafleet"` | 1 to 500 characters |',
        "| `clip` | number or `null` | `null` | > 0, ≤ 10^30 |",
        "| `amplitude` | list of 2 numbers | `[0.1, 5.0]` | > 0, ≤ 1000 |",
        "| `path` | text | – |  |",
    ):
        assert row in text
    for heading in ("### `algorithm`", "#### `maml`", "### `task`", "### `outer.GROUP`", "### `tracking`"):
        assert f"{heading}\n" in text


def test_a_field_that_a_config_inherits_is_described_once():
    assert set(fields.meanings(ALGORITHMS["anp"].Config)) == {"heads"}
    (section,) = [one for one in every_section() if one.__name__ == "ANPConfig"]
    assert [*fields.meanings(section)] == [key for key in section.model_fields if key != "name"]


def test_a_meaning_may_go_on_over_lines_and_ends_with_the_list():
    class Odd:
        """What it is.

        Attributes:
            first: One line
                and another.
            second: The last: with a colon.

        third: no field.
        """

    assert fields.meanings(Odd) == {"first": "One line and another.", "second": "The last: with a colon."}
    assert fields.meanings(int) == {}
