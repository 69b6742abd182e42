"""MLflow as a Tracker. Metrics are sent in batches with their own timestamps, so that a repeated one is stored once.

Only the client is used, never mlflow's global active run. Every call names its run, so that no other run is written or
ended.
"""

from __future__ import annotations

import hashlib
import logging
import math
import os
import re
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TypeVar

from pipeline.core.failures import ConfigError, InternalError
from pipeline.core.redact import redact, redact_uri
from pipeline.engine.interfaces import RUN_KEY, Entry, Status
from pipeline.serving.task import TASK
from pipeline.tracking.database import check_tables, create
from pipeline.tracking.uri import (
    absolute,
    check_address,
    check_database,
    database,
    is_web,
    run_url,
    runs_url,
    shown,
    ui_command,
)

# mlflow reads these when it is imported or called; a user's own values are kept. The journal tries again anyway, so a
# call should fail soon: with mlflow's 7 retries and 120 s one call can last 20 minutes.
for _name, _value in {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
}.items():
    os.environ.setdefault(_name, _value)
# Always set: the line that mlflow prints at the end of a run holds the credentials of the URI.
os.environ["MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT"] = "true"

from mlflow.entities import Metric, Param, Run, RunTag  # noqa: E402
from mlflow.exceptions import MlflowException  # noqa: E402
from mlflow.tracking import MlflowClient  # noqa: E402
from mlflow.utils.credentials import get_default_host_creds  # noqa: E402
from mlflow.utils.rest_utils import http_request  # noqa: E402

from pipeline.tracking.errors import without_secrets as _without_secrets  # noqa: E402
from pipeline.tracking.model import log_model  # noqa: E402

for _name in ("alembic", "mlflow.store.db.utils"):
    logging.getLogger(_name).setLevel(logging.WARNING)

# Limits of one call and of one value (mlflow.utils.validation).
METRICS, PARAMS, KEY, PARAM, TAG = 1000, 100, 250, 6000, 8000
ANSWER_S = 3

T = TypeVar("T")


