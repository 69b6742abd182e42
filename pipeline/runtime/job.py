"""Reads Ray's environment variables: whether this process is a job, and which cluster is meant. Imports no Ray."""

from __future__ import annotations

import os

ADDRESS = "RAY_ADDRESS"
MARK = "RAY_JOB_CONFIG_JSON_ENV_VAR"
"""The variable that Ray sets in the process of a job, and in no other."""


def in_ray_job() -> bool:
    """Whether this is a job. Ray deletes a job's working directory when the job ends."""
    return MARK in os.environ


def cluster_address(given: str | None) -> str:
    """The given address, or that of the cluster that this process belongs to, or ``local``."""
    return given or os.environ.get(ADDRESS) or ("auto" if in_ray_job() else "local")


def shown(address: str) -> str:
    """An address for a message, with where it came from."""
    return f"{ADDRESS if address == os.environ.get(ADDRESS) else '--address'} {address!r}"
