"""All scenarios of ``make bench``, one after the other, and the file of what was measured."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from pipeline.build import source_of
from pipeline.core.failures import ConfigError
from pipeline.engine.numerics import processor
from pipeline.tracking.commit import git_commit
from tests.bench import speed_page
from tests.bench.duel import QUICK, Pace, compare
from tests.bench.peak import peaks, two_processes
from tests.bench.scenarios import SCENARIOS, recipe_of


def measure(arguments: argparse.Namespace, folder: Path) -> list[str]:
    """Measure what is asked for and print it; returns the bars that are missed.

    Raises:
        ConfigError: a scenario is unknown, or there is no GPU.
        DataError: the images cannot be read.
    """
    chosen = arguments.only or list(SCENARIOS)
    for name in chosen:
        if name not in SCENARIOS:
            raise ConfigError(f"--only: {name!r} is no scenario; there are {', '.join(SCENARIOS)}")
        source_of(recipe_of(name, arguments.omniglot, folder))  # its error is told before minutes have passed
    began, device = time.monotonic(), device_of(arguments.device)
    found = {**facts(device), "peaks": peaks(device), "scenarios": dict[str, Any]()}
    if device.type == "cpu":
        found["two_processes"] = two_processes()
    for name in chosen:
        found["scenarios"][name] = compare(
            name,
            arguments.omniglot,
            folder,
            QUICK if arguments.quick else Pace(),
            device=arguments.device,
            python=arguments.libraries,
            changes=tuple(arguments.set),
            note=lambda text: print(text, file=sys.stderr, flush=True),
        )
        found["seconds"] = time.monotonic() - began
        if arguments.json is not None:
            arguments.json.write_text(json.dumps(found, indent=1))
    print(speed_page.page(found))
    return [] if arguments.quick else speed_page.problems(found)


def device_of(name: str) -> torch.device:
    """Raises ``ConfigError`` where there is no such device."""
    if name == "cuda" and not torch.cuda.is_available():
        raise ConfigError("--device: 'cuda', and this process sees no GPU; use --device cpu")
    return torch.device(name)


def facts(device: torch.device) -> dict[str, Any]:
    """What every measurement must stand beside."""
    return {
        "machine": torch.cuda.get_device_name(device) if device.type == "cuda" else processor(),
        "cores": len(os.sched_getaffinity(0)),
        "torch": torch.__version__,
        "device": device.type,
        "commit": git_commit(),
        "date": datetime.now(UTC).date().isoformat(),
    }