class MLflowTracker:
    """Logs one run to the tracking server or SQLite database at ``uri``.

    MLflow does not let a run's params change. On a resume, a changed one becomes the tag ``resume.KEY`` with its latest
    value. A deleted run is not restored: a new one is created with the tag ``resumed_from``.

    ``run`` is the id of a run that was started elsewhere, to write, tag or end it.

    Raises:
        ConfigError: the URI is of a kind that MLflow cannot keep runs in, or the experiment was deleted.
        PipelineError: MLflow did not take a call; the message is free of credentials.
    """

    def __init__(self, uri: str, experiment: str, run: str = "") -> None:
        self.uri, self.experiment = absolute(uri), experiment
        self._run = run

    def start(self, run: str | None, name: str, params: Mapping[str, str], tags: Mapping[str, str]) -> str:
        """Create a run called ``name``, or set one RUNNING again (it keeps its name); returns its id.

        The run to reopen is ``run``, or the one with the same tag ``RUN_KEY``, which a start that failed after the
        creation left behind.
        """
        with _without_secrets(self.uri):
            found = self._reopen(run) or self._reopen(self._with_key(tags.get(RUN_KEY)))
            if found is None:
                first = {key: tags[key] for key in (RUN_KEY,) if key in tags} | ({"resumed_from": run} if run else {})
                found = self._client.create_run(self._experiment_id(), run_name=name, tags=first)
            self._run = found.info.run_id
            changed = self._log_params(found, {_key(key): redact(value)[:PARAM] for key, value in params.items()})
            self.tag({**tags, **changed})
        return self._run

    def connect(self) -> None:
        """Open the database or connect to the server ahead of the first call, which would do it otherwise."""
        with _without_secrets(self.uri):
            self._client  # noqa: B018  (made when it is first asked for)

    def send(self, entries: Sequence[Entry]) -> None:
        """Send metrics, 1000 in a call. A value that is not finite becomes nan: MLflow stores an infinity as
        1.8e308."""
        metrics = [
            Metric(_key(key), float(value) if math.isfinite(value) else math.nan, entry.timestamp, entry.step)
            for entry in entries
            for key, value in entry.metrics.items()
        ]
        with _without_secrets(self.uri):
            for batch in _batches(metrics, METRICS):
                self._client.log_batch(self._id, metrics=batch)

    def tag(self, tags: Mapping[str, str]) -> None:
        """Set tags. A later value replaces an earlier one."""
        with _without_secrets(self.uri):
            for batch in _batches([RunTag(_key(key), redact(value)[:TAG]) for key, value in tags.items()], PARAMS):
                self._client.log_batch(self._id, tags=batch)

    def artifact(self, path: Path, folder: str = "") -> None:
        """Upload a file. It replaces one of the same name."""
        with _without_secrets(self.uri):
            self._client.log_artifact(self._id, str(path), folder or None)

    def model(self, name: str, files: Mapping[str, bytes], tags: Mapping[str, str]) -> None:
        """Log what adapts and predicts as a model of the run, unless the run has it, or tasks that only its data
        describe."""
        if TASK in files:
            with _without_secrets(self.uri):
                log_model(self._client, self._id, name, files, tags)

    def end(self, status: Status) -> None:
        """Close the run. MLflow alone would leave it RUNNING after a kill."""
        with _without_secrets(self.uri):
            self._client.set_terminated(self._id, status)

    def status(self) -> str:
        """The status that MLflow shows, such as FINISHED; ``deleted`` for a deleted run."""
        with _without_secrets(self.uri):
            info = self._client.get_run(self._id).info
        return "deleted" if info.lifecycle_stage == "deleted" else str(info.status)

    @cached_property
    def _client(self) -> MlflowClient:
        if is_web(self.uri):
            return MlflowClient(tracking_uri=self.uri)
        check_database(self.uri)  # mlflow would try to open it for 100 s
        create(database(self.uri))
        return MlflowClient(tracking_uri=self.uri)

    @property
    def _id(self) -> str:
        if not self._run:
            raise InternalError("the tracker was used before start()")
        return self._run

    def _with_key(self, key: str | None) -> str | None:
        """The run whose tag ``RUN_KEY`` is ``key``."""
        if not key:
            return None
        found = self._client.search_runs([self._experiment_id()], f"tags.{RUN_KEY} = '{key}'", max_results=1)
        return found[0].info.run_id if found else None

    def _reopen(self, run: str | None) -> Run | None:
        """The run, set to RUNNING; None where it was deleted."""
        if not run:
            return None
        try:
            found = self._client.get_run(run)
        except MlflowException as error:
            if error.error_code == "RESOURCE_DOES_NOT_EXIST":
                return None
            raise
        if found.info.lifecycle_stage == "deleted":
            return None
        self._client.update_run(run, status="RUNNING")
        return found

    def _experiment_id(self) -> str:
        found = self._client.get_experiment_by_name(self.experiment)
        if found is None:
            # MLflow's default is ./mlruns, which in a Ray job is deleted with the job.
            place = None if is_web(self.uri) else (database(self.uri).parent / "mlartifacts").as_uri()
            try:
                return str(self._client.create_experiment(self.experiment, artifact_location=place))
            except MlflowException as error:
                if error.error_code != "RESOURCE_ALREADY_EXISTS":
                    raise
                return self._experiment_id()  # another run created it at the same time
        if found.lifecycle_stage == "deleted":
            raise _deleted(self.uri, self.experiment, str(found.experiment_id))
        return str(found.experiment_id)

    def _log_params(self, run: Run, params: Mapping[str, str]) -> dict[str, str]:
        """Log the params that the run lacks. Returns tags for those that it has with another value."""
        known, tags = run.data.params, run.data.tags
        new = [Param(key, value) for key, value in params.items() if key not in known]
        for batch in _batches(new, PARAMS):
            self._client.log_batch(run.info.run_id, params=batch)
        latest = {key: tags.get(f"resume.{key}", value) for key, value in known.items()}
        return {f"resume.{key}": value for key, value in params.items() if latest.get(key, value) != value}


