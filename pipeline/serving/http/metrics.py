"""What a server counts, for Prometheus."""

from __future__ import annotations

from collections import Counter as Count
from collections.abc import Iterable, Sequence
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from prometheus_client.registry import Collector

BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
CONTENT_TYPE = CONTENT_TYPE_PLAIN_0_0_4


class Metrics(Collector):
    """Counts the requests of one server; what its hosts count comes with ``text``. No metric names a user."""

    def __init__(self) -> None:
        registry = CollectorRegistry()
        self._requests = Counter(
            "metafleet_requests", "Requests by route and HTTP status.", ("route", "status"), registry=registry
        )
        self._latency = Histogram(
            "metafleet_request_seconds", "Time to answer a request.", ("route",), buckets=BUCKETS, registry=registry
        )
        self._adapt = Histogram(
            "metafleet_adapt_seconds", "Time to adapt, with the wait for it.", buckets=BUCKETS, registry=registry
        )
        self._hosts: Sequence[dict[str, Any]] = []
        self._registry = registry
        registry.register(self)

    def answered(self, route: str, status: int, seconds: float) -> None:
        """A request was answered."""
        self._requests.labels(route, status).inc()
        self._latency.labels(route).observe(seconds)

    def adapted(self, seconds: float) -> None:
        """A support set was learned."""
        self._adapt.observe(seconds)

    def text(self, hosts: Sequence[dict[str, Any]]) -> bytes:
        """All metrics, with the statistics of these hosts."""
        self._hosts = hosts
        return generate_latest(self._registry)

    def collect(self) -> Iterable[Metric]:
        """The sums over all hosts."""
        sessions, held = (sum(host[name] for host in self._hosts) for name in ("sessions", "bytes"))
        yield GaugeMetricFamily("metafleet_sessions", "Sessions now.", sessions)
        yield GaugeMetricFamily("metafleet_session_bytes", "Bytes of the adapted values of all sessions.", held)
        evicted = CounterMetricFamily("metafleet_evictions", "Sessions that a limit ended.", labels=["reason"])
        for reason, number in sum((Count(host["evicted"]) for host in self._hosts), Count()).items():
            evicted.add_metric([reason], number)
        yield evicted
