"""Containers that are stopped, killed or starved lose no accepted request, and come back."""

import logging
import os
import signal
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx2
import pytest
from container_checks import FLOAT32, ON_A_CPU, TEXTS, Expected, assert_right
from containers import SECONDS, Container, docker, running

logger = logging.getLogger(__name__)

PROBE = "--health-cmd=python {} --end"
WATCHED = [
    "--restart=unless-stopped",
    "--health-interval=1s",
    "--health-timeout=2m",
    "--health-retries=1",
]


def healed_by(probe: str) -> list[str]:
    """The options that bring a dead worker back, as docs/deploy.md has them, with less patience."""
    return [*WATCHED, PROBE.format(probe)]


def ask_until_refused(url: str, seen: "Counter[str]") -> None:
    """Ask by one connection after the other until nothing listens; count what came back."""
    body = {"input": {"documents": [*TEXTS, "snow " * 200], "encoding_format": "base64"}}
    while True:
        try:
            with httpx2.Client(trust_env=False, timeout=SECONDS) as client:
                answer = client.post(f"{url}/predictions", json=body)
        except httpx2.ConnectError:
            return
        except httpx2.HTTPError as error:
            seen[f"lost: {type(error).__name__}"] += 1
            continue
        has_vectors = answer.status_code == 200 and answer.json()["status"] == "succeeded"
        seen["answered" if has_vectors else f"refused: {answer.status_code}"] += 1


@pytest.mark.parametrize("command", ["gateway", "serve"])
def test_a_container_that_is_stopped_under_load_loses_no_request(
    command: str, demo_image: str
) -> None:
    with running(demo_image, command) as container:
        seen: Counter[str] = Counter()
        url = container.url
        with ThreadPoolExecutor(16) as pool:
            for _ in range(16):
                pool.submit(ask_until_refused, url, seen)
            while seen["answered"] < 100:
                time.sleep(0.05)
            docker("stop", "--time=60", container.name)
        assert container.inspect("{{.State.ExitCode}}") == "0", container.log[-4000:]
        if command == "serve":  # Cog drops a connection whose request it has not read yet
            assert container.log.count("Starting prediction") == seen["answered"], seen
        else:
            assert [kind for kind in seen if kind.startswith("lost")] == [], seen
        assert {*seen} <= {"answered", "refused: 409", "refused: 503", "lost: RemoteProtocolError"}
        logger.info(seen)


@pytest.mark.parametrize("command", ["gateway", "serve"])
def test_a_worker_that_is_killed_is_back_by_itself(
    command: str, demo_image: str, expected: Expected
) -> None:
    options = healed_by("/opt/e5/probe")
    with running(demo_image, command, options=options, env=FLOAT32) as container:
        began = time.monotonic()
        if command == "serve":
            container.kill_worker()
            container.wait_for("UNHEALTHY")
        else:  # its only process: Docker sees that itself
            os.kill(int(container.inspect("{{.State.Pid}}")), signal.SIGKILL)
        wait_for_restart(container)
        container.wait_for("READY")
        logger.info(f"{command}: READY again after {time.monotonic() - began:.0f} s")
        assert_right(container, expected)


def wait_for_restart(container: Container) -> None:
    """Wait until Docker has started the container again."""
    end = time.monotonic() + SECONDS
    while container.inspect("{{.RestartCount}}") == "0":
        assert time.monotonic() < end, container.log[-4000:]
        time.sleep(0.2)


def test_the_probe_ends_neither_what_loads_nor_what_is_busy(demo_image: str) -> None:
    options = [*healed_by("/opt/e5/probe"), "--cpus=0.5"]
    texts = [f"{number} snow and rain " * 300 for number in range(120)]
    with running(demo_image, "serve", options=options, until=()) as container:
        container.wait_for("READY")  # many probes have looked at it while it loaded
        with ThreadPoolExecutor(1) as pool:
            asked = pool.submit(container.predict, documents=texts, encoding_format="base64")
            began = time.monotonic()
            while not asked.done():
                container.execute("python", "/opt/e5/probe", check=False)
            logger.info(f"busy for {time.monotonic() - began:.0f} s")
            assert asked.result()["status"] == "succeeded"
        assert container.inspect("{{.RestartCount}}") == "0"


