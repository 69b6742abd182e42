"""The other two clusters: machines of one's own by Ray's own schema, and the RayJob by its shape."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import click
import pytest
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config

from jobs.train import parser
from pipeline.config import load
from pipeline.runs.paths import refuse_relative

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "docs" / "clusters"
FILES = {name: (FOLDER / name).read_text("utf-8") for name in ("machines.yaml", "rayjob.yaml")}
FILES["cluster.yaml"] = (ROOT / "cluster.yaml").read_text("utf-8")


@pytest.fixture
def machines() -> dict[str, Any]:
    return yaml.safe_load(FILES["machines.yaml"])


@pytest.fixture
def claim_and_job() -> tuple[dict[str, Any], dict[str, Any]]:
    claim, job = yaml.safe_load_all(FILES["rayjob.yaml"])
    return claim, job


def accept(cluster: dict[str, Any]) -> None:
    validate_config(prepare_config(cluster))


def test_ray_accepts_the_machines(machines):
    accept(machines)


def test_ray_refuses_a_slip_in_them(machines):
    machines["provider"]["worker_ip"] = machines["provider"].pop("worker_ips")
    with pytest.raises(click.ClickException):
        accept(machines)


def test_every_machine_starts_with_the_token_and_our_tested_set(machines):
    commands = machines["head_start_ray_commands"] + machines["worker_start_ray_commands"]
    starts = [command for command in commands if "ray start" in command]
    assert len(starts) == 2
    assert all("RAY_AUTH_MODE=token" in command for command in starts)
    assert "~/.ray/auth_token" in machines["file_mounts"]
    assert any("-c ~/metafleet/constraints.txt" in command for command in machines["setup_commands"])
    assert all((ROOT / local).exists() for to, local in machines["file_mounts"].items() if "metafleet" in to)


def test_the_rayjob_has_a_guarded_head_gpu_workers_and_a_volume(claim_and_job):
    claim, job = claim_and_job
    assert (claim["kind"], job["apiVersion"], job["kind"]) == ("PersistentVolumeClaim", "ray.io/v1", "RayJob")
    cluster = job["spec"]["rayClusterSpec"]
    assert cluster["authOptions"] == {"mode": "token"}
    assert f"ray=={cluster['rayVersion']}\n" in (ROOT / "constraints.txt").read_text()
    head = cluster["headGroupSpec"]["template"]["spec"]
    (volume,), (container,) = head["volumes"], head["containers"]
    assert volume["persistentVolumeClaim"]["claimName"] == claim["metadata"]["name"]
    assert container["volumeMounts"][0] == {"name": volume["name"], "mountPath": "/runs"}
    assert container["resources"]["limits"]["cpu"] >= 1, "the parameter actor needs a CPU beside the driver"
    (workers,) = cluster["workerGroupSpecs"]
    assert workers["minReplicas"] <= workers["replicas"] <= workers["maxReplicas"]
    assert workers["template"]["spec"]["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == 1
    assert job["spec"]["backoffLimit"] == 0 or "--resume" in job["spec"]["entrypoint"]


def entrypoints() -> dict[str, str]:
    """What each file has the cluster run."""
    found = {"rayjob.yaml": yaml.safe_load(FILES["rayjob.yaml"].split("---\n")[1])["spec"]["entrypoint"]}
    for name in ("cluster.yaml", "machines.yaml"):
        header = re.sub(r"\\\n#\s+", "", FILES[name].split("\n\n")[0])
        found[name] = re.findall(r"-- (python -m jobs\.train .*)", header)[0]
    return found


@pytest.mark.parametrize(("name", "entrypoint"), entrypoints().items(), ids=entrypoints())
def test_what_they_run_is_a_training_that_a_ray_job_takes(name, entrypoint):
    words = shlex.split(entrypoint)
    assert words[:3] == ["python", "-m", "jobs.train"]
    arguments = parser().parse_intermixed_args(words[3:])
    assert arguments.address == "auto"
    recipe = load(arguments.recipe, [*arguments.overrides, f"workers.count={arguments.workers}"])
    # On the head a shell puts its own folder for ~.
    refuse_relative(Path(str(arguments.output).replace("~", "/head")), recipe)


@pytest.mark.parametrize("name", ["cluster.yaml", "machines.yaml"])
def test_the_header_has_five_commands(name):
    header = re.sub(r"\\\n#\s+", "", FILES[name].split("\n\n")[0])
    commands = re.findall(r"^#   (?:RAY_AUTH_MODE=token )?(ray \S+ ?\S*)", header, re.MULTILINE)
    assert [command.split()[1] for command in commands] == ["get-auth-token", "up", "dashboard", "job", "down"]
