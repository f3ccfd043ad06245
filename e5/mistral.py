"""A Mistral model: what config.json says of it, and its weights as torch modules.

The modules bear the names of a checkpoint's tensors and have no forward of their own: `e5.weights`
fills them, `e5.forward` computes with them. They replace transformers' `MistralModel`, because
importing transformers takes longer than all else before the first vector. Tests compare the two.
"""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, PositiveInt, ValidationError
from torch import nn

from e5.declarations import SERVE_ELSEWHERE
from e5.errors import WeightsError, quoted

ARCHITECTURES = ("MistralModel", "MistralForCausalLM")
# Settings of relatives of Mistral that add something to the forward.
ALWAYS_OFF = ("add_cross_attention", "attention_bias", "is_encoder_decoder", "mlp_bias")
_BIDIRECTIONAL = re.compile(r"bi[_-]?directional|(non|not|no|disable)[_-]?causal")
_LAST_TOKEN = re.compile(r"(last|eos)([_-]?token)?([_-]?pool(ing)?)?", re.IGNORECASE)


def _refusal(path: Path, received: str) -> WeightsError:
    return WeightsError(path, received, "use the config.json of a Mistral checkpoint")


class Config(BaseModel):
    """A model's configuration, with the names and the defaults of transformers' `MistralConfig`.

    Example:
        >>> config = Config(hidden_size=64, num_attention_heads=4)
        >>> config.head_size, config.rope_theta, config.sliding_window
        (16, 10000.0, 4096)
    """

    model_config = ConfigDict(frozen=True, strict=True, allow_inf_nan=False)

    vocab_size: PositiveInt = 32000
    hidden_size: PositiveInt = 4096
    intermediate_size: PositiveInt = 14336
    num_hidden_layers: int = Field(default=32, gt=0, le=1000)
    num_attention_heads: PositiveInt = 32
    num_key_value_heads: PositiveInt = 8
    head_dim: int | None = Field(default=None, gt=0)
    hidden_act: Literal["silu"] = "silu"
    rms_norm_eps: PositiveFloat = 1e-6
    rope_theta: PositiveFloat = 10000.0
    max_position_embeddings: int = Field(default=131072, ge=3)  # <s>, one token and </s>
    sliding_window: int | None = Field(default=4096, ge=3)
    quantization_config: dict[str, Any] | None = None

    @property
    def head_size(self) -> int:
        """Dimensions of a head."""
        return self.head_dim or self.hidden_size // self.num_attention_heads

    @classmethod
    def read(cls, path: Path, *, quantised_by: str | None = None) -> "Config":
        """The configuration in a file; WeightsError unless it is a supported Mistral's.

        `quantised_by` is the method of quantised weights that the caller can compute with.
        """
        try:
            values = json.loads(path.read_text(encoding="utf-8-sig"))
            model_type = values["model_type"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise _refusal(path, f"not a model configuration ({error})") from error
        if model_type != "mistral":
            raise _refusal(path, f"model_type is {quoted(model_type)}")
        _refuse_unsupported(path, values, quantised_by)
        values |= values.get("rope_parameters") or {}  # where transformers 5 writes rope_theta
        try:
            config = cls(**{name: values[name] for name in cls.model_fields if name in values})
        except ValidationError as error:
            first = error.errors()[0]
            (name,), rule = first["loc"], first["msg"].removeprefix("Input ")
            raise _refusal(path, f"{name} is {quoted(first['input'])}, and it {rule}") from error
        if config.num_attention_heads % config.num_key_value_heads:
            heads = f"num_attention_heads is {config.num_attention_heads}"
            groups = f"num_key_value_heads, {config.num_key_value_heads}"
            raise _refusal(path, f"{heads}, which is not a multiple of {groups}")
        if config.head_size == 0 or config.head_size % 2:
            size = f"a head has {config.head_size} dimensions"
            raise _refusal(path, f"{size}, and rotary embedding rotates pairs of them")
        return config


def _refuse_unsupported(path: Path, values: Mapping[str, Any], quantised_by: str | None) -> None:
    """Refuse settings that would change the forward, instead of ignoring them."""
    if quantization := values.get("quantization_config") or values.get("compression_config"):
        method = quantization.get("quant_method") if isinstance(quantization, dict) else None
        if method is None or method != quantised_by:
            received = f"it has a quantization_config (quant_method {quoted(method)})"
            remedy = "save the weights in float16, bfloat16 or float32; E5_ENGINE=transformers "
            remedy += 'serves those of "bitsandbytes" as they are'
            raise WeightsError(path, received, remedy)
    for name in ("rope_scaling", "rope_parameters"):
        scaling = values.get(name) or {}
        kind = scaling.get("rope_type", scaling.get("type")) if isinstance(scaling, dict) else "?"
        if kind not in (None, "default"):
            raise _refusal(path, f"{name} is {quoted(kind)}, and scaled positions are not served")
    if code := values.get("auto_map"):
        received = f"auto_map is {quoted(code)}, and a model's own code is never run"
        raise WeightsError(path, received, SERVE_ELSEWHERE)
    architectures = values.get("architectures") or []
    if not isinstance(architectures, list):
        architectures = [architectures]
    if others := [name for name in architectures if name not in ARCHITECTURES]:
        served = " and ".join(ARCHITECTURES)
        received = f"architectures has {quoted(others[0])}, and only {served} are served"
        raise WeightsError(path, received, SERVE_ELSEWHERE)
    for name, value in values.items():
        if not _is_causal(name, value):
            served = "only causal attention is served"
        elif "pool" in name and isinstance(value, str) and not _LAST_TOKEN.fullmatch(value):
            served = "only the vector of the last token is served"
        elif name in ALWAYS_OFF and value:
            served = "a Mistral has no such part"
        else:
            continue
        raise WeightsError(path, f"{name} is {quoted(value)}, and {served}", SERVE_ELSEWHERE)


def _is_causal(name: str, value: object) -> bool:
    """Whether a setting leaves the attention causal, whoever gave it its name."""
    if name == "is_causal":  # transformers takes null for false
        return value is True
    name = name.lower()
    if _BIDIRECTIONAL.search(name):
        return not value
    if "causal" in name and "lm" not in name.split("_"):
        return value is not False
    said = value.lower() if isinstance(value, str) and re.search("att|mask", name) else ""
    return not _BIDIRECTIONAL.search(said)


class Attention(nn.Module):
    """The projections of a layer's attention."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.head_dim = config.head_size
        inner = config.num_attention_heads * self.head_dim
        grouped = config.num_key_value_heads * self.head_dim
        self.q_proj = nn.Linear(config.hidden_size, inner, bias=False)
        self.k_proj = nn.Linear(config.hidden_size, grouped, bias=False)
        self.v_proj = nn.Linear(config.hidden_size, grouped, bias=False)
        self.o_proj = nn.Linear(inner, config.hidden_size, bias=False)


class MLP(nn.Module):
    """The projections of a layer's SwiGLU."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.up_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size, bias=False)


class Layer(nn.Module):
    """One layer: attention and MLP, each with the norm before it."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.input_layernorm = nn.RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.self_attn = Attention(config)
        self.post_attention_layernorm = nn.RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.mlp = MLP(config)


class Mistral(nn.Module):
    """The model without a language-model head.

    Attributes:
        config: its sizes.
        inv_freq: float32 `[head_size / 2]`, the angle by which a position rotates each pair of
            dimensions: theta^(-2i/head_size) (Su et al. 2021, eq. 15). Computed, never loaded.
    """

    inv_freq: torch.Tensor

    def __init__(self, config: Config) -> None:
        """Make a model whose weights have shapes but no values: they are on torch's meta device."""
        super().__init__()
        self.config = config
        with torch.device("meta"):
            tokens = torch.empty(config.vocab_size, config.hidden_size)
            # Embedding() draws random numbers, for which the meta device imports torch.compile.
            self.embed_tokens: nn.Embedding = nn.Embedding.from_pretrained(tokens)  # type: ignore[no-untyped-call]  # torch's
            self.layers = nn.ModuleList(Layer(config) for _ in range(config.num_hidden_layers))
            self.norm = nn.RMSNorm(config.hidden_size, config.rms_norm_eps)
        powers = torch.arange(0, config.head_size, 2, dtype=torch.int64).float() / config.head_size
        self.register_buffer("inv_freq", 1.0 / config.rope_theta**powers, persistent=False)

    @property
    def device(self) -> torch.device:
        """The device that holds the weights."""
        weight: torch.Tensor = self.embed_tokens.weight
        return weight.device
