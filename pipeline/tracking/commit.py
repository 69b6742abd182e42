"""The commit of the code that runs, for people to find it again."""

from __future__ import annotations

import shutil
import subprocess
from functools import cache
from pathlib import Path


@cache
def git_commit() -> str:
    """The commit of the running code, marked where files differ; ``unknown`` outside a checkout or without git.

    It is asked once: what is checked out later is not what this process has loaded.
    """
    if shutil.which("git") is None:
        return "unknown"
    here = Path(__file__).parent
    answer = subprocess.run(
        ["git", "describe", "--always", "--dirty", "--abbrev=40"],
        cwd=here,
        capture_output=True,
        text=True,
        check=False,
    )
    return answer.stdout.strip() or "unknown"
