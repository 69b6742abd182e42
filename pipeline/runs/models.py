"""Finds the folder of a trained model: a run's own, or the small one in a model of MLflow's."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pipeline.config.sections import Tracking
from pipeline.tracking.uri import is_model_uri


@contextmanager
def folder_of(model: str | Path) -> Iterator[str | Path]:
    """The folder to load a model from, for as long as it is needed.

    ``model`` is a run's folder or its URI, or the URI of a model in MLflow at MLFLOW_TRACKING_URI, by default
    ``sqlite:///mlflow.db``.

    Raises:
        ConfigError: MLflow cannot be reached, or has no such model.
    """
    if not is_model_uri(model):
        yield model
        return
    from pipeline.tracking.registry import Registry

    registry = Registry(Tracking().uri)
    with registry.files(registry.model_id(str(model))) as folder:
        yield folder
