"""The MLflow model of a run: code as a file, theta as safetensors, the rest as JSON and YAML. Nothing is pickled."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import platform
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")

from mlflow.entities import LoggedModel, LoggedModelOutput
from mlflow.models import Model, ModelSignature
from mlflow.pyfunc import add_to_model
from mlflow.tracking import MlflowClient
from mlflow.types.schema import AnyType, Array, ColSpec, ParamSchema, ParamSpec, Schema

from pipeline.core.plugins import PLUGINS
from pipeline.core.source import Spec
from pipeline.serving.answers import OPTIONAL, REQUIRED, fields_of
from pipeline.serving.task import TASK, spec_of

CODE = Path(__file__).with_name("model_code.py")
RUN = "run"
"""The name of the artifact that is a small run folder."""
CONTENT = "content"
"""The tag of a logged model with the hash of its files."""
LIBRARIES = (
    *("metafleet", "torch", "numpy", "safetensors", "pyarrow", "pillow", "pydantic", "pyyaml", "annotated-types"),
    "mlflow",
)
"""What a model needs to be loaded."""
BLACK = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR42mNgAAAAAgAB5Sfe/AAAAABJRU5ErkJggg=="
WHITE = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR42mP4DwABAQEAHLCMmQAAAABJRU5ErkJggg=="
"""Pictures of one pixel, as PNG in base64."""

for _logger in ("mlflow.pyfunc", "mlflow.store.model_registry"):  # what they tell of a success
    logging.getLogger(_logger).setLevel(logging.WARNING)


def write_model(folder: Path, files: Mapping[str, bytes], logged: LoggedModel | None = None) -> None:
    """Write the model of a run's ``files`` to ``folder``, which must not exist; ``logged`` is its entry in MLflow.

    ``mlflow.pyfunc.save_model`` writes the same; it looks through all installed packages first, which takes a second.
    """
    told = json.loads(files[TASK])
    spec = spec_of(told)
    example = _example(spec, told)
    model = Model(
        run_id=logged.source_run_id if logged else None,
        model_id=logged.model_id if logged else None,
        signature=_signature(spec, texts=told["texts"] is not None),
        saved_input_example_info={
            "artifact_path": "input_example.json",
            "serving_input_path": "serving_input_example.json",
            "type": "json_object",
        },
        metadata={"plugins": json.loads(files[PLUGINS]) if PLUGINS in files else []},
    )
    add_to_model(
        model,
        loader_module="mlflow.pyfunc.loaders.code_model",
        model_code_path=CODE.name,
        conda_env="conda.yaml",
        python_env="python_env.yaml",
        artifacts={RUN: {"path": f"artifacts/{RUN}", "uri": f"artifacts/{RUN}"}},
        streamable=False,
    )
    written = {f"artifacts/{RUN}/{name}": data for name, data in files.items()} | {CODE.name: CODE.read_bytes()}
    texts = _environment() | {"input_example.json": example, "serving_input_example.json": {"inputs": example}}
    written |= {name: json.dumps(content).encode() for name, content in texts.items()}
    written["requirements.txt"] = "\n".join(_pins()).encode()
    for name, data in written.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    model.save(str(folder / "MLmodel"))


def log_model(
    client: MlflowClient, run: str, name: str, files: Mapping[str, bytes], tags: Mapping[str, str]
) -> LoggedModel:
    """The model of a run as MLflow has it, logged now unless it was: of the same files there is one.

    Args:
        client: of the tracking server.
        run: the id of the run.
        name: what MLflow shows.
        files: as ``served_files`` gives them.
        tags: of the model.
    """
    found = client.get_run(run).info
    content = content_of(files)
    same = [one for one in logged_models(client, run) if one.tags.get(CONTENT) == content]
    ready = [one for one in same if str(one.status) == "READY"]
    if ready:
        return ready[0]
    all_tags = {**tags, CONTENT: content}
    logged = (
        same[0]
        if same
        else client.create_logged_model(found.experiment_id, _name(name), run, all_tags, model_type="few-shot")
    )
    with TemporaryDirectory() as scratch:
        folder = Path(scratch, "model")
        write_model(folder, files, logged)
        client.log_model_artifacts(logged.model_id, str(folder))
    if not same:
        client.log_outputs(run, [LoggedModelOutput(logged.model_id, int(tags.get("step", 0)))])
    return client.finalize_logged_model(logged.model_id, "READY")


def logged_models(client: MlflowClient, run: str) -> list[LoggedModel]:
    """The models of a run, the newest first."""
    experiment = client.get_run(run).info.experiment_id
    return list(
        client.search_logged_models(
            [experiment],
            f"source_run_id = '{run}'",
            order_by=[{"field_name": "creation_timestamp", "ascending": False}],
        )
    )


def content_of(files: Mapping[str, bytes]) -> str:
    """The hash of a model's files."""
    digest = hashlib.sha256()
    for name in sorted(files):
        digest.update(f"{name} {len(files[name])}\n".encode() + _in_order(name, files[name]))
    return digest.hexdigest()


