"""Prometheus metrics of a service."""

from collections.abc import Iterable

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from reccocktail.serving.service import Service

_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)


class Monitoring:
    """Counts requests, and reads off the service what it counts itself."""

    def __init__(self, service: Service) -> None:
        """Start at zero, in a registry of its own."""
        self._service = service
        self._registry = CollectorRegistry()
        labels = ("method", "route", "status")
        self._requests = Counter(
            "reccocktail_requests", "Requests answered.", labels, registry=self._registry
        )
        self._seconds = Histogram(
            "reccocktail_request_seconds",
            "From a request to its answer.",
            ("route",),
            buckets=_SECONDS,
            registry=self._registry,
        )
        self._registry.register(self)

    def request(self, method: str, route: str, status: int, seconds: float) -> None:
        """Count one; `route` is the pattern, so that labels stay few.

        A method may be whatever word a client thinks of; those that HTTP does not know are one.
        """
        known = method if method in _METHODS else "other"
        self._requests.labels(known, route, str(status)).inc()
        self._seconds.labels(route).observe(seconds)

    def text(self) -> bytes:
        """All metrics in Prometheus' text format."""
        return generate_latest(self._registry)

    def collect(self) -> Iterable[Metric]:
        """What the service counts."""
        service, answering = self._service, self._service.answering
        batches, jobs = answering.batches
        gauges = {
            "queue": ("Requests that wait.", answering.waiting),
            "domains": ("Domains served.", len(answering.domains())),
            "model_bytes": ("Copies of weights held for domains.", service.models.bytes),
        }
        counters = {
            "batches": ("Passes of user vectors and scores.", batches),
            "batched_requests": ("Requests in these.", jobs),
            "user_cache_hits": ("User vectors that were at hand.", answering.users.hits),
            "user_cache_misses": ("User vectors that were computed.", answering.users.misses),
        }
        for name, (text, value) in gauges.items():
            yield GaugeMetricFamily(f"reccocktail_{name}", text, value=value)
        for name, (text, value) in counters.items():
            yield CounterMetricFamily(f"reccocktail_{name}", text, value=value)
        items = GaugeMetricFamily("reccocktail_items", "Items of a domain.", labels=["domain"])
        for state in answering.domains():
            items.add_metric([state.name], len(state.ids))
        yield items
