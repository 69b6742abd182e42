"""A run on Ray whose MLflow server says nothing for a moment, as the benchmark measures it.

This tests the benchmark. That a run goes on without MLflow and loses no metric is shown every day: by
``test_journal_and_publisher`` with trackers that fail, and by ``test_sync`` with a database and a server.
"""

from __future__ import annotations

from urllib.parse import urlsplit

import pytest

from tests.bench.outages import outage, outage_table
from tests.bench.proxy import Proxy
from tests.mlflow_server import free_port

pytestmark = [pytest.mark.ray, pytest.mark.bench]


def test_an_outage_is_measured_and_every_metric_is_there_afterwards(ray_local, server, server_folder):
    proxy = Proxy(free_port(), urlsplit(server).port)
    found = outage("hung", 1.0, 300, server_folder, proxy)
    proxy.close()
    assert found.wrong == []
    assert found.up.steps + found.out.steps == 300
    assert found.out.steps > 0
    for share in (found.up, found.out):
        assert 0 < share.tracking < 0.5
    assert "| hung |" in outage_table([found])
