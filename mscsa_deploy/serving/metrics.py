"""Prometheus metrics of one server."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from prometheus_client.metrics_core import Metric

    from mscsa_deploy.serving.repository import Repository

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_SECONDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)
_MODEL = ("model", "version")


class Metrics:
    """Counters, gauges and histograms of one server; each server has its own registry."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "mscsa_deploy_requests", "Requests answered.", (*_MODEL, "route", "status"), registry=self.registry
        )
        self.seconds = Histogram(
            "mscsa_deploy_request_seconds",
            "From the request's head to the end of its answer.",
            ("route",),
            buckets=_SECONDS,
            registry=self.registry,
        )
        self.parts = Histogram(
            "mscsa_deploy_part_seconds",
            "Parts of answered requests: queue, prepare, network, answer.",
            (*_MODEL, "part"),
            buckets=_SECONDS,
            registry=self.registry,
        )
        self.refused = Counter(
            "mscsa_deploy_refused", "Requests refused, by reason.", ("reason",), registry=self.registry
        )
        self.batches = Histogram(
            "mscsa_deploy_batch_size",
            "Pictures per run of the network.",
            _MODEL,
            buckets=(1, 2, 4, 8, 16, 32),
            registry=self.registry,
        )
        self.in_flight = self.in_flight_bytes = 0
        for name, what, read in (
            ("mscsa_deploy_in_flight_requests", "Requests being answered.", lambda: self.in_flight),
            ("mscsa_deploy_in_flight_bytes", "Bodies held in memory.", lambda: self.in_flight_bytes),
        ):
            Gauge(name, what, registry=self.registry).set_function(read)

    def watch(self, repository: Repository) -> None:
        """Report the state of `repository` whenever metrics are read."""
        self.registry.register(_RepositoryCollector(repository))

    def observe_parts(self, model: str, version: str, parts_ms: Mapping[str, float]) -> None:
        """Record the parts of one answered request."""
        for part, spent in parts_ms.items():
            self.parts.labels(model, version, part).observe(spent / 1e3)

    def observer(self, model: str, version: str) -> BatchObserver:
        """What the workers of a model version report to."""
        return BatchObserver(self.batches.labels(model, version))

    def text(self) -> bytes:
        """The exposition format."""
        return generate_latest(self.registry)


class BatchObserver:
    """Records the size of each batch."""

    def __init__(self, sizes: Histogram) -> None:
        self._sizes = sizes

    def batch(self, size: int, seconds: float) -> None:
        """The network ran once for `size` pictures in `seconds`."""
        del seconds
        self._sizes.observe(size)


class _RepositoryCollector(Collector):
    def __init__(self, repository: Repository) -> None:
        self._repository = repository

    def collect(self) -> Iterator[Metric]:
        waiting = GaugeMetricFamily("mscsa_deploy_queue_requests", "Requests waiting.", labels=_MODEL)
        workers = GaugeMetricFamily("mscsa_deploy_workers", "Sessions.", labels=_MODEL)
        stalled = GaugeMetricFamily("mscsa_deploy_stalled", "1 when no session has come back for long.", labels=_MODEL)
        for served in self._repository.all():
            labels = (served.name, served.version)
            waiting.add_metric(labels, served.pool.waiting)
            workers.add_metric(labels, served.pool.workers)
            stalled.add_metric(labels, float(served.pool.stalled))
        yield from (waiting, workers, stalled)
        reloads = CounterMetricFamily("mscsa_deploy_reloads", "Bundles loaded again.", labels=("result",))
        reloads.add_metric(("ok",), self._repository.reloads)
        reloads.add_metric(("failed",), self._repository.failed_reloads)
        yield reloads
