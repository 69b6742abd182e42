"""Every algorithm on a GPU: what a worker there sends is what one without a GPU would, and the same bits each time."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from pipeline.engine.numerics import Numerics
from pipeline.engine.worker import Worker
from pipeline.testing.case import TASKS, Case, chunk_of, vector_of
from pipeline.testing.compare import assert_close, assert_same_bits, norm
from tests.contract.cases import case_of, described

if not torch.cuda.is_available():
    pytest.skip("needs a GPU, and this machine has none", allow_module_level=True)

pytestmark = pytest.mark.usefixtures("torch_threads")


@pytest.fixture
def case(request, small_images) -> Case:
    return case_of(request.param, small_images)


def _worker(case: Case, device: Any) -> Worker:
    return Worker(case.algorithm, case.source, case.layout(), Numerics(dtype="float64", device=device), TASKS)


@pytest.mark.parametrize("case", described(), indirect=True, ids=lambda one: one.id)
def test_a_gpu_learns_what_a_cpu_does(case):
    (there, report), (here, expected) = (
        _worker(case, device).learn(vector_of(case), chunk_of(case)) for device in ("cuda", "cpu")
    )
    assert (there.groups, there.weight, report.used) == (here.groups, here.weight, expected.used)
    there_by_name, here_by_name = (case.layout().unpack(torch.from_numpy(one.gradient)) for one in (there, here))
    # All groups are rounded together: one whose gradient is nearly 0 is off by what another's terms are off by.
    scale = max(norm(leaves) for leaves in here_by_name.values())
    for group, leaves in here_by_name.items():
        for name, leaf in leaves.items():
            assert_close(there_by_name[group][name], leaf, f"gradient of {group}/{name}", scale=scale)
    for a, b in zip(there.records, here.records, strict=True):
        for name in b:
            assert_close(torch.from_numpy(a[name]), torch.from_numpy(b[name]), f"record {name}")


@pytest.mark.parametrize("case", described(), indirect=True, ids=lambda one: one.id)
def test_a_gpu_scores_what_a_cpu_does(case):
    there, here = (
        _worker(case, device).score(vector_of(case), chunk_of(case, evaluate=True)) for device in ("cuda", "cpu")
    )
    assert there.points == here.points
    for name, values in here.metrics.items():
        np.testing.assert_allclose(there.metrics[name], values, rtol=1e-8, err_msg=name)


@pytest.mark.parametrize("case", described(), indirect=True, ids=lambda one: one.id)
def test_a_gpu_gives_the_same_bits_each_time(case):
    worker, vector, chunk = _worker(case, "cuda"), vector_of(case), chunk_of(case)
    assert_same_bits(worker.learn(vector, chunk)[0], worker.learn(vector, chunk)[0], "two contributions to one chunk")
