"""What a process may use: its container's cores and memory, and the cards of its driver."""

import math
import os
import shutil
import subprocess
from pathlib import Path

import pytest
from processes import needs_linux

from e5.machine import available_host_bytes, find_cards, usable_cores


def write(folder: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text)
    return folder


@pytest.mark.parametrize(
    ("files", "cores"),
    [
        ({}, 3),
        ({"cpu.max": "250000 100000\n"}, 2),
        ({"cpu.max": "50000 100000\n"}, 1),
        ({"cpu.max": "9900000 100000\n"}, 3),
        ({"cpu/cpu.cfs_quota_us": "200000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 2),
    ],
)
def test_cores_are_those_of_the_affinity_within_the_quota(
    files: dict[str, str], cores: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {3, 5, 7})
    assert usable_cores(cgroups=write(tmp_path, files)) == cores


V1 = "memory/memory."
FILES = {
    "memory.stat": "anon 700\nactive_file 9\ninactive_file 300\n",
    "memory.current": "1000",
}


class TestHostMemory:
    """It is what the machine has free, or less if the container may take less."""

    @pytest.mark.parametrize(
        ("files", "available"),
        [
            ({}, 4096),
            (FILES | {"memory.max": "max\n"}, 4096),
            (FILES | {"memory.max": "2000\n"}, 1300),
            (FILES | {"memory.max": "9000"}, 4096),
            (FILES | {"memory.max": "nonsense"}, 4096),
            ({"memory.max": "2000", "memory.current": "1000", "memory.stat": "anon 5"}, 1000),
            ({"memory.max": "2000"}, 4096),
            (
                {
                    f"{V1}limit_in_bytes": "2000",
                    f"{V1}usage_in_bytes": "1500",
                    f"{V1}stat": "inactive_file 1\ntotal_inactive_file 200",
                },
                700,
            ),
            ({f"{V1}limit_in_bytes": "9223372036854771712"}, 4096),
        ],
    )
    def test_of_both_the_lesser_counts(
        self, tmp_path: Path, files: dict[str, str], available: int
    ) -> None:
        (tmp_path / "meminfo").write_text(
            "MemTotal:  9 kB\nMemAvailable:      4 kB\nCached: 7 kB\n"
        )
        groups = write(tmp_path, files)
        assert available_host_bytes(cgroups=groups, meminfo=tmp_path / "meminfo") == available

    def test_a_system_that_does_not_say_has_enough(self, tmp_path: Path) -> None:
        assert available_host_bytes(cgroups=tmp_path, meminfo=tmp_path / "none") == math.inf
        (tmp_path / "meminfo").write_text("MemTotal:  9 kB\n")
        found = available_host_bytes(cgroups=tmp_path, meminfo=tmp_path / "meminfo")
        assert found == math.inf

    @needs_linux
    def test_this_machine_has_some(self) -> None:
        assert 1e6 < available_host_bytes() < math.inf


DRIVER = """
#include <stdlib.h>
int cuInit(unsigned flags) { return getenv("BROKEN") ? 999 : 0; }
int cuDeviceGetCount(int *count) { *count = atoi(getenv("COUNT")); return 0; }
"""


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Path:
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("there is no C compiler")
    folder = tmp_path_factory.mktemp("driver")
    (folder / "driver.c").write_text(DRIVER)
    command = [compiler, "-shared", "-fPIC", "-o", "libcuda.so.1", "driver.c"]
    subprocess.run(command, cwd=folder, check=True)
    return folder


class TestCards:
    """A small library stands for the driver, which counts what CUDA_VISIBLE_DEVICES leaves."""

    @pytest.mark.parametrize(
        ("count", "visible", "cards"),
        [
            (3, None, ["0", "1", "2"]),
            (0, None, []),
            (2, "2,5", ["2", "5"]),
            (2, " 2, 5,99,1", ["2", "5"]),
            (1, "GPU-1a2b", ["GPU-1a2b"]),
            (0, "", []),
            (0, "-1", []),
            (1, "MIG-a,MIG-b", ["MIG-a", "MIG-b"]),
        ],
    )
    def test_they_are_those_that_the_driver_counts(
        self, driver: Path, count: int, visible: str | None, cards: list[str]
    ) -> None:
        environ = {"LD_LIBRARY_PATH": str(driver), "COUNT": str(count)}
        if visible is not None:
            environ["CUDA_VISIBLE_DEVICES"] = visible
        assert find_cards(environ) == cards

    def test_a_driver_that_does_not_begin_has_none(self, driver: Path) -> None:
        environ = {"LD_LIBRARY_PATH": str(driver), "COUNT": "2", "BROKEN": "1"}
        assert find_cards(environ) == []

    @pytest.mark.skipif(os.path.exists("/dev/nvidiactl"), reason="there is a driver")
    def test_a_machine_without_a_driver_has_none(self) -> None:
        assert find_cards() == []