def test_a_worker_that_the_kernel_kills_is_back_by_itself(
    demo_image: str, expected: Expected
) -> None:
    """What does not fit into the memory ends the worker; Docker need not notice that."""
    options = [*healed_by("/opt/e5/probe"), "--memory=500m", "--memory-swap=500m"]
    large = ["x" * 1_000_000] * 10
    with running(demo_image, "serve", options=options, env=FLOAT32) as container:
        with ThreadPoolExecutor(8) as pool:
            bodies: list[dict[str, Any]] = [{"documents": [*large, str(n)]} for n in range(16)]
            answers = list(pool.map(lambda inputs: try_to_predict(container, inputs), bodies))
        assert "lost" in answers or "failed" in answers, answers
        wait_for_restart(container)
        container.wait_for("READY")
        assert_right(container, expected)


def try_to_predict(container: Container, inputs: dict[str, Any]) -> str:
    try:
        return str(container.predict(**inputs).get("status"))
    except (httpx2.HTTPError, AssertionError, ValueError):
        return "lost"


def test_4_gb_above_the_weights_are_enough_for_the_documented_peaks(
    demo_image: str,
) -> None:
    """The requests of the table in docs/deploy.md, of which some are refused, many at a time."""
    words = ["snow", "rain", "wind", "mill", "sugar"]
    many = [" ".join(words[(n + k) % 5] for k in range(300)) for n in range(2048)]
    long = [f"{n} " + "snow and rain " * 71_000 for n in range(10)]
    peaks: list[dict[str, Any]] = [
        {"documents": many, "encoding_format": "base64"},
        {"documents": long, "encoding_format": "base64"},
        {"documents": [str(n) for n in range(2048)]},
        {"documents": ["x" * 1_000_000] * 11},
        {"documents": ["x" * 9_600_000] * 10},
        {"documents": [0] * 25_000_000},
    ]
    with running(demo_image, "serve", options=["--memory=4g", "--memory-swap=4g"]) as container:
        with ThreadPoolExecutor(len(peaks)) as pool:
            answers = list(pool.map(lambda inputs: container.predict(**inputs), peaks))
        assert [answer.get("status", "failed") for answer in answers[:2]] == ["succeeded"] * 2
        assert container.inspect("{{.State.OOMKilled}}") == "false"
        container.wait_for("READY")


def test_a_backend_that_comes_back_with_another_address_is_found_again(
    gateway_image: str, demo_image: str, expected: Expected
) -> None:
    network = f"e5-test-{threading.get_native_id()}"
    docker("network", "create", network)
    named = [f"--network={network}", "--network-alias=model"]
    command = ["gateway", "--backend", "http://model:8080"]
    options = [f"--network={network}"]
    try:
        with running(demo_image, "serve", options=named, env=FLOAT32) as model:
            first = model.url
            with running(gateway_image, *command, options=options) as gateway:
                assert_right(gateway, expected)
                docker("rm", "--force", model.name)
                gateway.wait_for("UNHEALTHY")
                # Another container takes the address that is free now.
                with (
                    running(gateway_image, *command, options=options, until=()),
                    running(demo_image, "serve", options=named, env=FLOAT32) as other,
                ):
                    assert other.url != first
                    gateway.wait_for("READY")
                    assert_right(gateway, expected)
    finally:
        docker("network", "rm", network, check=False)


def test_the_cog_image_is_stopped_and_healed_as_the_others(
    cog_image: str, expected: Expected
) -> None:
    env = {**ON_A_CPU, "E5_WEIGHTS": "weights/e5-mini"}
    options = healed_by("scripts/probe")
    with running(cog_image, options=options, env=env, port=5000) as container:
        assert_right(container, expected)
        container.kill_worker()
        wait_for_restart(container)
        container.wait_for("READY")
        assert_right(container, expected)
        docker("stop", "--time=60", container.name)
        assert container.inspect("{{.State.ExitCode}}") == "0"
