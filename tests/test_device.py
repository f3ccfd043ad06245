"""A device or dtype that is set is used or refused in one sentence; unset, the best is used."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from e5.device import choose_device, choose_dtype, choose_threads, set_threads
from e5.embedder import Embedder
from e5.errors import SettingsError
from e5.settings import Settings

ROOT = Path(__file__).resolve().parents[1]
CPU, CUDA = torch.device("cpu"), torch.device("cuda")


def test_the_cpu_can_be_set_everywhere() -> None:
    assert choose_device("cpu") == CPU


def test_by_default_it_is_cuda_where_there_is_one() -> None:
    assert choose_device(None) == (CUDA if torch.cuda.is_available() else CPU)


@pytest.mark.gpu
@pytest.mark.parametrize("device", ["cuda", "cuda:0"])
def test_cuda_can_be_set_on_a_machine_with_a_card(device: str) -> None:
    assert choose_device(device) == torch.device(device)


@pytest.mark.parametrize(
    "device", ["gpu", "cuda:x", "cuda:-1", "mps", "hpu", "xpu", "meta", "", "cpu cuda"]
)
def test_a_device_that_cannot_be_used_here_is_refused(device: str) -> None:
    with pytest.raises(SettingsError) as refusal:
        choose_device(device)
    assert str(refusal.value) == (
        f"E5_DEVICE: received {device!r}, which cannot be used here; use cpu or cuda."
    )


TRY_WITHOUT = (
    "give the container a card (docker run --gpus all), "
    "or try it without one by E5_DEVICE=cpu and E5_WEIGHTS=weights/e5-mini."
)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is CUDA")
@pytest.mark.parametrize("device", ["cuda", "cuda:1"])
def test_cuda_is_refused_where_there_is_none_and_torch_says_what_is_missing(device: str) -> None:
    with pytest.raises(SettingsError) as refusal:
        choose_device(device)
    reason = "Torch not compiled with CUDA enabled"
    if torch.version.cuda is not None:
        reason = "Found no NVIDIA driver on your system. Please check that you have an NVIDIA GPU "
        reason += "and installed a driver from http://www.nvidia.com/Download/index.aspx"
    assert str(refusal.value) == (
        f"E5_DEVICE: received {device!r}, which cannot be used here (torch: {reason}); "
        f"{TRY_WITHOUT}"
    )


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        ("No CUDA GPUs are available", "No CUDA GPUs are available"),
        ("The NVIDIA driver on your system is too old (found version 11040). Update it.",
         "The NVIDIA driver on your system is too old (found version 11040). Update it"),
        ("CUDA error: invalid device ordinal\nCUDA kernel errors might be reported later.",
         "CUDA error: invalid device ordinal"),
        ("x" * 1000, "x" * 297 + "..."),
    ],
)  # fmt: skip
def test_what_torch_says_of_a_card_is_one_line(
    said: str, shown: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A machine has one fault at most, so torch is patched to report each."""

    def fails(*_: object, **__: object) -> None:
        raise RuntimeError(said)

    monkeypatch.setattr("torch.empty", fails)
    with pytest.raises(SettingsError) as refusal:
        choose_device("cuda")
    assert f"(torch: {shown}); {TRY_WITHOUT}" in str(refusal.value)


@pytest.mark.gpu
def test_a_card_that_is_not_there_is_refused_beside_others() -> None:
    with pytest.raises(SettingsError, match=r"'cuda:99', .* \(torch: CUDA error: invalid device"):
        choose_device("cuda:99")


