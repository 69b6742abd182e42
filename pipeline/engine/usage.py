"""How busy the machine of a worker is. It is shown to people, and decides nothing."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable

import psutil
import torch

PERIOD_S = 2.0
"""Seconds over which a share is measured, at least. A sample takes about 0.1 ms."""


class NodeUsage:
    """The node's processors, its memory and the GPU of ``device``, under the names that MLflow has for them."""

    def __init__(self, device: torch.device, now: Callable[[], float] = time.monotonic) -> None:
        self.node, self.device, self._now = socket.gethostname(), device, now
        psutil.cpu_percent()  # the first call begins the measurement
        self._sampled = now()

    def sample(self) -> dict[str, float]:
        """Values by ``NODE/name``; none within ``PERIOD_S`` of those before."""
        now = self._now()
        if now - self._sampled < PERIOD_S:
            return {}
        self._sampled = now
        memory = psutil.virtual_memory()
        values = {
            "cpu_utilization_percentage": psutil.cpu_percent(),
            "system_memory_usage_megabytes": (memory.total - memory.available) / 1e6,
            "system_memory_usage_percentage": memory.percent,
            **(_gpu(self.device) if self.device.type == "cuda" else {}),
        }
        return {f"{self.node}/{name}": float(value) for name, value in values.items()}


def _gpu(device: torch.device) -> dict[str, float]:
    """Of the worker's own GPU. Its utilisation is known where the package nvidia-ml-py is installed."""
    number = torch.cuda.current_device() if device.index is None else device.index
    free, total = torch.cuda.mem_get_info(number)
    values = {
        f"gpu_{number}_memory_usage_megabytes": (total - free) / 1e6,
        f"gpu_{number}_memory_usage_percentage": 100 * (total - free) / total,
    }
    try:
        values[f"gpu_{number}_utilization_percentage"] = torch.cuda.utilization(number)
    except (ImportError, RuntimeError):
        return values
    return values
