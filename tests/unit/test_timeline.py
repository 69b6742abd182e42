"""Who computed which chunk and when, and how busy the node of a worker is."""

from __future__ import annotations

import pytest
import torch

from pipeline.engine import usage
from pipeline.engine.interfaces import Block, Chunk, Span
from pipeline.engine.scheduling.timeline import KEPT, Timeline
from pipeline.engine.usage import PERIOD_S, NodeUsage


def test_a_span_lasts_from_the_lease_to_its_answer():
    timeline, block = Timeline(), Block((Chunk(3, 1, ()),))
    timeline.begin(7, 11, "learn", block, 1.0)
    timeline.end(7, 10, "node", 2.0)  # the answer to an earlier lease
    assert not timeline.spans
    timeline.end(7, 11, "node", 2.5)
    timeline.end(7, 11, "node", 3.0)  # twice the same
    assert list(timeline.spans) == [Span(7, "node", "learn", 3, 1, 1.0, 2.5)]


def test_a_long_run_keeps_the_last_spans():
    timeline = Timeline()
    for step in range(KEPT + 5):
        timeline.begin(0, step, "learn", Block((Chunk(step, 0, ()),)), float(step))
        timeline.end(0, step, "", step + 0.5)
    assert (len(timeline.spans), timeline.spans[0].step) == (KEPT, 5)


def test_a_node_is_sampled_from_time_to_time():
    times = iter([0.0, PERIOD_S / 2, PERIOD_S, PERIOD_S + 0.1])
    node = NodeUsage(torch.device("cpu"), lambda: next(times))
    assert node.sample() == {}
    found = node.sample()
    assert {name.partition("/")[2] for name in found} == {
        "cpu_utilization_percentage",
        "system_memory_usage_megabytes",
        "system_memory_usage_percentage",
    }
    assert {name.partition("/")[0] for name in found} == {node.node}
    assert all(0 <= value <= 100 for name, value in found.items() if name.endswith("percentage"))
    assert node.sample() == {}


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
def test_a_workers_gpu_is_among_it():
    found = usage._gpu(torch.device("cuda"))
    assert 0 < found["gpu_0_memory_usage_percentage"] <= 100
