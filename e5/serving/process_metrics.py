"""What the parent of engines and fronts counts. Each front's /metrics shows it with its own.

prometheus-client keeps the values of several processes in files of one folder, if an environment
variable names the folder when it is imported.
"""

import os
from pathlib import Path
from typing import get_args

from e5.serving.child import ChildKind, EndCause

VARIABLE = "PROMETHEUS_MULTIPROC_DIR"


class ProcessMetrics:
    """The parent's counters, each named `e5_gateway_...`."""

    def __init__(self, folder: Path) -> None:
        """Keep them in a folder; nothing in this process may have imported prometheus-client."""
        os.environ[VARIABLE] = str(folder)
        from prometheus_client import CollectorRegistry, Counter, Gauge

        registry = CollectorRegistry()
        self.restarts = Counter(
            "e5_gateway_restarts",
            "Processes that ended and were started again: by themselves or others (ended), or "
            "because they gave no sign of life (silent), said that they do not work (unhealthy) or "
            "serve another model than the others (refused).",
            ["kind", "cause"],
            registry=registry,
        )
        for kind in get_args(ChildKind):
            for cause in get_args(EndCause):
                self.restarts.labels(kind, cause)  # 0 from the beginning
        # Only this process writes these, so any mode that changes no value will do.
        self.processes = Gauge(
            "e5_gateway_processes",
            "Processes that can answer.",
            ["kind"],
            registry=registry,
            multiprocess_mode="max",
        )
        self.queue_tokens = Gauge(
            "e5_gateway_queue_tokens",
            "Tokens that wait for an engine.",
            ["engine"],
            registry=registry,
            multiprocess_mode="max",
        )
        self.cache_bytes = Gauge(
            "e5_gateway_cache_bytes",
            "Bytes that an engine's kept vectors take.",
            ["engine"],
            registry=registry,
            multiprocess_mode="max",
        )

    def forget(self, name: str) -> None:
        """Remove the gauges of a process that has ended; its counters stay."""
        from prometheus_client.multiprocess import mark_process_dead

        mark_process_dead(name)
