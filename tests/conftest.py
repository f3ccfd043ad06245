"""Fixtures of all tests: small random checkpoints, made when needed, and embedders of them.

Nothing is downloaded and nothing is mocked: the engine under test is the real one, only small.
"""

import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import hypothesis
import pytest
import torch
from checkpoints import EditCheckpoint, save_checkpoint
from reference import Reference
from safetensors.torch import load_file, save_file

from e5.checkpoint import SINGLE
from e5.embedder import Embedder
from e5.settings import Settings

# The models are small, and two test processes share the cores: a second thread only waits.
os.environ["OMP_NUM_THREADS"] = "1"  # for the processes that tests start
# A shell lets its background jobs ignore Ctrl-C, and so would all programs that tests start.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# On a busy machine an example takes as long as it takes, and so does making one.
PATIENT = hypothesis.settings(
    deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.register_profile("shared machine", PATIENT, max_examples=50)
hypothesis.settings.register_profile("fast", PATIENT, max_examples=15)  # of scripts/check
hypothesis.settings.load_profile("shared machine")


# Files that take long begin first: what begins last runs alone in the end. What measures time is
# not among them, so most of it runs when these are through.
LONGEST = [
    "corpora/test_cluster.py",
    "gateway/test_clients_python.py",
    "gateway/test_schemathesis.py",
    "corpora/test_s3.py",
    "gateway/test_examples.py",
    "adapters/test_haystack.py",
    "training/test_loop.py",
]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the longest files first; skip the tests marked `gpu` on a machine without a GPU."""
    order = {Path(__file__).parent / name: number for number, name in enumerate(LONGEST)}
    items.sort(key=lambda item: order.get(item.path, len(order)))
    if not torch.cuda.is_available():
        for item in items:
            if item.get_closest_marker("gpu"):
                item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of three layers in float32, without a manifest."""
    return save_checkpoint(tmp_path_factory.mktemp("checkpoint") / "small")


@pytest.fixture(scope="session")
def edit_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> EditCheckpoint:
    """A function that copies a checkpoint and lets the caller change its tensors in place."""

    def edit(source: Path, change: Callable[[dict[str, torch.Tensor]], None]) -> Path:
        folder = tmp_path_factory.mktemp("edited") / source.name
        shutil.copytree(source, folder)
        tensors = load_file(folder / SINGLE)
        change(tensors)
        save_file(tensors, folder / SINGLE, metadata={"format": "pt"})
        return folder

    return edit


@pytest.fixture(scope="session")
def calm_checkpoint(checkpoint: Path, edit_checkpoint: EditCheckpoint) -> Path:
    """`checkpoint` with its projections halved, for the half-precision dtypes.

    `checkpoint` has larger weights than any trained model, so that every mistake shows in float32.
    That magnifies rounding too (transformers' own bfloat16 forward falls to a cosine of 0.998).
    """

    def halve(tensors: dict[str, torch.Tensor]) -> None:
        for name, tensor in tensors.items():
            if "_proj" in name:
                tensor.mul_(0.5)

    return edit_checkpoint(checkpoint, halve)


@pytest.fixture(scope="session")
def embedder(checkpoint: Path) -> Embedder:
    """`checkpoint` in float32 on the CPU."""
    return Embedder.load(Settings(weights=checkpoint, device="cpu", dtype="float32"))


@pytest.fixture(scope="session")
def bf16_embedder(calm_checkpoint: Path) -> Embedder:
    """`calm_checkpoint` in bfloat16, which every CPU can compute, some of them slowly."""
    return Embedder.load(Settings(weights=calm_checkpoint, device="cpu", dtype="bfloat16"))


@pytest.fixture(scope="session")
def reference(checkpoint: Path) -> Reference:
    """The slow, readable version of `embedder`."""
    return Reference(checkpoint)


@pytest.fixture(scope="session")
def calm_reference(calm_checkpoint: Path) -> Reference:
    """The slow, readable version of `bf16_embedder`, in float32."""
    return Reference(calm_checkpoint)
