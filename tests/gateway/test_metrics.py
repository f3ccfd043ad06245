"""What is counted can be read by Prometheus, and each gateway counts for itself."""

from prometheus_client.parser import text_string_to_metric_families

from e5.gateway.metrics import GatewayMetrics


def test_prometheus_can_read_all_of_it_under_our_name() -> None:
    metrics = GatewayMetrics()
    metrics.requests.labels("/embed", 200).inc()
    metrics.count("/embed", texts=2, tokens=15, truncated=0, cached=None)
    metrics.count("/embed", texts=1, tokens=5, truncated=1, cached=None)
    metrics.count("/rerank", texts=4, tokens=12, truncated=0, cached=3)
    metrics.failures.labels(503).inc()
    metrics.seconds.labels("/embed").observe(0.003)
    metrics.in_flight.set(2)
    text = metrics.text(waiting_tokens=100, cache_bytes=1_152).decode()
    families = list(text_string_to_metric_families(text))
    assert all(family.name.startswith("e5_gateway_") for family in families)
    assert all(family.documentation.endswith(".") for family in families)
    values = {
        (sample.name.removeprefix("e5_gateway_"), *sorted(sample.labels.values())): sample.value
        for family in families
        for sample in family.samples
    }
    assert values["requests_total", "/embed", "200"] == 1
    assert values["texts_total", "/embed"] == 3
    assert values["tokens_total", "/embed"] == 20
    assert values["truncated_total", "/embed"] == 1
    assert values["backend_failures_total", "503"] == 1
    assert values["seconds_bucket", "/embed", "0.002"] == 0
    assert values["seconds_bucket", "/embed", "0.005"] == 1
    assert values["in_flight",] == 2
    assert values["queue_tokens",] == 100
    assert values["cache_hits_total",] == 3
    assert values["cache_misses_total",] == 1
    assert values["cache_bytes",] == 1_152


def test_two_gateways_do_not_count_together() -> None:
    one, other = GatewayMetrics(), GatewayMetrics()
    one.in_flight.set(5)
    assert other.registry.get_sample_value("e5_gateway_in_flight") == 0