def probe(uri: str, experiment: str = "") -> None:
    """Check that runs can be tracked at ``uri``: a server answers within 3 s, or a database is whole.

    Raises:
        ConfigError: names the URI, what is wrong and the fix; the experiment was deleted.
    """
    if is_web(uri):
        check_address(uri)
        found = _ask(uri, experiment)
    else:
        check_database(uri)
        found = check_tables(uri).get(experiment)
    if found is not None and found[1] == "deleted":
        raise _deleted(uri, experiment, found[0])


def _ask(uri: str, experiment: str) -> tuple[str, str] | None:
    """The id and the stage of an experiment at a server; None where it has no such experiment yet."""
    # /health would answer even where every call to the API is refused.
    call, question = "search", {"max_results": "1"}
    if experiment:
        call, question = "get-by-name", {"experiment_name": experiment}
    try:
        answer = http_request(
            get_default_host_creds(uri.rstrip("/")),
            f"/api/2.0/mlflow/experiments/{call}",
            "GET",
            max_retries=0,
            timeout=ANSWER_S,
            raise_on_status=False,
            params=question,
        )
    except MlflowException as error:
        why = "no answer in 3 s" if "timeout" in str(error) else "no connection"
        raise ConfigError(
            f"{shown(uri)}: {why}; start one with mlflow server, correct the address, or write sqlite:///mlflow.db"
        ) from None
    if answer.status_code in (401, 403):
        raise ConfigError(
            f"{shown(uri)}: refused with HTTP {answer.status_code}; set MLFLOW_TRACKING_USERNAME and"
            " MLFLOW_TRACKING_PASSWORD, or start the server with --allowed-hosts and this name"
        )
    if answer.status_code == 404 and "RESOURCE_DOES_NOT_EXIST" in answer.text:
        return None
    if answer.status_code != 200 or "json" not in answer.headers.get("Content-Type", ""):
        raise ConfigError(
            f"{shown(uri)}: HTTP {answer.status_code} and no MLflow API behind it; name the address of an MLflow server"
        )
    told = answer.json().get("experiment", {})
    return str(told.get("experiment_id")), str(told.get("lifecycle_stage"))


def _deleted(uri: str, experiment: str, number: str) -> ConfigError:
    place = redact_uri(uri)
    return ConfigError(
        f"tracking.experiment {experiment!r} at {place} was deleted; name another one with tracking.experiment=NAME, or"
        f" bring it back with MLFLOW_TRACKING_URI={place} mlflow experiments restore --experiment-id {number}"
    )


def how_to_open(uri: str, run: str | None = None) -> tuple[str, str]:
    """The command that starts the UI ("" for a server) and the link to the run's curves.

    The link leads to the list of experiments where there is no run, or where MLflow does not know it, does not answer
    or misses the working directory, which Ray may delete when a job's workers have ended.
    """
    command, link = ui_command(uri), runs_url(uri)
    if run and (is_web(uri) or database(uri).exists()):
        try:
            probe(uri)
            found = MlflowClient(tracking_uri=absolute(uri)).get_run(run)
            link = run_url(uri, found.info.experiment_id, run)
        except (ConfigError, MlflowException, OSError) as error:
            logging.getLogger(__name__).info("no link to run %s: %s", run, redact(str(error)))
    return command, link


def _key(name: str) -> str:
    """A name that MLflow accepts: letters, digits and ``_-. :/``, no empty or dotted path parts, 250 characters."""
    text = re.sub(r"[^\w.\- :/]", "_", name.replace("@", "_at_").replace("%", "_pct_"))
    text = "/".join("_" if part in (".", "..") else part for part in text.split("/") if part) or "_"
    if len(text) > KEY:
        text = f"{text[: KEY - 9]}_{hashlib.sha256(name.encode()).hexdigest()[:8]}"
    return text


def _batches(items: Sequence[T], size: int) -> list[Sequence[T]]:
    return [items[start : start + size] for start in range(0, len(items), size)]
