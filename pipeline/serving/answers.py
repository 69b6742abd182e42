"""One request to a served model: support set and queries in, answers out as plain lists and numbers."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from typing import Any

import numpy as np

from pipeline.core.failures import DataError
from pipeline.core.source import Spec
from pipeline.core.types import Points
from pipeline.serving.learner import Learner

EPISODE = ("observations", "actions", "rewards")
REQUIRED, OPTIONAL = "query_x", ("support_x", "support_y")


def fields_of(spec: Spec, *, texts: bool) -> tuple[str, ...]:
    """What an answer to a request for tasks of ``spec`` has."""
    if texts:
        return ("texts",)
    if spec.actions is not None:
        return ("actions",)
    if spec.tokens is not None:
        return ("tokens",)
    if spec.data is Points:
        return ("values", "deviations")
    return ("values",) if spec.targets == "values" else ("labels", "classes", "probabilities")


def answer(learner: Learner, request: Mapping[str, Any]) -> dict[str, Any]:
    """Adapt to the support set and answer the queries.

    Args:
        learner: the trained model.
        request: ``support_x`` and ``support_y`` as ``Learner.adapt`` takes them, and ``query_x`` as ``predict`` does.
            A text in the place of a picture is the picture's file in base64. Of an agent ``support_x`` are episodes,
            each with its ``observations``, ``actions`` and ``rewards``, and ``query_x`` are observations, each the
            first of an episode that comes after them.

    Returns:
        ``labels`` [N], ``classes`` [C] and ``probabilities`` [N, C] in their order; for a regression ``values`` [N, Y],
        of a neural process with ``deviations`` [N, Y]; for a language ``texts`` or ``tokens``; for an agent
        ``actions``.

    Raises:
        DataError: a part is missing, unknown, or does not fit.
    """
    unknown = sorted(set(request) - {REQUIRED, *OPTIONAL})
    if unknown or request.get(REQUIRED) is None:
        wrong = f"{unknown[0]!r} is unknown" if unknown else f"{REQUIRED!r} is missing"
        raise DataError(f"{wrong}; a request has support_x, support_y and query_x")
    support_x, support_y, query_x = (_plain(request.get(name)) for name in (*OPTIONAL, REQUIRED))
    if learner.preparation is not None:
        support_x, query_x = _pictures(support_x, "support_x"), _pictures(query_x, "query_x")
    names = fields_of(learner.spec, texts=learner.texts is not None)
    if names == ("actions",):
        return {"actions": _actions(learner, support_x, query_x)}
    predictor = learner.adapt(support_x, support_y)
    if names == ("texts",):
        return {"texts": predictor.predict(query_x)}
    outputs = predictor.outputs(query_x)
    if names == ("values", "deviations"):
        return dict(zip(names, (half.tolist() for half in np.split(outputs, 2, 1)), strict=True))
    if len(names) == 1:
        return {names[0]: outputs.tolist()}
    probabilities = predictor.shares(outputs)
    labels = [predictor.labels[slot] for slot in outputs.argmax(1)]
    return dict(zip(names, (labels, list(predictor.labels), probabilities.tolist()), strict=True))


def _actions(learner: Learner, episodes: Any, observations: Any) -> list[Any]:
    """An action for each observation, each by an agent of its own that starts after the episodes."""
    read = [] if episodes is None else [_episode(one, number) for number, one in enumerate(episodes)]
    rows = np.asarray(observations)
    if rows.ndim < 1 or not len(rows):
        raise DataError("query_x: no observations; give one or more")
    agent = learner.adapt(read) if read else learner.adapt()
    actions = [agent.copy().act(row) for row in rows]
    return [action.tolist() if isinstance(action, np.ndarray) else action for action in actions]


def _episode(one: Any, number: int) -> tuple[Any, ...]:
    if not isinstance(one, Mapping) or set(one) != set(EPISODE):
        raise DataError(f"support_x[{number}]: expected an object with {', '.join(EPISODE)}, one for each step")
    return tuple(one[name] for name in EPISODE)


def _pictures(values: Any, name: str) -> Any:
    """The values, with texts read as base64: a path would read this machine's files for a stranger."""
    if not isinstance(values, list | tuple):
        return values
    return [_file(one, f"{name}[{at}]") if isinstance(one, str) else one for at, one in enumerate(values)]


def _file(text: str, place: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise DataError(
            f"{place}: {text[:40]!r} is no base64; give a picture's file in base64, or take paths with pipeline.load"
        ) from None


def _plain(values: Any) -> Any:
    """Arrays of objects and texts, which a server makes of JSON, as lists."""
    return values.tolist() if isinstance(values, np.ndarray) and values.dtype.kind in "OUS" else values
