"""Damages to a checkpoint in two parts: each is a function of the file that it damages."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from checkpoints import save_checkpoint
from safetensors.torch import load

from e5.checkpoint import CheckpointManifest, hash_files

FIRST, SECOND = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"

Damage = Callable[[Path], None]


def save_two_parts(folder: Path, *, seed: int = 0) -> Path:
    """A checkpoint in `FIRST` and `SECOND`, without a manifest; returns `folder`."""
    return save_checkpoint(folder, hidden_size=32, num_layers=1, max_shard_size="2MB", seed=seed)


def write_manifest(folder: Path) -> None:
    """A manifest of all files as they are now."""
    files = [path.name for path in folder.iterdir()]
    CheckpointManifest("made by a test", hash_files(folder, files)).write(folder)


def edit_json(path: Path, **changes: Any) -> None:
    """Replace some top-level entries."""
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def tensors_of(path: Path) -> dict[str, torch.Tensor]:
    """A file's tensors, read without mapping the file, which the tests overwrite."""
    return load(path.read_bytes())


def flip_bit(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def lengthen(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"\0")


def replace_by_pickle(path: Path) -> None:
    torch.save(tensors_of(path), path)


def remove(path: Path) -> None:
    path.unlink()


def swap_with_the_other_part(path: Path) -> None:
    other = path.with_name(SECOND if path.name == FIRST else FIRST)
    data = path.read_bytes()
    path.write_bytes(other.read_bytes())
    other.write_bytes(data)


SEEN_WITHOUT_MANIFEST = [truncate, empty, lengthen, replace_by_pickle, remove]
SEEN_WITH_MANIFEST = [*SEEN_WITHOUT_MANIFEST, flip_bit, swap_with_the_other_part]
