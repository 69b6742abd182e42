"""How many workers nodes with CPUs and GPUs have room for."""

from __future__ import annotations

import pytest

from pipeline.core.failures import ClusterError
from pipeline.runtime.placement import check_resources, crowded, room

TWO = {"CPU": 16.0, "GPU": 2.0}


@pytest.mark.parametrize(
    ("nodes", "gpus", "expected"),
    [
        ([TWO], 0.0, 16),
        ([TWO], 0.25, 8),
        ([TWO], 0.1, 16),  # as many as CPUs
        ([TWO], 0.3333, 6),
        ([TWO], 0.6, 2),  # not three: none is on parts of two GPUs
        ([TWO, TWO], 1.0, 4),
        ([TWO, {"CPU": 2.0}], 2.0, 1),
        ([{"CPU": 16.0}, {"GPU": 2.0}], 1.0, 0),  # not a CPU here and a GPU there
        ([{"CPU": 4.0, "GPU": 1.0}] * 3, 2.0, 0),
    ],
)
def test_a_worker_is_on_one_node_and_a_share_on_one_gpu(nodes, gpus, expected):
    assert room(nodes, gpus) == expected
    if expected:
        check_resources(nodes, gpus)
        return
    with pytest.raises(ClusterError, match=rf"^workers.gpus: each worker asks for {gpus:g} GPU .* on one node") as told:
        check_resources(nodes, gpus)
    assert "\n" not in str(told.value)


def test_workers_without_room_are_told_of():
    assert crowded([TWO], 8, 0.25) == ""
    assert crowded([TWO], 9, 0.25).startswith("the nodes that are there now have room for 8 of 9 workers")
