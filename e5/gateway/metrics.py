"""What the gateway counts, for Prometheus."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest, values
from prometheus_client.multiprocess import MultiProcessCollector

from e5.serving import FrontConfig

BUCKETS = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60)  # seconds


class GatewayMetrics:
    """The counters of one gateway, each named `e5_gateway_...`."""

    def __init__(self, front: FrontConfig | None = None) -> None:
        """Begin at 0, or where the last front of this name has ended.

        Args:
            front: the configuration of a front, which keeps its values in the shared folder and
                shows the sums of all processes. PROMETHEUS_MULTIPROC_DIR must have named the folder
                when this process began. The parent counts the waiting tokens.
        """
        self.registry = CollectorRegistry()
        self._front = front
        if front is not None:  # not by process id: a restarted front goes on with its files
            values.ValueClass = values.MultiProcessValue(process_identifier=lambda: front.name)

        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(f"e5_gateway_{name}", text, labels, registry=self.registry)

        def gauge(name: str, text: str) -> Gauge:
            # Of several processes, the sum of those that live.
            return Gauge(
                f"e5_gateway_{name}", text, registry=self.registry, multiprocess_mode="livesum"
            )

        self.requests = counter("requests", "Requests answered.", "route", "status")
        self._texts = counter("texts", "Texts embedded.", "route")
        self._tokens = counter("tokens", "Tokens read, prompts included.", "route")
        self._truncated = counter("truncated", "Texts that were truncated.", "route")
        self.failures = counter("backend_failures", "Requests the backend failed.", "status")
        self.seconds = Histogram(
            "e5_gateway_seconds",
            "Seconds from a request to the end of its answer.",
            ["route"],
            buckets=BUCKETS,
            registry=self.registry,
        )
        self.in_flight = gauge("in_flight", "Requests being answered.")
        self._cache_hits = counter("cache_hits", "Texts whose vectors had been kept (E5_CACHE_MB).")
        self._cache_misses = counter("cache_misses", "Texts that were computed beside a cache.")
        self._waiting_tokens: Gauge | None = None
        if front is None:
            text = "Tokens that wait for the engine, where it is in this process."
            self._waiting_tokens = gauge("queue_tokens", text)
            self._cache_bytes = gauge("cache_bytes", "Bytes that kept vectors take.")

    def count(
        self, route: str, *, texts: int, tokens: int, truncated: int, cached: float | None
    ) -> None:
        """Count one answered request's texts and their tokens; without a cache `cached` is None."""
        self._texts.labels(route).inc(texts)
        self._tokens.labels(route).inc(tokens)
        if truncated:
            self._truncated.labels(route).inc(truncated)
        if cached is not None:
            self._cache_hits.inc(cached)
            self._cache_misses.inc(texts - cached)

    def text(self, waiting_tokens: int, cache_bytes: int) -> bytes:
        """All counters in Prometheus' text format, while so many tokens wait, and are kept."""
        if self._waiting_tokens is not None:
            self._waiting_tokens.set(waiting_tokens)
            self._cache_bytes.set(cache_bytes)
        if self._front is None:
            return generate_latest(self.registry)
        of_all = CollectorRegistry()
        MultiProcessCollector(of_all, path=self._front.folder)
        return generate_latest(of_all)
