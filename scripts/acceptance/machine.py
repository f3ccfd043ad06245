"""The steps about the machine: driver, card, torch's build, the weights on disk, the GPU tests."""

import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace

import torch

from acceptance.candidate import RANDOM, ROOT, Candidate
from acceptance.lines import Line, at_least, in_digits, not_run, passes
from benchmarks.gpu_tests import run_gpu_tests
from benchmarks.machine import machine_name
from benchmarks.random_weights import SEVEN_BILLION, save_random_checkpoint
from e5.checkpoint import MANIFEST, Checkpoint, weight_bytes
from e5.device import MIN_CAPABILITY, usable_cores
from e5.settings import Settings

DRIVER = ("nvidia-smi", "--query-gpu=driver_version,power.limit,ecc.mode.current")


def machine(candidate: Candidate) -> Sequence[Line]:
    """Check the driver, the card, and that torch was built for it."""
    lines = [
        Line("processor", f"{machine_name(torch.device('cpu'))}, {usable_cores()} cores"),
        Line("torch", f"{torch.__version__}, CUDA {torch.version.cuda or 'none'}"),
    ]
    if not candidate.on_a_card:
        return [*lines, not_run("driver and card", f"the device is {candidate.device}")]
    if not torch.cuda.is_available():
        return [*lines, passes("torch finds a card that works", "it finds none", False)]
    major, minor = torch.cuda.get_device_capability(candidate.device)
    built = torch.cuda.get_arch_list()
    fits = any(_runs_on(name, major, minor) for name in built)
    memory = torch.cuda.get_device_properties(candidate.device).total_memory
    number, least = (float(f"{a}.{b}") for a, b in ((major, minor), MIN_CAPABILITY))
    capability = at_least("compute capability", number, least)
    if not candidate.packed:
        capability = Line("compute capability", in_digits(number))
    elif number < least:
        figure = f"{number:g}, too little for E5_ENGINE=packed: set E5_ENGINE=transformers"
        capability = replace(capability, figure=figure)
    return [
        *lines,
        _driver(),
        Line("card", f"{torch.cuda.get_device_name(candidate.device)}, {memory / 1e9:.1f} GB"),
        capability,
        passes("torch is built for it", " ".join(built), fits, f"sm_{major}x"),
    ]


def _runs_on(architecture: str, major: int, minor: int) -> bool:
    """Whether code for `sm_80` or `compute_80` runs on a card of this compute capability."""
    kind, _, number = architecture.partition("_")
    if not number.isdigit():
        return False  # sm_90a runs on one kind of card only
    built = int(number[:-1]), int(number[-1])
    if kind == "compute":  # the driver translates it for newer cards
        return built <= (major, minor)
    return built[0] == major and built[1] <= minor  # it runs on the same generation


def _driver() -> Line:
    if shutil.which(DRIVER[0]) is None:
        return not_run("driver", "nvidia-smi is not installed")
    done = subprocess.run([*DRIVER, "--format=csv,noheader"], capture_output=True, text=True)
    return passes("driver, power limit, ECC", done.stdout.strip(), done.returncode == 0)


def weights(candidate: Candidate) -> Sequence[Line]:
    """Download or make the weights if they are missing; compare every file with its checksum."""
    folder = candidate.weights
    if folder == RANDOM and not (folder / MANIFEST).exists():
        save_random_checkpoint(folder, SEVEN_BILLION, torch.device(candidate.device))
    if not folder.exists() and folder == ROOT / Settings.weights:
        done = _download_weights()
        if done.returncode != 0:
            return [passes("download", done.stderr.strip()[-300:], False)]
    manifest = Checkpoint.find(folder).manifest
    size = Line("size of the weight files", in_digits(round(weight_bytes(folder) / 1e9, 3), " GB"))
    if manifest is None:
        return [size, not_run("checksums", "the folder has no manifest.json")]
    done = _download_weights("--verify", str(folder))
    found = (done.stdout if done.returncode == 0 else done.stderr).strip().rpartition("\n")[2]
    return [size, passes("checksums", found.replace(str(folder), folder.name), not done.returncode)]


def tests(candidate: Candidate) -> Sequence[Line]:
    """Run the tests that are marked `gpu`."""
    if not candidate.on_a_card or not candidate.packed:
        why = f"the device is {candidate.device}, the engine {candidate.engine}"
        return [not_run("pytest -m gpu", why)]
    done = run_gpu_tests()
    return [passes("pytest -m gpu", done.summary, done.code == 0, "none fails")]


def _download_weights(*arguments: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "e5", "download-weights", *arguments]
    done = subprocess.run(command, capture_output=True, text=True)
    print(done.stdout, done.stderr)
    return done
