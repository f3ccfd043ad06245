"""The unmodified model: transformers' own `MistralModel`, placed by accelerate.

`E5_ENGINE=transformers` chooses this engine. It pads texts and computes a task's instruction for
each query, so it is slower than the packed engine. But it runs where that one does not: on older
cards, over several cards, with a part of the weights in host memory or on disk, and with quantised
weights. `scripts/accept` compares the packed engine with it.

`MistralModel.from_pretrained` gets tensors from here, and no folder. So what nobody verified (an
adapter beside the weights, pickled copies, other entries of config.json) has no effect, and nothing
is fetched. Importing transformers and accelerate takes seconds, so only loading a model does it.
"""

import atexit
import gc
import logging
import os
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from e5.attention import has_flash_attention
from e5.checkpoint import CONFIG, DELETE_FIRST, Checkpoint
from e5.engine import MAX_CUDA_BATCH_TOKENS, Engine, try_to_compile
from e5.errors import SettingsError, WeightsError, shortened
from e5.lora import LoraAdapter
from e5.mistral import Config, Mistral
from e5.quantization import import_bitsandbytes, quantization
from e5.settings import Settings
from e5.tokenizer import TokenIds
from e5.weights import read_tensors, refuse_adapter_inside

logger = logging.getLogger(__name__)

# bitsandbytes stores the weights, or what belongs to them, in one of these.
QUANTISED_DTYPES = (torch.int8, torch.uint8)


class ReferenceEngine(Engine):
    """Computes padded batches of texts of like lengths.

    Attributes:
        model: transformers' `MistralModel`, in evaluation mode, on one device or several.
    """

    def __init__(
        self, model: Any, *, max_batch_tokens: int | None = None, compiled: bool = False
    ) -> None:
        """Prepare forwards of a loaded model; see `Engine`.

        Raises:
            SettingsError: torch cannot compile this model, or cannot compile on this machine.
        """
        self.model, self.hidden_size, self.compiled = model, model.config.hidden_size, compiled
        self.quantised = hasattr(model, "hf_quantizer")
        used = list(dict.fromkeys(_devices_by_module(model).values()))
        cards = [device for device in used if isinstance(device, int)]
        devices = [torch.device("cuda", card) for card in cards] or [torch.device("cpu")]
        self._input_device = devices[0]
        # On older cards SDPA's kernel for grouped heads needs gigabytes for a long text. If the
        # mask is whole, transformers repeats the heads, and SDPA chooses another kernel.
        self._whole_masks = any(
            not has_flash_attention(torch.device("cuda", card)) for card in cards
        )
        self._module = model
        if compiled:
            if self.quantised or len(used) > 1:
                received = "1 with a model that is quantised or on more than one device"
                raise SettingsError("E5_COMPILE", received, "unset E5_COMPILE")
            self._module = torch.compile(model, dynamic=True, fullgraph=True)
            # Batches of one text and of more are two programs.
            try_to_compile(lambda texts: (self._vectors(texts), self._vectors(texts[:1])))
        self.max_batch_tokens = max_batch_tokens or self._measure_batch_tokens(*devices)

    def _divide(
        self, texts: Collection[TokenIds], share_prefixes: bool
    ) -> Iterator[Sequence[TokenIds]]:
        """Divide distinct texts into batches that keep the token budget, padding included.

        No prefixes are shared. Without `share_prefixes` each text is alone and not padded.
        """
        start, by_length = 0, sorted(texts, key=len)
        for i, text in enumerate(by_length):
            tokens = len(text) * (i + 1 - start)
            if i > start and (tokens > self.max_batch_tokens or not share_prefixes):
                yield by_length[start:i]
                start = i
        if by_length:
            yield by_length[start:]

    @torch.inference_mode()
    def _vectors(self, texts: Sequence[TokenIds], _: bool = True) -> torch.Tensor:
        lengths = torch.tensor([len(text) for text in texts])
        longest = int(lengths.max())
        # Each text is padded with its own last token: another token could be NaN, and 0 x NaN is
        # NaN, in a masked position too.
        input_ids = torch.tensor([text + text[-1:] * (longest - len(text)) for text in texts])
        mask = torch.arange(longest) < lengths[:, None]
        if self._whole_masks:  # padding stands after all tokens, so causal is enough
            mask = torch.ones(len(texts), 1, longest, longest, dtype=torch.bool).tril()
        hidden = self._module(
            input_ids=input_ids.to(self._input_device),
            attention_mask=mask.to(self._input_device),
            use_cache=False,
        ).last_hidden_state  # [num_texts, longest, hidden_size]
        rows: torch.Tensor = hidden[torch.arange(len(texts)), lengths - 1].float()
        return rows