@pytest.mark.parametrize("device", [CPU, CUDA], ids=str)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32], ids=str)
def test_any_dtype_can_be_set(
    dtype: torch.dtype, device: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cuda.get_device_capability", lambda _: (8, 0))
    assert choose_dtype(str(dtype).removeprefix("torch."), device) == dtype


def test_by_default_it_is_float16_on_cuda() -> None:
    assert choose_dtype(None, CUDA) == torch.float16


@pytest.mark.parametrize(
    ("avx512_bf16", "amx", "dtype"),
    [
        (False, False, torch.float32),
        (True, False, torch.bfloat16),
        (False, True, torch.bfloat16),
        (True, True, torch.bfloat16),
    ],
)
def test_by_default_it_is_bfloat16_on_a_cpu_that_multiplies_it_in_hardware(
    avx512_bf16: bool, amx: bool, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One machine has one kind of CPU, so torch is patched to report each."""
    monkeypatch.setattr("torch.cpu._is_avx512_bf16_supported", lambda: avx512_bf16)
    monkeypatch.setattr("torch.cpu._is_amx_tile_supported", lambda: amx)
    assert choose_dtype(None, CPU) == dtype


class TestCards:
    """The test machine has no card, so torch is patched to report one."""

    def test_one_that_is_too_old_is_refused_by_name(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("torch.cuda.is_available", lambda: True)
        monkeypatch.setattr("torch.cuda.get_device_capability", lambda _: (6, 1))
        monkeypatch.setattr("torch.cuda.get_device_name", lambda _: "GeForce GTX 1080")
        with pytest.raises(
            SettingsError,
            match=r"GTX 1080, whose compute capability is 6\.1 and has to be .* 7\.0; set "
            r"E5_ENGINE=transformers, or",
        ):
            choose_device(None)
        assert choose_device(None, min_capability=(0, 0)) == CUDA

    @pytest.mark.parametrize("capability", [(7, 0), (7, 5)])
    def test_old_ones_multiply_no_bfloat16(
        self, capability: tuple[int, int], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("torch.cuda.get_device_capability", lambda _: capability)
        monkeypatch.setattr("torch.cuda.get_device_name", lambda _: "Tesla T4")
        with pytest.raises(
            SettingsError,
            match=r"^E5_DTYPE: received 'bfloat16', which Tesla T4 does not multiply;",
        ):
            choose_dtype("bfloat16", CUDA)
        assert choose_dtype("float32", CUDA) == torch.float32
        assert choose_dtype(None, CUDA) == torch.float16

    @pytest.mark.parametrize(
        "capability", [(7, 0), (7, 5), (8, 0), (8, 6), (8, 9), (9, 0), (12, 0)]
    )
    def test_newer_ones_are_taken(
        self, capability: tuple[int, int], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("torch.cuda.is_available", lambda: True)
        monkeypatch.setattr("torch.cuda.get_device_capability", lambda _: capability)
        assert choose_device(None) == CUDA

    @pytest.mark.skipif(torch.cuda.is_available(), reason="there is CUDA")
    def test_a_card_that_is_not_found_cannot_be_missed(
        self, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        monkeypatch.setattr("torch.version.cuda", "12.6")
        assert choose_device(None, weight_bytes=1_000_000) == CPU
        assert re.search(r"finds no card that works \(torch: (Torch not|Found no)", caplog.text)
        assert "RUNS ON THE CPU" in caplog.text
        with pytest.raises(SettingsError, match=r"or set E5_DEVICE=cpu to run 14\.2 GB of weights"):
            choose_device(None, weight_bytes=14_220_000_000)
        assert choose_device("cpu", weight_bytes=14_220_000_000) == CPU


def cgroups(folder: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text)
    return folder


class TestThreads:
    """There is one for each core that may be used, and never more."""

    @pytest.fixture(autouse=True)
    def _eight_cores(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(torch, "get_num_threads", lambda: 8)
        monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(16)), raising=False)

    @pytest.mark.parametrize(
        ("files", "threads"),
        [
            ({}, 8),
            ({"cpu.max": "max 100000\n"}, 8),
            ({"cpu.max": "250000 100000\n"}, 2),
            ({"cpu.max": "50000 100000\n"}, 1),
            ({"cpu.max": "9900000 100000\n"}, 8),
            ({"cpu.max": "nonsense"}, 8),
            ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, 8),
            ({"cpu/cpu.cfs_quota_us": "400000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 4),
        ],
    )
    def test_a_quota_limits_them(self, tmp_path: Path, files: dict[str, str], threads: int) -> None:
        assert choose_threads(None, cgroups=cgroups(tmp_path, files)) == threads

    def test_so_does_where_the_process_may_run(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("os.sched_getaffinity", lambda _: {3, 5, 7}, raising=False)
        assert choose_threads(None, cgroups=tmp_path) == 3

    def test_where_processes_are_not_bound_to_cores_all_of_them_count(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """So it is on macOS."""
        monkeypatch.delattr("os.sched_getaffinity")
        monkeypatch.setattr("os.cpu_count", lambda: 6)
        assert choose_threads(None, cgroups=tmp_path / "none") == 6

    def test_the_setting_counts_whatever_there_is(self, tmp_path: Path) -> None:
        quota = cgroups(tmp_path, {"cpu.max": "100000 100000"})
        assert choose_threads(12, cgroups=quota) == 12


def test_more_threads_than_torch_can_count_are_refused() -> None:
    with pytest.raises(SettingsError, match=r"^E5_THREADS: received 10{20}; use the number of c"):
        set_threads(10**20)


def test_a_model_runs_with_the_threads_that_were_set_and_says_so(
    checkpoint: Path, caplog: pytest.LogCaptureFixture
) -> None:
    before = torch.get_num_threads()
    try:
        with caplog.at_level("INFO"):
            Embedder.load(Settings(weights=checkpoint, device="cpu", threads=2))
        assert torch.get_num_threads() == 2
        assert "2 CPU threads" in caplog.text
    finally:
        torch.set_num_threads(before)


FORKED = """
import os, sys
from e5 import Embedder, Settings
from e5.errors import EngineError
embedder = Embedder.load(Settings(weights=sys.argv[1], device="cpu", threads=2))
embedder.encode_document(["snow"] * 9)
child = os.fork()
if child == 0:
    try:
        embedder.encode_document("snow")
    except EngineError as error:
        print(error, flush=True)
    os._exit(0)
os.waitpid(child, 0)
print(embedder.encode_document("snow").shape)
"""


FORKED_SERVICE = """
import asyncio, os, sys
from e5.errors import EngineError
from e5.serving.request import EmbedRequest
from e5.serving.service import Service
from e5.settings import Settings
service = Service.load(Settings(weights=sys.argv[1], device="cpu"))
child = os.fork()
if child == 0:
    try:
        asyncio.run(service.answer(EmbedRequest.parse(document="snow")))
    except EngineError as error:
        print(error, flush=True)
    os._exit(0)
os.waitpid(child, 0)
"""


@pytest.mark.slow
def test_a_service_in_a_fork_refuses_and_does_not_hang(checkpoint: Path) -> None:
    command = [sys.executable, "-W", "ignore", "-c", FORKED_SERVICE, str(checkpoint)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=ROOT)
    assert done.stdout.startswith("the model was loaded before this process was forked")


def test_few_compiled_products_are_kept_unless_asked_otherwise(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    name = "ONEDNN_PRIMITIVE_CACHE_CAPACITY"
    for before, after in ((None, "64"), ("9", "9")):
        if before is None:
            monkeypatch.delenv(name, raising=False)
        else:
            monkeypatch.setenv(name, before)
        set_threads(torch.get_num_threads())
        assert os.environ[name] == after


@pytest.mark.slow
@pytest.mark.parametrize(
    ("given", "spins"),
    [({}, "1000"), ({"GOMP_SPINCOUNT": "7"}, "7"), ({"OMP_WAIT_POLICY": "passive"}, "0")],
)
def test_threads_that_wait_leave_the_cores_to_others(given: dict[str, str], spins: str) -> None:
    unset = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")
    environment = {name: value for name, value in os.environ.items() if name not in unset}
    environment |= given | {"OMP_DISPLAY_ENV": "verbose"}  # GNU OpenMP says what it has read
    command = [sys.executable, "-c", "import e5.device"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=ROOT)
    if "GOMP_SPINCOUNT" not in done.stderr:
        pytest.skip("torch is built with another OpenMP")
    assert f"GOMP_SPINCOUNT = '{spins}'" in done.stderr


@pytest.mark.slow
def test_a_fork_after_loading_is_refused_and_does_not_hang(checkpoint: Path) -> None:
    command = [sys.executable, "-W", "ignore", "-c", FORKED, str(checkpoint)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=ROOT)
    refusal, shape = done.stdout.splitlines()
    assert refusal.startswith("the model was loaded before this process was forked")
    assert shape.startswith("(")  # the parent goes on
