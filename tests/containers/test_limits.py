"""Under an operator's limits an image works, or says in one sentence what it needs."""

from pathlib import Path

import pytest
from container_checks import FLOAT32, HARDENED, Expected, assert_right
from containers import docker, running

FAKETIME = Path("/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1")
LIMITS = {
    "a read-only root and no rights": HARDENED,
    "a user that the image does not know": ["--user=12345:12345"],
    "such a user and a read-only root": ["--user=12345:12345", *HARDENED],
    "little shared memory": ["--shm-size=64k"],
    "read-only shared memory": ["--tmpfs=/dev/shm:ro"],
    "few processes": ["--pids-limit=64"],
    "one core of the quota": ["--cpus=1"],
    "one core of the set": ["--cpuset-cpus=0"],
    "no IPv6": ["--sysctl=net.ipv6.conf.all.disable_ipv6=1"],
    "little memory": ["--memory=1g"],
    "no network": ["--network=none"],
}


@pytest.mark.parametrize("command", [[], ["serve"]], ids=["gateway", "serve"])
@pytest.mark.parametrize("limit", LIMITS)
def test_the_first_prediction_is_right(
    limit: str, command: list[str], demo_image: str, expected: Expected
) -> None:
    if limit == "no network":  # it can be asked from inside alone
        with running(demo_image, *command, options=LIMITS[limit], until=()) as container:
            probe = ["python", "/opt/e5/probe"]
            while container.execute(*probe, check=False) != "READY":
                assert container.inspect("{{.State.Running}}") == "true", container.log
        return
    with running(demo_image, *command, options=LIMITS[limit], env=FLOAT32) as container:
        assert_right(container, expected)
        if "core" in limit:
            assert "1 CPU threads" in container.log


@pytest.mark.parametrize("command", [[], ["serve"]], ids=["gateway", "serve"])
def test_few_open_files_are_enough_or_are_said_at_once(
    command: list[str], demo_image: str, expected: Expected
) -> None:
    few = ["--ulimit=nofile=256"]
    with running(demo_image, *command, options=few, env=FLOAT32, until=()) as container:
        if command:
            assert docker("wait", container.name) == "1"
            assert container.log == (
                "ulimit -n: received 256 open files, and Cog's 256 slots need 868; allow 1024 "
                "(ulimit -n 1024, docker run --ulimit nofile=1024)."
            )
        else:
            container.wait_for("READY")
            assert_right(container, expected)


@pytest.mark.parametrize("command", [[], ["serve"]], ids=["gateway", "serve"])
def test_without_a_writable_tmp_it_works_or_says_so(
    command: list[str], demo_image: str, expected: Expected
) -> None:
    until = ["SETUP_FAILED"] if command else ["READY"]
    with running(
        demo_image, *command, options=["--read-only"], env=FLOAT32, until=until
    ) as container:
        if command:
            assert "/tmp/coglet/predictions: cannot be written (" in container.log
        else:
            assert_right(container, expected)


def test_a_tmp_without_space_serves_what_needs_no_file(demo_image: str, expected: Expected) -> None:
    """Cog writes answers of more than 6 MiB into a file there; folders take no space."""
    small = ["--read-only", "--tmpfs=/tmp:size=64k"]
    texts = [str(number) for number in range(1024)]  # a million scores
    with running(demo_image, "serve", options=small, env=FLOAT32) as container:
        said = container.execute("dd", "if=/dev/zero", "of=/tmp/filler", check=False)
        assert "No space left" in said
        assert_right(container, expected)
        error = container.predict(queries=texts, documents=texts)["error"]
        assert "/tmp/coglet/predictions: has " in error
        container.execute("rm", "/tmp/filler")
        container.wait_for("READY")
        assert_right(container, expected)


def test_a_tmp_without_room_for_folders_is_unhealthy_until_there_is_some(
    demo_image: str, expected: Expected
) -> None:
    small = ["--read-only", "--tmpfs=/tmp:nr_inodes=100"]
    fill = "import itertools, os\nfor n in itertools.count(): os.mkdir(f'/tmp/filler{n}')"
    with running(demo_image, "serve", options=small, env=FLOAT32) as container:
        assert "No space left" in container.execute("python", "-c", fill, check=False)
        container.wait_for("UNHEALTHY")
        container.execute("sh", "-c", "rmdir /tmp/filler*")
        container.wait_for("READY")
        assert_right(container, expected)


@pytest.mark.skipif(not FAKETIME.exists(), reason="libfaketime is not installed")
@pytest.mark.parametrize("command", [[], ["serve"]], ids=["gateway", "serve"])
@pytest.mark.parametrize("jump", ["+3650d", "-3650d"])
def test_a_clock_that_jumps_changes_nothing(
    jump: str, command: list[str], demo_image: str, expected: Expected, tmp_path: Path
) -> None:
    clock = tmp_path / "clock"
    clock.write_text("+0\n")
    tmp_path.chmod(0o755)
    options = [f"--volume={FAKETIME}:{FAKETIME}:ro", f"--volume={clock}:/clock:ro"]
    fake = {
        "LD_PRELOAD": str(FAKETIME),
        "FAKETIME_TIMESTAMP_FILE": "/clock",
        "FAKETIME_NO_CACHE": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
    }
    with running(demo_image, *command, options=options, env={**FLOAT32, **fake}) as container:
        assert_right(container, expected)
        clock.write_text(f"{jump}\n")
        year = container.execute("python", "-c", "import time; print(time.localtime().tm_year)")
        assert abs(int(year) - 2026) >= 9
        for _ in range(20):
            assert_right(container, expected)
        assert container.execute("python", "/opt/e5/probe") == "READY"