def load_reference(
    checkpoint: Checkpoint,
    config: Config,
    settings: Settings,
    *,
    device: torch.device,
    dtype: torch.dtype,
    adapter: LoraAdapter | None = None,
) -> ReferenceEngine:
    """Load a checkpoint as transformers' `MistralModel`, and prepare its forwards.

    Args:
        checkpoint: the verified folder.
        config: its configuration, with `quantization_config` if bitsandbytes quantised the weights.
        settings: those that concern this engine are used.
        device: `cpu`, one card, or `cuda`, which means all cards.
        dtype: of the weights that are not quantised.
        adapter: merged before weights are quantised.

    Raises:
        SettingsError: for settings that the model, the cards or the installed packages do not
            allow.
        WeightsError: as `e5.weights.load_model` does, or for quantised weights that transformers
            cannot read.
    """
    empty = Mistral(config)  # shapes without values
    placement = _placement(empty, settings, device, dtype)
    if config.quantization_config is None:
        shapes = {name: weight.shape for name, weight in empty.named_parameters()}
        tensors = dict(read_tensors(checkpoint, shapes, adapter=adapter))
        for name in adapter.pairs if adapter is not None else ():
            tensors[name] = tensors[name].to(dtype)
    else:
        for name, value in (("QUANTIZE", settings.quantize), ("ADAPTER", settings.adapter)):
            if value is not None:
                received = f"{str(value)!r} with weights that are quantised already"
                raise SettingsError(f"E5_{name}", received, "unset it, or use weights in float16")
        refuse_adapter_inside(checkpoint.folder, None)
        tensors = _read_quantised(checkpoint)
    model = _from_pretrained(checkpoint, config, tensors, settings.quantize, dtype, placement)
    devices = _devices_by_module(model)
    layers = Counter(str(devices[name]) for name in devices if name.startswith("layers."))
    if device.type == "cuda" and layers.keys() & {"cpu", "disk"}:
        logger.warning(
            "layers by card, in host memory (cpu) and on disk: %s; each forward moves those that "
            "are on no card to one, which takes seconds (docs/cards.md)",
            dict(layers),
        )
    budget = settings.max_batch_tokens
    return ReferenceEngine(model, max_batch_tokens=budget, compiled=settings.compile)


def _read_quantised(checkpoint: Checkpoint) -> dict[str, torch.Tensor]:
    """The tensors that bitsandbytes quantised, and what it stored of them, by name."""
    tensors: dict[str, torch.Tensor] = {}
    for name in checkpoint.weight_files:
        file = checkpoint.folder / name
        try:
            tensors |= load_file(file)
        except SafetensorError as error:
            received = f"damaged, or not a safetensors file ({error})"
            raise WeightsError(file, received, DELETE_FIRST) from error
    if not any(tensor.dtype in QUANTISED_DTYPES for tensor in tensors.values()):
        received = "it has a quantization_config, and the weights are not quantised"
        remedy = "delete that entry, or use the quantised weights"
        raise WeightsError(checkpoint.folder / CONFIG, received, remedy)
    return tensors


def _placement(
    empty: Mistral, settings: Settings, device: torch.device, dtype: torch.dtype
) -> dict[str, Any]:
    """The arguments of `from_pretrained` that say on which devices the model goes."""
    given = settings.card_gb
    if device.type != "cuda":
        if given is not None:
            received = f"{given:g}, and the model runs on the CPU"
            raise SettingsError("E5_CARD_GB", received, "unset E5_CARD_GB")
        return {"device_map": {"": device}}
    memory = card_memory(device, given, _forward_bytes(empty.config, settings, dtype))
    first = (empty.embed_tokens, empty.layers[0])
    needed = sum(weight.numel() for part in first for weight in part.parameters()) * dtype.itemsize
    if max(size for name, size in memory.items() if name != "cpu") < needed:
        # accelerate would put the whole model on the CPU.
        received = f"{given or 'no value'}, and no card has room for a layer beside a forward"
        remedy = "allow more, or set E5_MAX_LENGTH and E5_MAX_BATCH_TOKENS to less"
        raise SettingsError("E5_CARD_GB", received, remedy)
    return {"device_map": "auto", "max_memory": memory}


