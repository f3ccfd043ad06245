"""Each image answers its first prediction right, and is what operators expect."""

import json
import logging
from pathlib import Path

import numpy as np
import pytest
from container_checks import FLOAT32, HARDENED, MINI, ON_A_CPU, TEXTS, Expected, assert_right
from containers import ROOT, direct_client, docker, running

logger = logging.getLogger(__name__)

MOUNTED = f"--volume={MINI}:/models/mine:ro"


@pytest.mark.parametrize("command", [[], ["serve"]])
def test_the_demo_answers_as_a_gateway_and_as_cog_s_server(
    command: list[str], demo_image: str, expected: Expected
) -> None:
    with running(demo_image, *command, env=FLOAT32) as container:
        assert_right(container, expected)


@pytest.mark.parametrize(
    ("command", "weights", "options"),
    [(["serve"], "/weights/e5-mini", []), ([], "/models/mine", [MOUNTED, *HARDENED])],
)
def test_the_server_answers_with_weights_of_its_own_and_with_mounted_ones(
    command: list[str], weights: str, options: list[str], server_image: str, expected: Expected
) -> None:
    env = {**ON_A_CPU, "E5_WEIGHTS": weights}
    with running(server_image, *command, options=options, env=env) as container:
        assert_right(container, expected)


def test_the_gateway_without_torch_answers_in_front_of_a_server(
    gateway_image: str, demo_image: str, expected: Expected
) -> None:
    with running(demo_image, "serve", env=FLOAT32) as model:
        command = ["gateway", "--backend", model.url]
        with running(gateway_image, *command, options=HARDENED) as gateway:
            assert_right(gateway, expected)
            with direct_client() as client:
                body = {"model": "e5-mini", "input": TEXTS[0]}
                answer = client.post(f"{gateway.url}/v1/embeddings", json=body).json()
            right = np.array(expected[0]) / np.linalg.norm(expected[0])
            assert answer["data"][0]["embedding"] == pytest.approx(right, abs=1e-4)
    missing = "import importlib.util as u; print([n for n in ('torch', 'cog') if u.find_spec(n)])"
    assert docker("run", "--rm", "--entrypoint=python", gateway_image, "-c", missing) == "[]"


@pytest.mark.parametrize("target", ["gateway", "demo", "server"])
def test_an_image_is_what_operators_expect(target: str, request: pytest.FixtureRequest) -> None:
    image = request.getfixturevalue(f"{target}_image")
    (described,) = json.loads(docker("inspect", image))
    config = described["Config"]
    assert config["User"] == "65534:65534"
    assert config["Entrypoint"] == ["e5"]
    assert config["Cmd"][0] == "gateway"
    assert config["StopSignal"] == "SIGTERM"
    assert config["Healthcheck"]["Test"] == ["CMD", "python", "/opt/e5/probe"]
    assert [*config["ExposedPorts"]] == ["8080/tcp"]
    caches = ["/", "-xdev", "(", "-path", "*/pip/http*", "-o", "-path", "*/pip/wheels", ")"]
    assert docker("run", "--rm", "--user=0", "--entrypoint=find", image, *caches) == ""
    logger.info("%s: %.2f GB", image, described["Size"] / 1e9)


def test_docker_calls_a_container_healthy_as_the_image_says(demo_image: str) -> None:
    with running(demo_image, options=["--health-interval=1s"]) as container:
        while (health := container.inspect("{{.State.Health.Status}}")) == "starting":
            pass
        assert health == "healthy"


@pytest.mark.parametrize("command", ["gateway", "serve"])
def test_without_a_card_the_image_says_what_is_missing_and_how_to_try_it(
    command: str, server_image: str
) -> None:
    env = {"E5_WEIGHTS": "/weights/e5-mini"}
    status = ["SETUP_FAILED"] if command == "serve" else []
    with running(server_image, command, env=env, until=status) as container:
        if command == "gateway":
            assert docker("wait", container.name) == "1"
        assert "E5_DEVICE: received 'cuda', which cannot be used here (torch: " in container.log
        assert "E5_DEVICE=cpu and E5_WEIGHTS=" in container.log


def test_a_clone_of_any_modes_gives_an_image_that_any_user_can_read(
    tmp_path: Path,
) -> None:
    """A user's umask may be 077; the image's user is another one."""
    context = tmp_path / "clone"
    names = ["Dockerfile", "pyproject.toml", "requirements.txt", "README.md", "LICENSE"]
    names += ["predict.py", "scripts/probe", "e5/__init__.py", "weights/e5-mini/config.json"]
    for name in names:
        (context / name).parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        (context / name).write_bytes((ROOT / name).read_bytes())
        (context / name).chmod(0o600)
    read = "import pathlib; pathlib.Path('/weights/e5-mini/config.json').read_text()"
    docker("build", "--target", "demo-weights", "-t", "e5-modes", ".", cwd=context)
    docker("run", "--rm", "--user=12345", "--entrypoint=python", "e5-modes", "-c", read)
    docker("rmi", "e5-modes")
