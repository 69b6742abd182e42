"""What a machine can do at most, measured, and how many operations a step needs, counted."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import torch
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from tests.bench.by_hand.loop import Loop

SECONDS = 1.0


def peaks(device: torch.device) -> dict[str, float]:
    """GFLOP/s of one thread, or of the GPU, in matrix products and convolutions by the type of numbers."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return _gpu(device) if device.type == "cuda" else _cpu()
    finally:
        torch.set_num_threads(threads)


def best_fp32(found: dict[str, float]) -> float:
    """The peak that a share is of: the best of those in fp32, which TF32 is not."""
    return max(value for name, value in found.items() if name.startswith("fp32"))


def two_processes(turns: int = 5) -> float:
    """How many times as much as one two processes compute that share nothing: fp32 products, by turns, the median."""
    with ProcessPoolExecutor(2, get_context("spawn")) as pool:
        ratios = []
        for _ in range(turns + 1):
            one = pool.submit(_products).result()
            both = [pool.submit(_products) for _ in range(2)]
            ratios.append(sum(each.result() for each in both) / one)
    return statistics.median(ratios[1:])  # the processes start in the first turn


def _products() -> float:
    """Products per second of one thread."""
    torch.set_num_threads(1)
    a, began, done = torch.randn(512, 512), time.perf_counter(), 0
    while time.perf_counter() - began < SECONDS:
        a @ a
        done += 1
    return done / (time.perf_counter() - began)


def flops(loop: Loop) -> float:
    """GFLOP of one task's gradient by hand: those of products and convolutions, a multiply-add as two."""
    tasks = loop.draw(1)
    # oneDNN's fused LSTM hides its products from the counter.
    with torch.backends.mkldnn.flags(enabled=False), FlopCounterMode(display=False) as counter:
        loop.compute(tasks)
    return counter.get_total_flops() / 1e9


def _cpu() -> dict[str, float]:
    found = {}
    for name, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        found[f"{name} matmul"] = _matmul(torch.device("cpu"), dtype, 1024)
        found[f"{name} convolution"] = _convolution(torch.device("cpu"), dtype, 160)
    return found


def _gpu(device: torch.device) -> dict[str, float]:
    found = {}
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    for name, dtype, tf32 in (
        ("fp32", torch.float32, False),
        ("tf32", torch.float32, True),
        ("bf16", torch.bfloat16, False),
    ):
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = tf32
        found[f"{name} matmul"] = _matmul(device, dtype, 8192)
        found[f"{name} convolution"] = _convolution(device, dtype, 16384)
    torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before
    return found


def _matmul(device: torch.device, dtype: torch.dtype, side: int) -> float:
    a, b = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    return _rate(lambda: a @ b, 2.0 * side**3, device)


def _convolution(device: torch.device, dtype: torch.dtype, batch: int) -> float:
    """64 to 64 channels of 14×14, channels last, as conv-4 has them."""
    x = torch.randn(batch, 64, 14, 14, device=device).to(dtype).contiguous(memory_format=torch.channels_last)
    kernel = torch.randn(64, 64, 3, 3, device=device).to(dtype).contiguous(memory_format=torch.channels_last)
    return _rate(lambda: F.conv2d(x, kernel, padding=1), 2.0 * batch * 14 * 14 * 64 * 64 * 9, device)


@torch.no_grad()
def _rate(compute: Callable[[], torch.Tensor], operations: float, device: torch.device) -> float:
    """GFLOP/s of the fastest call: others share the machine."""
    best, began = float("inf"), time.perf_counter()
    while time.perf_counter() - began < SECONDS:
        start = time.perf_counter()
        compute()
        synchronise(device)
        best = min(best, time.perf_counter() - start)
    return operations / best / 1e9


def synchronise(device: torch.device) -> None:
    """Wait until the device is done."""
    if device.type == "cuda":
        torch.cuda.synchronize()
