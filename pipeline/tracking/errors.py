"""Turns what MLflow raises into one line."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from mlflow.exceptions import MlflowException

from pipeline.core.failures import PipelineError
from pipeline.core.redact import redact, redact_uri


@contextmanager
def without_secrets(uri: str) -> Iterator[None]:
    """What mlflow and requests raise quotes the URI with its credentials: say it in one line without them."""
    try:
        yield
    except (MlflowException, OSError) as error:
        text = " ".join(redact(str(error)).split())
        raise PipelineError(f"MLflow at {redact_uri(uri)}: {text[:300]}") from None
