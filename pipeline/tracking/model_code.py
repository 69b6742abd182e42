"""The code of the MLflow model of a run. MLflow copies this file into the model, and runs it to load the model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
from mlflow.exceptions import MlflowException
from mlflow.models import set_model
from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE
from mlflow.pyfunc import PythonModel, PythonModelContext

from pipeline.core.failures import PipelineError
from pipeline.core.plugins import PLUGINS, import_plugins
from pipeline.runs.run_folder import load_learner
from pipeline.serving.answers import answer


class RefusedRequest(MlflowException):
    """One line. MLflow's server would put the whole request before a message that can be changed."""

    @property
    def message(self) -> str:
        return str(self.args[0])

    @message.setter
    def message(self, text: str) -> None:
        """Keeps the line."""


class AdaptableModel(PythonModel):
    """Adapts to a support set and answers queries: ``pipeline.serving.answers`` says what a request has.

    The param ``normalisation`` predicts under another mode than the run's. A transductive run must be given one, since
    an answer would depend on the other queries of the request.
    """

    def load_context(self, context: PythonModelContext) -> None:
        self._folder = Path(context.artifacts["run"])
        self._learners: dict[str, Any] = {}
        plugins = self._folder / PLUGINS
        if plugins.exists():
            import_plugins(json.loads(plugins.read_text("utf-8")))

    def predict(
        self, context: PythonModelContext, model_input: pd.DataFrame, params: dict[str, Any] | None = None
    ) -> Any:
        """One request in each row: its answer, or a list of them where there are several rows."""
        mode = (params or {}).get("normalisation", "")
        try:
            learner = self._learner(mode)
            answers = [answer(learner, _given(row)) for _, row in model_input.iterrows()]
        except PipelineError as error:
            raise RefusedRequest(str(error), error_code=INVALID_PARAMETER_VALUE) from error
        return answers[0] if len(answers) == 1 else answers

    def _learner(self, mode: str) -> Any:
        if mode not in self._learners:
            self._learners[mode] = load_learner(self._folder, mode or None)
        return self._learners[mode]


def _given(row: pd.Series) -> dict[str, Any]:
    return {name: value for name, value in row.items() if value is not None}


set_model(AdaptableModel())
