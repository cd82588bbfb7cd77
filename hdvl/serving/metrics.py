"""Metrics for Prometheus: requests of the server, and counters of the engines."""

from collections.abc import Iterator, Sequence

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from hdvl.serving.served import ServedModel

_COUNTED = {
    "prompt_tokens": "ids of the prompts of finished requests",
    "new_tokens": "ids of finished answers",
    "steps": "steps of the engine",
    "image_cache_hits": "images whose visual tokens were known",
    "image_cache_misses": "images that were encoded",
    "image_cache_evictions": "images whose visual tokens were dropped to make room",
    "image_cache_file_hits": "images whose visual tokens were found in files",
    "image_cache_file_evictions": "files of visual tokens that were removed to make room",
    "prefix_cache_hits": "prompts of which a beginning was known",
    "prefix_cache_misses": "prompts of which nothing was known",
    "prefix_cache_evictions": "beginnings of prompts that were dropped to make room",
    "prefix_cache_tokens": "ids of prompts that were not read again",
}
_GAUGES = {
    "waiting": "requests that wait for a slot",
    "slots_in_use": "slots in use",
    "slots": "slots",
    "image_cache_bytes": "bytes of visual tokens that are kept",
    "image_cache_file_bytes": "bytes of visual tokens in files",
    "prefix_cache_bytes": "bytes of keys and values of prompts that are kept",
}
_SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)


class _Engines(Collector):
    """Reads the counters of the engines when the metrics are requested."""

    def __init__(self, models: Sequence[ServedModel]) -> None:
        self.models = models

    def collect(self) -> Iterator[Metric]:
        counters = [(served.id, served.pipe.engine.counters) for served in self.models]
        for name, text in _COUNTED.items():
            counted = CounterMetricFamily(f"hdvl_{name}", text, labels=["model"])
            for model, numbers in counters:
                counted.add_metric([model], getattr(numbers, name))
            yield counted
        for name, text in _GAUGES.items():
            gauge = GaugeMetricFamily(f"hdvl_{name}", text, labels=["model"])
            for model, numbers in counters:
                gauge.add_metric([model], getattr(numbers, name))
            yield gauge


class Metrics:
    """The metrics of one server.

    Attributes:
        registry: what Prometheus reads.
    """

    def __init__(self, models: Sequence[ServedModel]) -> None:
        self.registry = CollectorRegistry()
        self.registry.register(_Engines(models))
        self.requests = Counter(
            "hdvl_requests", "answered requests", ["path", "status"], registry=self.registry
        )
        self.seconds = Histogram(
            "hdvl_request_seconds",
            "seconds from a request to the end of its answer",
            ["path"],
            buckets=_SECONDS,
            registry=self.registry,
        )
        self.first_token = Histogram(
            "hdvl_first_token_seconds",
            "seconds from the submission of a prompt to the first id of its answer",
            buckets=_SECONDS,
            registry=self.registry,
        )
