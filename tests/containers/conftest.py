"""Fixtures of the tests of containers: an engine, the images, and the right vectors.

Only `scripts/test --containers` collects these tests: they build images for minutes.
"""

import logging
import os
from collections.abc import Iterator

import pytest
import yaml
from container_checks import FOLDER, MINI, TEXTS
from containers import ROOT, docker, engine
from stand_ins import have_base_image

from e5 import Embedder, Settings

logger = logging.getLogger(__name__)

collect_ignore_glob = [] if os.environ.get("WHICH_TESTS") == "containers" else ["test_*.py"]

TORCH = "2.13.0"  # of which a machine without the index of torch's builds has one for CPUs
CPU_INDEX = "https://download.pytorch.org/whl/cpu"


@pytest.fixture(scope="session", autouse=True)
def _base_image() -> Iterator[None]:
    """An engine that runs, and the base image in it."""
    logging.getLogger("httpx2").setLevel(logging.WARNING)
    with engine(FOLDER):
        logger.info("base image: %s", have_base_image(FOLDER))
        version = docker("version", "--format", "{{.Server.Version}}")
        logger.info("engine %s", version)
        yield


@pytest.fixture(scope="session")
def gateway_image() -> str:
    """The target `gateway`, by the command that the Dockerfile prints."""
    docker("build", "--target", "gateway", "-t", "e5-gateway", ".", cwd=ROOT)
    return "e5-gateway"


@pytest.fixture(scope="session")
def demo_image() -> str:
    """The target `demo`, by the command that the Dockerfile prints."""
    docker("build", "--target", "demo", "-t", "e5-demo", ".", cwd=ROOT)
    return "e5-demo"


@pytest.fixture(scope="session")
def server_image() -> str:
    """The target `server`, with a torch for CPUs, because that is what the tests have."""
    torch = ["--build-arg", f"TORCH_VERSION={TORCH}", "--build-arg", f"TORCH_INDEX={CPU_INDEX}"]
    docker("build", "--target", "server", *torch, "-t", "e5-server", ".", cwd=ROOT)
    return "e5-server"


@pytest.fixture(scope="session")
def cog_image() -> str:
    """What `cog build` makes, by its steps: base, environment, pip, cog, run line, code, command.

    The base is that of the other images, and torch the one that they have.
    """
    config = yaml.safe_load((ROOT / "cog.yaml").read_text())
    build = config["build"]
    lines = [
        "FROM python:3.11-slim",
        "RUN pip install --no-cache-dir uv",
        "ENV UV_SYSTEM_PYTHON=true PYTHONUNBUFFERED=1",
        *(f"ENV {entry}" for entry in config["environment"]),
        "COPY requirements.txt /tmp/",
        f"RUN sed -i 's/^torch==.*/torch=={TORCH}/' /tmp/requirements.txt && "
        f"uv run pip install --no-cache-dir --no-deps torch=={TORCH} && "
        "uv run pip install --no-cache-dir -r /tmp/requirements.txt",
        f"RUN uv pip install --no-cache --break-system-packages cog=={build['sdk_version']}",
        *(f"RUN {line}" for line in build["run"]),
        "WORKDIR /src",
        "EXPOSE 5000",
        f"ENV COG_PREDICT_TYPE_STUB={config['run']}",
        'CMD ["python", "-m", "cog.server.http"]',
        "COPY . /src",
    ]
    docker("build", "-t", "e5-mistral", "-f", "-", ".", cwd=ROOT, input="\n".join(lines))
    return "e5-mistral"


@pytest.fixture(scope="session")
def expected() -> list[list[float]]:
    """The vectors of `TEXTS` as documents, in float32, from the engine in this process."""
    settings = Settings(weights=MINI, device="cpu", dtype="float32")
    return [list(map(float, row)) for row in Embedder.load(settings).encode_document(TEXTS)]
