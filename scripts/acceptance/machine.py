"""The machine's part: driver, card, torch's build, the weights on the disk, the GPU tests.

Knows nothing of what vectors should be.
"""

import shutil
import subprocess
import sys
from collections.abc import Sequence

import torch

from acceptance.lines import Line, at_least, in_digits, not_run, passes
from acceptance.subject import ROOT, Subject, cores
from benchmarks.machine import machine_name
from e5.checkpoint import Checkpoint, weight_bytes
from e5.device import LEAST_CAPABILITY
from e5.settings import Settings

DRIVER = ("nvidia-smi", "--query-gpu=driver_version,power.limit,ecc.mode.current")


def machine(subject: Subject) -> Sequence[Line]:
    """Driver, card, and a torch that was built for it."""
    lines = [
        Line("processor", f"{machine_name(torch.device('cpu'))}, {cores()} cores"),
        Line("torch", f"{torch.__version__}, CUDA {torch.version.cuda or 'none'}"),
    ]
    if not subject.on_a_card:
        return [*lines, not_run("driver and card", f"the device is {subject.device}")]
    if not torch.cuda.is_available():
        return [*lines, passes("torch finds a card that works", "it finds none", False)]
    major, minor = torch.cuda.get_device_capability(subject.device)
    built = torch.cuda.get_arch_list()
    fits = any(_runs_on(name, major, minor) for name in built)
    memory = torch.cuda.get_device_properties(subject.device).total_memory
    least = LEAST_CAPABILITY[0] + LEAST_CAPABILITY[1] / 10
    return [
        *lines,
        _driver(),
        Line("card", f"{torch.cuda.get_device_name(subject.device)}, {memory / 1e9:.1f} GB"),
        at_least("compute capability", major + minor / 10, least),
        passes("torch is built for it", " ".join(built), fits, f"sm_{major}x"),
    ]


def _runs_on(architecture: str, major: int, minor: int) -> bool:
    """Whether code for `sm_80` or `compute_80` runs on a card of this compute capability."""
    kind, _, number = architecture.partition("_")
    if not number.isdigit():
        return False  # sm_90a: for one card alone
    built = int(number[:-1]), int(number[-1])
    if kind == "compute":  # the driver translates it for newer cards
        return built <= (major, minor)
    return built[0] == major and built[1] <= minor  # of the same generation


def _driver() -> Line:
    if shutil.which(DRIVER[0]) is None:
        return not_run("driver", "nvidia-smi is not installed")
    told = subprocess.run([*DRIVER, "--format=csv,noheader"], capture_output=True, text=True)
    return passes("driver, power limit, ECC", told.stdout.strip(), told.returncode == 0)


def weights(subject: Subject) -> Sequence[Line]:
    """Downloaded where they are missing; every byte compared with its checksum."""
    folder = subject.weights
    if not folder.exists() and folder == ROOT / Settings.weights:
        told = _download_weights()
        if told.returncode != 0:
            return [passes("download", told.stderr.strip()[-300:], False)]
    manifest = Checkpoint.find(folder).manifest
    size = Line("size of the weight files", in_digits(round(weight_bytes(folder) / 1e9, 3), " GB"))
    if manifest is None:
        return [size, not_run("checksums", "the folder has no manifest.json")]
    told = _download_weights("--verify", str(folder))
    found = (told.stdout if told.returncode == 0 else told.stderr).strip().rpartition("\n")[2]
    return [size, passes("checksums", found.replace(str(folder), folder.name), not told.returncode)]


def tests(subject: Subject) -> Sequence[Line]:
    """What is marked `gpu` among the tests."""
    if not subject.on_a_card:
        return [not_run("pytest -m gpu", f"the device is {subject.device}")]
    files = sorted((ROOT / "tests").glob("test_*.py"))
    files = [file for file in files if "pytest.mark.gpu" in file.read_text()]
    command = [sys.executable, "-m", "pytest", "-q", "-m", "gpu", "-p", "no:cacheprovider"]
    told = subprocess.run(
        [*command, "-W", "default", *map(str, files)],  # this machine's versions may warn
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    print(told.stdout, told.stderr)
    last = told.stdout.strip().rpartition("\n")[2].strip("= ")
    return [passes("pytest -m gpu", last, told.returncode == 0, "none fails")]


def _download_weights(*arguments: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "e5", "download-weights", *arguments]
    told = subprocess.run(command, capture_output=True, text=True)
    print(told.stdout, told.stderr)
    return told
