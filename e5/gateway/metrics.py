"""What the gateway counts, for Prometheus. Knows nothing of what is counted."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

SECONDS = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60)


class Meters:
    """Counters of one gateway, each named `e5_gateway_...`."""

    def __init__(self) -> None:
        """All at zero, in a registry of their own."""
        self.registry = CollectorRegistry()

        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(f"e5_gateway_{name}", text, labels, registry=self.registry)

        self.requests = counter("requests", "Requests answered.", "route", "status")
        self._texts = counter("texts", "Texts embedded.", "route")
        self._tokens = counter("tokens", "Tokens read, prompts included.", "route")
        self._truncated = counter("truncated", "Texts that were cut.", "route")
        self.failures = counter("backend_failures", "Requests the backend failed.", "status")
        self.seconds = Histogram(
            "e5_gateway_seconds",
            "From a request to the end of its answer.",
            ["route"],
            buckets=SECONDS,
            registry=self.registry,
        )
        self.in_flight = Gauge(
            "e5_gateway_in_flight", "Requests being answered.", registry=self.registry
        )
        self.waiting_tokens = Gauge(
            "e5_gateway_queue_tokens",
            "Tokens that wait for the engine, where it is in this process.",
            registry=self.registry,
        )

    def count(self, route: str, texts: int, tokens: int, truncated: int) -> None:
        """What one request came to."""
        self._texts.labels(route).inc(texts)
        self._tokens.labels(route).inc(tokens)
        if truncated:
            self._truncated.labels(route).inc(truncated)

    def text(self) -> bytes:
        """All of them, in Prometheus' text format."""
        return generate_latest(self.registry)
