"""Models by URI, as MLflow writes them: ``models:/NAME@ALIAS``, ``models:/NAME/3``, ``models:/m-ID``, ``runs:/RUN``."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import mlflow
from mlflow.artifacts import download_artifacts
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from pipeline.core.failures import ConfigError
from pipeline.core.redact import redact_uri
from pipeline.tracking.errors import without_secrets
from pipeline.tracking.mlflow_tracker import probe
from pipeline.tracking.model import RUN, logged_models
from pipeline.tracking.uri import absolute, database, is_web, shown

NOT_THERE = ("RESOURCE_DOES_NOT_EXIST", "NOT_FOUND", "INVALID_PARAMETER_VALUE")
"""What MLflow answers to a model, an alias or a run that does not exist."""
CHAMPION = "champion"
"""The alias of the version to use."""
FORMS = "models:/NAME@ALIAS, models:/NAME/VERSION, models:/m-ID or runs:/RUN_ID"
_URI = re.compile(
    r"runs:/(?P<run>[0-9a-f]{32})(/[^/]*)?|models:/(?P<id>m-[0-9a-f]{32})"
    r"|models:/(?P<name>[^/@]+)(@(?P<alias>[^/@]+)|/(?P<version>\d+))"
)


class Registry:
    """The logged models and the registered ones of a tracking server or database.

    Raises:
        ConfigError: it cannot be reached; a model is not there.
        PipelineError: MLflow did not take a call.
    """

    def __init__(self, uri: str) -> None:
        if not (is_web(uri) or database(uri).exists()):
            raise ConfigError(f"{shown(uri)}: does not exist; set MLFLOW_TRACKING_URI to where the model's run is")
        probe(uri)
        self.uri = absolute(uri)
        self.client = MlflowClient(tracking_uri=self.uri)

    def model_id(self, uri: str) -> str:
        """The id of the logged model that a URI names."""
        parts = _URI.fullmatch(uri)
        if parts is None:
            raise ConfigError(f"{uri}: is no model's URI; expected {FORMS}")
        if parts["id"]:
            return str(parts["id"])
        if parts["run"]:
            return self.model_of_run(parts["run"])
        with without_secrets(self.uri):
            version = self._version(parts["name"], parts["alias"], parts["version"])
            known = [one.name for one in self.client.search_registered_models()] if version is None else []
        if version is None:
            raise ConfigError(
                f"{uri}: there is none at {redact_uri(self.uri)}; it has {', '.join(known) or 'no models'}"
            )
        return self.model_of(version)

    def model_of(self, version: ModelVersion) -> str:
        """The id of the logged model that a version was made of."""
        source = _URI.fullmatch(str(version.source))
        if source is None or not source["id"]:
            raise ConfigError(
                f"models:/{version.name}/{version.version}: was made of {redact_uri(str(version.source))}, not of a "
                "run's model; register one with `python -m jobs.register`"
            )
        return str(source["id"])

    def model_of_run(self, run: str) -> str:
        """The id of a run's newest model that is whole."""
        with self.errors(f"run {run}"):
            ready = [one for one in logged_models(self.client, run) if str(one.status) == "READY"]
        if not ready:
            raise ConfigError(
                f"run {run}: has no logged model at {redact_uri(self.uri)}; a run logs one at its end with "
                "tracking.report=true, and `python -m jobs.sync DIR` sends what is missing"
            )
        return str(ready[0].model_id)

    @contextmanager
    def files(self, model_id: str) -> Iterator[Path]:
        """The small run folder in a logged model, for as long as it is needed."""
        with TemporaryDirectory() as scratch:
            with self.errors(f"models:/{model_id}"):
                place = self.client.get_logged_model(model_id).artifact_location
                folder = download_artifacts(
                    artifact_uri=f"{place}/artifacts/{RUN}", dst_path=scratch, tracking_uri=self.uri
                )
            yield Path(folder)

    def champion(self, name: str) -> ModelVersion | None:
        """The champion of a registered model; None where there is no model of that name, or no champion."""
        with without_secrets(self.uri):
            return self._version(name, CHAMPION, None)

    def register(self, name: str, model_id: str, tags: Mapping[str, str]) -> str:
        """The version of a registered model that a logged one is, by now: both are created if need be."""
        with self.errors(f"models:/{model_id}"), self._everywhere():
            model = self.client.get_logged_model(model_id)
            if not self.client.search_registered_models(f"name = '{name}'"):
                self.client.create_registered_model(name)
            for known in self.client.search_model_versions(f"name = '{name}'"):
                if known.source == f"models:/{model_id}":
                    return str(known.version)
            made = self.client.create_model_version(
                name, f"models:/{model_id}", model.source_run_id, dict(tags), model_id=model_id
            )
            return str(made.version)

    def make_champion(self, name: str, version: str) -> None:
        """Give a version the alias ``CHAMPION``, which the one before loses."""
        with without_secrets(self.uri):
            self.client.set_registered_model_alias(name, CHAMPION, version)

    @contextmanager
    def _everywhere(self) -> Iterator[None]:
        """MLflow looks up a version's logged model at its global URI: it is set for a while."""
        before = mlflow.get_tracking_uri()
        mlflow.set_tracking_uri(self.uri)
        try:
            yield
        finally:
            mlflow.set_tracking_uri(before)

    @contextmanager
    def errors(self, what: str) -> Iterator[None]:
        """Says in one line what MLflow does not take; ``what`` is what may not be there."""
        with without_secrets(self.uri):
            try:
                yield
            except MlflowException as error:
                if error.error_code not in NOT_THERE:
                    raise
                raise ConfigError(f"{what}: there is none at {redact_uri(self.uri)}") from None

    def _version(self, name: str, alias: str | None, number: str | None) -> ModelVersion | None:
        try:
            if alias:
                return self.client.get_model_version_by_alias(name, alias)
            return self.client.get_model_version(name, number)
        except MlflowException as error:
            if error.error_code not in NOT_THERE:
                raise
            return None
