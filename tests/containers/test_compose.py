"""Both compose files start what they say, and bring back what dies."""

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx2
import pytest
from container_checks import FOLDER
from containers import ROOT, SECONDS, Container, direct_client, docker
from stand_ins import have_compose

logger = logging.getLogger(__name__)

PORT = 18080
# The port, because another service may have that of the file; and no card, because there is none.
CHANGES = {
    "compose.demo.yaml": ("model", 8080, ""),
    "compose.yaml": (
        "cog",
        5000,
        """
  cog:
    gpus: !reset []
    environment: {E5_DEVICE: cpu, E5_WEIGHTS: weights/e5-mini}
""",
    ),
}
QUESTION = {"model": "e5-mini", "input": "what is snow"}


@contextmanager
def up(file: str, folder: Path) -> Iterator[Container]:
    """What a compose file starts; gives the container with the model."""
    service, port, changes = CHANGES[file]
    override = folder / "override.yaml"
    override.write_text(
        f'services:\n  gateway:\n    ports: !override ["127.0.0.1:{PORT}:8080"]\n{changes}'
    )
    compose = ["compose", "-p", "e5-test", "-f", str(ROOT / file), "-f", str(override)]
    try:
        docker(*compose, "up", "--detach", "--wait", "--wait-timeout", f"{SECONDS:.0f}")
        yield Container(docker(*compose, "ps", "--quiet", service), port)
    finally:
        docker(*compose, "down", "--timeout", "60", "--volumes")


def ask() -> httpx2.Response:
    """Ask the gateway from the host."""
    with direct_client() as client:
        return client.post(f"http://127.0.0.1:{PORT}/v1/embeddings", json=QUESTION)


@pytest.mark.parametrize("file", CHANGES)
def test_a_dead_worker_is_brought_back_by_the_file_alone(
    file: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    have_compose(FOLDER)
    for image in ("gateway_image", "demo_image" if "demo" in file else "cog_image"):
        request.getfixturevalue(image)
    with up(file, tmp_path) as model:
        first = ask()
        assert first.status_code == 200, first.text
        model.kill_worker()
        began, statuses = time.monotonic(), set()
        while (answer := ask()).status_code != 200 or model.inspect("{{.RestartCount}}") == "0":
            statuses.add(answer.status_code)
            assert answer.status_code in (200, 503), answer.text
            assert time.monotonic() - began < SECONDS, model.log[-4000:]
            time.sleep(0.2)
        logger.info(f"{file}: {statuses}, and answers again after {time.monotonic() - began:.0f} s")
        assert answer.json()["data"] == first.json()["data"]


def test_the_files_ask_for_nothing_that_older_engines_lack() -> None:
    """`start_interval` needs version 25 of the engine; compose refuses the file on older ones."""
    for file in CHANGES:
        assert "start_interval" not in (ROOT / file).read_text()
