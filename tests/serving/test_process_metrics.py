"""What several processes count is shown as one, without what dead ones measured."""

import subprocess
import sys
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families
from server import ROOT

PARENT = """
from pathlib import Path
from e5.serving.process_metrics import ProcessMetrics
metrics = ProcessMetrics(Path({folder!r}))
metrics.restarts.labels("engine", "silent").inc()
metrics.queue_tokens.labels(1).set(5)
metrics.queue_tokens.labels(2).set(7)
metrics.cache_bytes.labels(2).set(1152)
metrics.processes.labels("front").set(2)
metrics.forget("front-1")
"""
FRONT = """
from e5.gateway.metrics import GatewayMetrics
from e5.serving import FrontConfig
metrics = GatewayMetrics(FrontConfig({name!r}, {folder!r}, [], 0))
metrics.requests.labels("/embed", 200).inc()
metrics.in_flight.set(3)
metrics.seconds.labels("/embed").observe(0.003)
print(metrics.text(waiting_tokens=99, cache_bytes=99).decode())
"""


def run(code: str, folder: Path, **values: object) -> str:
    return subprocess.run(
        [sys.executable, "-c", code.format(folder=str(folder), **values)],
        env={"PYTHONPATH": str(ROOT), "PROMETHEUS_MULTIPROC_DIR": str(folder)},
        capture_output=True,
        text=True,
        check=True,
    ).stdout


@pytest.mark.slow
def test_each_front_shows_what_all_processes_count(tmp_path: Path) -> None:
    run(FRONT, tmp_path, name="front-1")
    run(FRONT, tmp_path, name="front-2")
    run(FRONT, tmp_path, name="front-3")
    run(PARENT, tmp_path)
    text = run(FRONT, tmp_path, name="front-2")  # it was started again
    assert len([*tmp_path.glob("counter_*.db")]) == 4
    values = {
        (sample.name.removeprefix("e5_gateway_"), *sorted(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }
    assert values["requests_total", "/embed", "200"] == 4
    assert values["seconds_bucket", "/embed", "0.005"] == 4
    assert values["in_flight",] == 6  # of the two that live
    assert values["queue_tokens", "1"] == 5
    assert values["queue_tokens", "2"] == 7
    assert values["cache_bytes", "2"] == 1152
    assert ("queue_tokens",) not in values  # what one front knows is no sum
    assert values["processes", "front"] == 2
    assert values["restarts_total", "engine", "silent"] == 1
    assert values["restarts_total", "ended", "front"] == 0
