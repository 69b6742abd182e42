"""Whether this process is a job that ``ray job submit`` sent here. No Ray: the question comes before it starts."""

from __future__ import annotations

import os

MARK = "RAY_JOB_CONFIG_JSON_ENV_VAR"
"""What Ray sets for the process of a job, and for no other."""


def in_ray_job() -> bool:
    """A job's working folder is a copy that Ray throws away, on whichever node the job runs."""
    return MARK in os.environ
