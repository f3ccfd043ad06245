"""What is measured: models, their tokenizers, and texts by workload.

Knows nothing of the systems that are compared, nor how time is taken.
"""

import argparse
import math
import random
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from tokenizers import Tokenizer as RawTokenizer
from tokenizers import processors
from transformers import AutoTokenizer, MistralConfig, MistralModel, PreTrainedTokenizerFast

from benchmarks.texts import english_words
from e5.device import choose_device, choose_dtype
from e5.mistral import Config, Mistral
from e5.prompts import DEFAULT_TASK, query_prompt

ROOT = Path(__file__).resolve().parents[2]
MINI = ROOT / "weights/e5-mini"


@dataclass(frozen=True)
class Workload:
    """Texts that are embedded in one call: queries of the default task, and documents."""

    queries: tuple[str, ...] = ()
    documents: tuple[str, ...] = ()

    @property
    def as_read(self) -> list[str]:
        """What is read of the texts, for those that know nothing of tasks."""
        return [*(query_prompt(DEFAULT_TASK, query) for query in self.queries), *self.documents]


@contextmanager
def subject(
    arguments: argparse.Namespace, layers: int | None = None
) -> Iterator[tuple[MistralModel, Path]]:
    """The model under test and a folder with its tokenizer."""
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
    """The 7B model's shapes with `layers` layers; weights drawn on the device."""
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
    """The same weights, not copied, for our own forward."""
    claims = model.config.to_dict()
    claims |= claims["rope_parameters"]
    ours = Mistral(Config(**{name: claims[name] for name in Config.model_fields if name in claims}))
    ours.load_state_dict(model.state_dict(), assign=True)
    ours.inv_freq = ours.inv_freq.to(model.device)
    return ours.eval()


def save_tokenizer(folder: Path) -> None:
    """The real Mistral vocabulary, which `mistral-common` carries; without it that of e5-mini.

    With the final `</s>` in the post-processor, so that peers read as many tokens as we do.
    """
    try:
        import mistral_common
        import sentencepiece  # noqa: F401  # transformers reads the vocabulary by it
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


def workloads_of(count_tokens: Callable[[str], int]) -> dict[str, Workload]:
    """Texts by workload; lengths in words or in tokens, as the name says.

    Args:
        count_tokens: how many tokens a document is.
    """
    draw = random.Random(0)
    words = english_words()

    def text(num_words: int) -> str:
        return " ".join(draw.choices(words, k=num_words))

    def of_tokens(num_texts: int, num_tokens: int) -> Workload:
        documents = [
            text(int(num_tokens**2 / count_tokens(text(num_tokens)))) for _ in range(num_texts)
        ]
        return Workload(documents=tuple(documents))

    def query() -> str:
        return text(draw.randint(5, 12))

    def lognormal() -> str:
        return text(int(draw.lognormvariate(math.log(37), 0.7)) + 1)

    # Padding costs as much as the longest text is longer than the mean: 2 to 5 times, by the draw.
    draws = {
        f"32 documents of lognormal length (draw {i})": Workload(
            documents=tuple(lognormal() for _ in range(32))
        )
        for i in range(1, 5)
    }
    return {
        "one pair": Workload((query(),), (text(30),)),
        "32 queries": Workload(tuple(query() for _ in range(32))),
        **draws,
        "16 documents of 64": of_tokens(16, 64),
        "8 documents of 256": of_tokens(8, 256),
        "4 documents of 512": of_tokens(4, 512),
        "1 document of 2048": of_tokens(1, 2048),
        "1 document of 4096": of_tokens(1, 4096),
    }


@contextmanager
def saved_checkpoint(arguments: argparse.Namespace, layers: int) -> Iterator[Path]:
    """The model under test as a checkpoint folder in the hub's dtype, float16."""
    if arguments.weights:
        yield Path(arguments.weights)
        return
    with subject(arguments, layers) as (model, folder):
        torch.nn.Module.to(model, torch.float16)
        model.save_pretrained(folder)
        del model
        yield folder
