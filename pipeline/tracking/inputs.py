"""A run's data set as MLflow's entity."""

from __future__ import annotations

import json

from mlflow.entities import Dataset, DatasetInput, InputTag

from pipeline.engine.interfaces import DataSet

NAME, DIGEST = 500, 36
"""The characters that MLflow keeps."""


def as_input(data: DataSet) -> DatasetInput:
    """The input of a run. MLflow keeps the beginning of its hash; the whole hash is in its profile."""
    source = json.dumps({"uri": data.source} if data.source else {})
    told = json.dumps({"hash": data.digest, **data.facts}, ensure_ascii=False)
    kind = "local" if data.source else "code"
    found = Dataset(data.name[:NAME], data.digest[:DIGEST], kind, source, profile=told)
    return DatasetInput(found, [InputTag("mlflow.data.context", "training, evaluation")])
