"""The models that are measured, and their tokenizers."""

import argparse
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from tokenizers import Tokenizer as RawTokenizer
from tokenizers import processors
from transformers import AutoTokenizer, MistralConfig, MistralModel, PreTrainedTokenizerFast

from e5.device import choose_device, choose_dtype
from e5.mistral import Config, Mistral

ROOT = Path(__file__).resolve().parents[2]
MINI = ROOT / "weights/e5-mini"


@contextmanager
def model_under_test(
    arguments: argparse.Namespace, layers: int | None = None
) -> Iterator[tuple[MistralModel, Path]]:
    """Yield the model under test and a folder with its tokenizer."""
    device = choose_device(arguments.device)
    dtype = choose_dtype(None, device)
    if arguments.weights:
        folder = Path(arguments.weights)
        model = MistralModel.from_pretrained(folder, dtype=dtype, attn_implementation="sdpa")
        torch.nn.Module.to(model, device)
        model.eval()
        yield model, folder
        return
    layers = layers or arguments.layers or (32 if device.type == "cuda" else 8)
    with tempfile.TemporaryDirectory() as name:
        save_tokenizer(Path(name))
        yield random_model(layers, device, dtype), Path(name)


def random_model(layers: int, device: torch.device, dtype: torch.dtype) -> MistralModel:
    """A model with the 7B model's shapes and `layers` layers; its weights are random."""
    torch.manual_seed(0)
    config = MistralConfig(
        hidden_size=4096,
        intermediate_size=14336,
        num_hidden_layers=layers,
        num_attention_heads=32,
        num_key_value_heads=8,
        head_dim=128,
        vocab_size=32000,
        rms_norm_eps=1e-5,
        sliding_window=4096,
        max_position_embeddings=32768,
    )
    config._attn_implementation = "sdpa"
    with torch.device("meta"):
        model = MistralModel(config)
    torch.nn.Module.to(model, dtype)
    model.to_empty(device=device)
    model.rotary_emb = type(model.rotary_emb)(config).to(device)
    for parameter in model.parameters():
        parameter.data.normal_(0, 0.02) if parameter.ndim > 1 else parameter.data.fill_(1)
    model.eval().requires_grad_(False)
    return model


def packed(model: MistralModel) -> Mistral:
    """The same weights in the model of this project's forward; they are not copied."""
    given = model.config.to_dict()
    given |= given["rope_parameters"]
    ours = Mistral(Config(**{name: given[name] for name in Config.model_fields if name in given}))
    ours.load_state_dict(model.state_dict(), assign=True)
    ours.inv_freq = ours.inv_freq.to(model.device)
    return ours.eval()


def save_tokenizer(folder: Path) -> None:
    """Save the real Mistral vocabulary, if `mistral-common` is installed, or that of e5-mini.

    Its post-processor adds the final `</s>`, so that the peers read as many tokens as we do.
    """
    try:
        import mistral_common
        import sentencepiece  # noqa: F401  # transformers reads the vocabulary with it
    except ImportError as error:
        print(f"{error}: tokens are those of e5-mini", file=sys.stderr)
        raw = RawTokenizer.from_file(str(MINI / "tokenizer.json"))
    else:
        model = Path(mistral_common.__file__).parent / "data/tokenizer.model.v1"
        (folder / "tokenizer.model").write_bytes(model.read_bytes())
        (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "LlamaTokenizer"}')
        raw = AutoTokenizer.from_pretrained(folder).backend_tokenizer
    raw.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 1), ("</s>", 2)]
    )
    PreTrainedTokenizerFast(
        tokenizer_object=raw, bos_token="<s>", eos_token="</s>", pad_token="</s>"
    ).save_pretrained(folder)


@contextmanager
def saved_checkpoint(arguments: argparse.Namespace, layers: int) -> Iterator[Path]:
    """Yield the model under test as a checkpoint folder in float16, the dtype on the hub."""
    if arguments.weights:
        yield Path(arguments.weights)
        return
    with model_under_test(arguments, layers) as (model, folder):
        torch.nn.Module.to(model, torch.float16)
        model.save_pretrained(folder)
        del model
        yield folder
