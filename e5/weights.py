"""Weights: find, verify and load a checkpoint folder.

A folder holds `config.json`, `tokenizer.json` and the weights as safetensors, in one file or in
shards with an index: what the hub gives and `save_pretrained` writes. Beside them `manifest.json`
gives each file's size and sha256, and the token ids the tokenizer must produce. Nothing is
unpickled and no code of a checkpoint is run. Knows nothing of texts or batches; does not download.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from tqdm import tqdm
from transformers import MistralConfig, MistralModel

from e5.errors import SettingsError, WeightsError
from e5.packing import TokenIds

CONFIG, TOKENIZER, MANIFEST = "config.json", "tokenizer.json", "manifest.json"
SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"

FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
WAYS_ON = (
    "run ./scripts/download_weights for the 7B model (14 GB), "
    "or set E5_WEIGHTS=weights/e5-mini for the small built-in one"
)


@dataclass(frozen=True)
class Manifest:
    """What a weights folder must contain.

    Attributes:
        source: where the files came from, in words.
        files: sha256 of each file, by its name in the folder.
        goldens: token ids that the tokenizer must give for some texts.
    """

    source: str
    files: Mapping[str, str]
    goldens: Mapping[str, TokenIds] = field(default_factory=dict)

    @classmethod
    def read(cls, folder: Path) -> "Manifest | None":
        """The folder's manifest; None where there is none.

        Raises:
            WeightsError: for a manifest that cannot be understood.
        """
        path = folder / MANIFEST
        if not path.is_file():
            return None
        try:
            raw = json.loads(path.read_text(encoding="utf-8"))
            goldens = {text: tuple(ids) for text, ids in raw["goldens"].items()}
            files = {name: str(sha256) for name, sha256 in raw["files"].items()}
            return cls(str(raw["source"]), files, goldens)
        except (ValueError, KeyError, AttributeError, TypeError) as error:
            raise WeightsError(f"{path}: not a manifest of this project; {WAYS_ON}.") from error

    def write(self, folder: Path) -> None:
        """Write `manifest.json` into the folder."""
        text = json.dumps(asdict(self), indent=1, ensure_ascii=False)
        (folder / MANIFEST).write_text(text + "\n", encoding="utf-8")


@dataclass(frozen=True)
class Checkpoint:
    """A folder whose files are all there and, where there is a manifest, all as they should be.

    Attributes:
        folder: where it lies.
        digests: sha256 of each file that shapes a vector.
        manifest: None where the folder has none, so that nothing could be compared.
    """

    folder: Path
    digests: Mapping[str, str]
    manifest: Manifest | None

    @classmethod
    def find(cls, folder: Path) -> "Checkpoint":
        """Read every file once and compare it with the manifest.

        Raises:
            WeightsError: naming the file that is missing, damaged or not in the manifest.
        """
        needed = checkpoint_files(folder)
        manifest = Manifest.read(folder)
        expected = manifest.files if manifest is not None else {}
        digests = hash_files(folder, sorted({*needed, *expected}))
        for name, found in digests.items():
            if manifest is not None and name not in expected:
                raise WeightsError(f"{folder / name}: not in {MANIFEST}; {WAYS_ON}.")
            if found != expected.get(name, found):
                raise WeightsError(
                    f"{folder / name}: damaged or altered (sha256 {found[:12]}..., {MANIFEST} says "
                    f"{expected[name][:12]}...); delete the file, then {WAYS_ON}."
                )
        return cls(folder, {name: digests[name] for name in needed}, manifest)


def checkpoint_files(folder: Path) -> list[str]:
    """Names of the files that make the checkpoint: config, tokenizer, weights.

    Raises:
        WeightsError: for a folder that does not exist or lacks one of them, named.
    """
    if not folder.is_dir():
        raise WeightsError(f"{folder}: there is no such weights folder; {WAYS_ON}.")
    if (folder / INDEX).is_file():
        try:
            weight_map = json.loads((folder / INDEX).read_text(encoding="utf-8"))["weight_map"]
            shards = sorted({str(shard) for shard in weight_map.values()})
        except (ValueError, KeyError, AttributeError, TypeError) as error:
            raise WeightsError(f"{folder / INDEX}: not a safetensors index; {WAYS_ON}.") from error
        names = [INDEX, *shards]
    else:
        names = [SINGLE]
    names += [CONFIG, TOKENIZER]
    for name in names:
        if not (folder / name).is_file():
            pickled = " (pickled weights are never loaded)" if any(folder.glob("*.bin")) else ""
            raise WeightsError(f"{folder / name}: the file is missing{pickled}; {WAYS_ON}.")
    return names


def hash_files(folder: Path, names: Sequence[str]) -> dict[str, str]:
    """The sha256 of each file, several read side by side.

    Raises:
        WeightsError: naming a file that is missing.
    """

    def sha256(name: str) -> str:
        try:
            with (folder / name).open("rb") as file:
                return hashlib.file_digest(file, "sha256").hexdigest()
        except (OSError, ValueError) as error:  # ValueError: a name that no file can have
            raise WeightsError(f"{folder / name}: cannot be read ({error}); {WAYS_ON}.") from error

    with ThreadPoolExecutor() as pool:
        hashes = tqdm(
            pool.map(sha256, names), "sha256", len(names), unit="file", delay=2, disable=None
        )
        return dict(zip(names, hashes, strict=True))


def load_model(folder: Path, *, device: torch.device, dtype: torch.dtype) -> MistralModel:
    """Load the checkpoint's weights into transformers' `MistralModel`.

    Tensors are read, converted and placed one at a time, so memory peaks at the loaded model plus
    one tensor. Norm weights are kept in float32, in which they are used.

    Raises:
        WeightsError: naming the file that is no safetensors, or the tensor that is missing, unknown
            or of another shape.
    """
    from accelerate.utils import set_module_tensor_to_device  # only loading needs accelerate

    model = _empty_model(folder)
    shapes = {name: parameter.shape for name, parameter in model.named_parameters()}
    for shard in (name for name in checkpoint_files(folder) if name.endswith(".safetensors")):
        path = folder / shard
        try:
            with safe_open(path, framework="pt") as file:
                names = list(file.keys())
            for name in tqdm(names, f"loading {shard}", delay=2, disable=None):
                # Opened anew for each tensor: closing gives the pages that were read back.
                with safe_open(path, framework="pt") as file:
                    tensor = file.get_tensor(name)
                if name not in shapes:
                    raise WeightsError(
                        f"{path}: tensor {name} is none of a MistralModel's; of a "
                        "MistralForCausalLM save the `.model`."
                    )
                if tensor.shape != shapes[name]:
                    raise WeightsError(
                        f"{path}: tensor {name} has shape {list(tensor.shape)}, config.json asks "
                        f"for {list(shapes[name])}."
                    )
                if tensor.dtype not in FLOATS:
                    raise WeightsError(
                        f"{path}: tensor {name} is {tensor.dtype}; only floating-point weights are "
                        "served, not quantised ones."
                    )
                kept = torch.float32 if tensor.ndim == 1 else dtype
                tensor = tensor.to(device, kept, copy=True)
                set_module_tensor_to_device(model, name, device, tensor, dtype=kept)
        except SafetensorError as error:
            raise WeightsError(
                f"{path}: damaged, or not a safetensors file ({error}); delete the file, "
                f"then {WAYS_ON}."
            ) from error
    for name, parameter in model.named_parameters():
        if parameter.is_meta:
            raise WeightsError(f"{folder}: tensor {name} is in none of the weight files.")
    model.rotary_emb.to(device)  # its table is computed, not loaded
    model.eval().requires_grad_(False)
    return model


def _empty_model(folder: Path) -> MistralModel:
    path = folder / CONFIG
    try:
        model_type = json.loads(path.read_text(encoding="utf-8"))["model_type"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise WeightsError(f"{path}: not a model configuration ({error}).") from error
    if model_type != "mistral":
        raise WeightsError(f"{path}: model_type is {model_type!r}; only 'mistral' is served.")
    try:
        from accelerate import init_empty_weights

        config = MistralConfig.from_pretrained(folder)
        with init_empty_weights():
            return MistralModel(config)
    except Exception as error:  # transformers has no base for what it finds wrong in a value
        reason = " ".join(str(error).split())
        raise WeightsError(f"{path}: no model can be made of it ({reason}).") from error


def choose_device(device: str | None) -> torch.device:
    """The device asked for, or CUDA where there is one.

    Raises:
        SettingsError: for a device that torch does not know or cannot reach.
    """
    if device is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    remedy = f"E5_DEVICE: received {device!r}, which cannot be used here; use cpu or cuda."
    try:
        chosen = torch.device(device)
        torch.empty(1, device=chosen)
    except (RuntimeError, AssertionError) as error:
        raise SettingsError(remedy) from error
    if chosen.type not in ("cpu", "cuda"):
        raise SettingsError(remedy)
    return chosen


def choose_dtype(dtype: str | None, device: torch.device) -> torch.dtype:
    """The dtype asked for, or the fastest that is faithful on the device.

    float16 on CUDA, the checkpoint's own. bfloat16 on a CPU that multiplies it in hardware
    (AVX512-BF16 or AMX; float16 is 14 times slower there), else float32.
    """
    if dtype is not None:
        chosen: torch.dtype = getattr(torch, dtype)
        return chosen
    if device.type == "cuda":
        return torch.float16
    capable = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return torch.bfloat16 if capable else torch.float32
