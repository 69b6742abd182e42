"""The resources of a cluster and its protection, for the doctor."""

from __future__ import annotations

import os
import platform
import urllib.error
import urllib.request
from http import HTTPStatus
from pathlib import Path
from typing import NamedTuple

import ray

from pipeline.runtime.cluster import join

ANSWER_S = 3.0
TOKEN_FILE = "~/.ray/auth_token"


class ClusterInfo(NamedTuple):
    """A cluster as this process sees it. Ray itself refuses another version."""

    versions: str
    nodes: int
    cpus: float
    gpus: float
    dashboard: str


def inspect_cluster(address: str) -> ClusterInfo:
    """Join the cluster at ``address``, read its state and leave.

    Raises:
        ClusterError: nobody answers there, or the cluster does not let this process in.
    """
    dashboard = join(address)
    try:
        resources = ray.cluster_resources()
        alive = sum(bool(node["Alive"]) for node in ray.nodes())
    finally:
        ray.shutdown()
    versions = f"Ray {ray.__version__}, Python {platform.python_version()}"
    return ClusterInfo(versions, alive, resources.get("CPU", 0.0), resources.get("GPU", 0.0), dashboard)


def open_to_all(dashboard: str) -> bool | None:
    """Whether the jobs API answers without a token; None where nothing answers."""
    try:
        with urllib.request.urlopen(f"http://{dashboard}/api/jobs/", timeout=ANSWER_S) as answer:
            return bool(answer.status == HTTPStatus.OK)
    except urllib.error.HTTPError as error:
        return error.code not in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN)
    except OSError:
        return None


def token_file() -> Path:
    """The file that Ray reads its token from; it need not exist."""
    return Path(os.environ.get("RAY_AUTH_TOKEN_PATH") or TOKEN_FILE).expanduser()