def _in_order(name: str, data: bytes) -> bytes:
    """A file's bytes; safetensors writes the entries of its header in any order."""
    if not name.endswith(".safetensors"):
        return data
    end = 8 + int.from_bytes(data[:8], "little")
    return json.dumps(json.loads(data[8:end]), sort_keys=True).encode() + data[end:]


def _signature(spec: Spec, *, texts: bool) -> ModelSignature:
    """Any values, since labels may be of any kind and pictures of any size: the model checks them itself."""
    many = Array(AnyType())
    inputs = [ColSpec(many, name, required=False) for name in OPTIONAL] + [ColSpec(many, REQUIRED)]
    outputs = [ColSpec(many, name) for name in fields_of(spec, texts=texts)]
    return ModelSignature(Schema(inputs), Schema(outputs), ParamSchema([ParamSpec("normalisation", "string", "")]))


def _example(spec: Spec, told: Mapping[str, Any]) -> dict[str, list[Any]]:
    """A request that shows the shapes."""
    if told["texts"] is not None:
        return {"support_x": ["abc", "abd"], "support_y": ["xyz", "xyw"], "query_x": ["abc"]}
    one = _filled(spec.input_shape, 0 if spec.integers else 0.0)
    if spec.actions is not None:
        return {"support_x": [], "query_x": [one]}
    if told.get("preparation"):
        return {"support_x": [BLACK, WHITE], "support_y": ["dark", "light"], "query_x": [WHITE]}
    if spec.tokens is not None:
        return {"support_x": [one], "support_y": [_filled((spec.tokens.target_length,), 0)], "query_x": [one]}
    answers: list[Any] = [_filled((spec.outputs,), 0.0)] * 2 if spec.targets == "values" else ["dark", "light"]
    return {"support_x": [one, one], "support_y": answers, "query_x": [one]}


def _filled(shape: tuple[int, ...], value: float) -> Any:
    return [_filled(shape[1:], value)] * shape[0] if shape else value


def _environment() -> dict[str, Any]:
    """The files that say how MLflow makes an environment. JSON is YAML too."""
    python = platform.python_version()
    needed = [f"python={python}", "pip", {"pip": _pins()}]
    conda = {"name": "metafleet", "channels": ["conda-forge"], "dependencies": needed}
    virtual = {"python": python, "build_dependencies": ["pip"], "dependencies": ["-r requirements.txt"]}
    return {"conda.yaml": conda, "python_env.yaml": virtual}


def _pins() -> list[str]:
    pins = []
    for name in LIBRARIES:
        try:
            pins.append(f"{name}=={version(name).partition('+')[0]}")
        except PackageNotFoundError:
            logging.getLogger(__name__).info("no version of %s is known", name)
    return pins


def _name(recipe: str) -> str:
    """A recipe's name without the signs that MLflow forbids in a model's."""
    return "".join("_" if sign in "/:.%\"'" else sign for sign in recipe)