def card_memory(device: torch.device, card_gb: float | None, reserved: int) -> dict[int | str, int]:
    """The bytes of each card and of the host that weights may take, for accelerate.

    Args:
        device: one card, or `cuda`, which means all.
        card_gb: gigabytes of a card that this process may use from now on; None: what is free.
        reserved: bytes of each card that weights must not take.
    """
    from accelerate.utils import get_max_memory

    gc.collect()
    torch.cuda.empty_cache()  # of a model that this process had before
    cards = range(torch.cuda.device_count()) if device.index is None else [device.index]
    memory: dict[int | str, int] = {}
    for card in cards:
        free, total = torch.cuda.mem_get_info(card)
        if card_gb is not None:
            allowed = int(min(card_gb * 1e9, total))
            torch.cuda.set_per_process_memory_fraction(allowed / total, card)
            free = min(free, allowed - torch.cuda.memory_reserved(card))
        memory[card] = max(0, free - reserved)
    return memory | {"cpu": int(0.9 * get_max_memory().get("cpu", 0))}  # the host needs some too


def _forward_bytes(config: Config, settings: Settings, dtype: torch.dtype) -> int:
    """An estimate of what the longest forward needs beside the weights."""
    tokens = max(settings.max_batch_tokens or MAX_CUDA_BATCH_TOKENS, settings.max_length)
    # A token has about ten rows of the residual stream's width at a time and three of the MLP's.
    return tokens * (10 * config.hidden_size + 3 * config.intermediate_size) * dtype.itemsize


def _from_pretrained(
    checkpoint: Checkpoint,
    config: Config,
    tensors: dict[str, torch.Tensor],
    quantize: str | None,
    dtype: torch.dtype,
    placement: Mapping[str, Any],
) -> Any:
    """Make the model of these tensors; SettingsError or WeightsError if transformers cannot."""
    if quantize or config.quantization_config:
        import_bitsandbytes("E5_QUANTIZE" if quantize else "E5_WEIGHTS")
    from transformers import MistralConfig, MistralModel
    from transformers.utils.logging import disable_progress_bar

    if not sys.stderr.isatty():
        disable_progress_bar()
    values = config.model_dump(exclude={"rope_theta", "quantization_config"})
    values["rope_parameters"] = {"rope_type": "default", "rope_theta": config.rope_theta}
    if config.quantization_config is not None:
        values["quantization_config"] = config.quantization_config
    offloaded = tempfile.mkdtemp(prefix="e5-offloaded-")  # for what accelerate puts on disk
    try:
        model, report = MistralModel.from_pretrained(
            None,
            config=MistralConfig(**values),
            state_dict=tensors,
            dtype=dtype,
            attn_implementation="sdpa",
            quantization_config=None if quantize is None else quantization(quantize, dtype),
            offload_folder=offloaded,
            output_loading_info=True,
            local_files_only=True,
            use_safetensors=True,
            **placement,
        )
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # transformers raises many kinds
        received = f"transformers cannot load it ({shortened(str(error), 300)})"
        if quantize:
            remedy = "use nf4 or more of the cards, or unset E5_QUANTIZE"
            raise SettingsError("E5_QUANTIZE", f"{quantize!r}: {received}", remedy) from error
        raise WeightsError(checkpoint.folder, received, "save the weights again") from error
    finally:
        with suppress(OSError):
            os.rmdir(offloaded)  # unless something is there
    atexit.register(shutil.rmtree, offloaded, ignore_errors=True)
    unknown = {name for name in report["unexpected_keys"] if not name.startswith("lm_head.")}
    for name in sorted({*report["missing_keys"], *unknown}):
        received = f"tensor {name} is {'unknown' if name in unknown else 'missing'}"
        raise WeightsError(checkpoint.folder, received, "use the config.json of these weights")
    return model


def _devices_by_module(model: Any) -> dict[str, int | str]:
    """The device of each part of a model: the number of a card, `cpu` or `disk`."""
    devices = {}
    for name, device in getattr(model, "hf_device_map", {"": model.device}).items():
        if device != "disk" and not isinstance(device, int):
            known = torch.device(device)
            device = (known.index or 0) if known.type == "cuda" else known.type
        devices[name] = device
    return devices
