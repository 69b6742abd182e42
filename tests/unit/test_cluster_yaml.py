"""cluster.yaml is what Ray's launcher accepts, checked offline by Ray's own schema, and keeps our promises about it."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def cluster() -> dict[str, Any]:
    return yaml.safe_load((ROOT / "cluster.yaml").read_text(encoding="utf-8"))


def accept(cluster: dict[str, Any]) -> None:
    validate_config(prepare_config(copy.deepcopy(cluster)))


def test_ray_accepts_it(cluster: dict[str, Any]) -> None:
    accept(cluster)


@pytest.mark.parametrize(
    "provider",
    [
        {"type": "gcp", "project_id": "p", "region": "us-central1", "availability_zone": "us-central1-a"},
        {"type": "local", "head_ip": "10.0.0.1", "worker_ips": ["10.0.0.2", "10.0.0.3"]},
    ],
    ids=lambda provider: provider["type"],
)
def test_ray_accepts_the_other_providers_it_names(cluster: dict[str, Any], provider: dict[str, Any]) -> None:
    cluster["provider"] = provider
    if provider["type"] == "local":
        del cluster["available_node_types"], cluster["head_node_type"]
    accept(cluster)


def misspell_a_key(cluster: dict[str, Any]) -> None:
    cluster["setup_comands"] = cluster.pop("setup_commands")


def misspell_a_nested_key(cluster: dict[str, Any]) -> None:
    cluster["available_node_types"]["gpu_spot"]["min_wokers"] = 1


def name_no_such_head(cluster: dict[str, Any]) -> None:
    cluster["head_node_type"] = "haed"


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (misspell_a_key, "'setup_comands' was unexpected"),
        (misspell_a_nested_key, "'min_wokers' was unexpected"),
        (name_no_such_head, "head_node_type"),
    ],
)
def test_ray_refuses_a_slip(cluster: dict[str, Any], spoil: Callable[[dict[str, Any]], None], message: str) -> None:
    spoil(cluster)
    with pytest.raises((jsonschema.ValidationError, ValueError), match=message):
        accept(cluster)


def test_every_node_starts_with_the_token(cluster: dict[str, Any]) -> None:
    commands = cluster["head_start_ray_commands"] + cluster["worker_start_ray_commands"]
    starts = [command for command in commands if "ray start" in command]
    assert len(starts) == 2
    assert all("RAY_AUTH_MODE=token" in command for command in starts)
    assert "~/.ray/auth_token" in cluster["file_mounts"], "the token has to reach every node"


def test_it_installs_the_tested_set_from_files_that_exist(cluster: dict[str, Any]) -> None:
    assert any("-c ~/metafleet/constraints.txt" in command for command in cluster["setup_commands"])
    ours = [local for remote, local in cluster["file_mounts"].items() if remote.startswith("~/metafleet/")]
    missing = [local for local in ours if not (ROOT / local).exists()]
    assert not missing, f"cluster.yaml: file_mounts names what is not in the repository: {missing}"


def test_gpus_are_spot_and_the_head_has_none(cluster: dict[str, Any]) -> None:
    types = cluster["available_node_types"]
    assert "GPU" not in types[cluster["head_node_type"]]["resources"]
    gpus = [node for node in types.values() if node["resources"].get("GPU")]
    assert gpus
    for node in gpus:
        assert node["min_workers"] == 0
        assert node["node_config"]["InstanceMarketOptions"] == {"MarketType": "spot"}
