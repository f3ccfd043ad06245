"""Small random checkpoints with the real Mistral v0.1 vocabulary, made on the spot.

The ground truth is sentencepiece on the model file that the PyPI package `mistral-common` ships.
"""

import json
import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Literal

import mistral_common
import sentencepiece
import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, processors

from e5.embedder import Embedder
from e5.settings import Settings

# Copies a checkpoint and lets a function change its tensors in place.
EditCheckpoint = Callable[[Path, Callable[[dict[str, torch.Tensor]], None]], Path]
SENTENCEPIECE_MODEL = Path(mistral_common.__file__).parent / "data" / "tokenizer.model.v1"

TEXTS = [
    "Snow is frozen water.",
    "a",
    "A summit is the highest point of a mountain. " * 4,
    "Snow is frozen water.",
    ".",
    "As a general guideline, women should eat 46 grams of protein a day.",
    "🙂",
    "a",
]

Style = Literal["hub", "transformers4", "transformers5"]


@cache
def ground_truth() -> sentencepiece.SentencePieceProcessor:
    """Mistral v0.1's own tokenizer."""
    return sentencepiece.SentencePieceProcessor(model_file=str(SENTENCEPIECE_MODEL))


def true_ids(text: str, max_length: int = 4096) -> tuple[int, ...]:
    """The ids the model was trained on: `<s>` + body + `</s>`."""
    return (1, *ground_truth().encode(text)[: max_length - 2], 2)


def save_tokenizer(folder: Path, style: Style = "hub") -> None:
    """Write the tokenizer files of a checkpoint.

    hub: `add_eos_token: true` in the config, a post-processor that adds only `<s>`.
    transformers4: as version 4 saves the hub's: the post-processor adds `</s>` as well.
    transformers5: as the installed version 5 saves the hub's.
    """
    folder.mkdir(parents=True, exist_ok=True)
    template = "<s> $A </s>" if style == "transformers4" else "<s> $A"
    tokenizer = _mistral_tokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single=template, special_tokens=[("<s>", 1), ("</s>", 2)]
    )
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {
        "add_bos_token": True,
        "add_eos_token": True,
        "bos_token": "<s>",
        "eos_token": "</s>",
        "unk_token": "<unk>",
        "pad_token": "</s>",
        "legacy": True,
        "tokenizer_class": "LlamaTokenizer",
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    shutil.copy(SENTENCEPIECE_MODEL, folder / "tokenizer.model")
    if style == "transformers5":
        from transformers import AutoTokenizer

        AutoTokenizer.from_pretrained(folder).save_pretrained(folder)


def save_checkpoint(
    folder: Path,
    *,
    seed: int = 0,
    style: Style = "hub",
    hidden_size: int = 64,
    num_layers: int = 3,
    dtype: torch.dtype = torch.float32,
    max_shard_size: str = "5GB",
) -> Path:
    """Write a whole checkpoint with random weights; returns `folder`."""
    from transformers import MistralConfig, MistralModel  # late: the import takes seconds

    torch.manual_seed(seed)
    config = MistralConfig(
        hidden_size=hidden_size,
        intermediate_size=2 * hidden_size,
        num_hidden_layers=num_layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=hidden_size // 4,
        vocab_size=32000,
        rms_norm_eps=1e-5,
        sliding_window=4096,
        max_position_embeddings=32768,
    )
    model = MistralModel(config)
    for parameter in model.parameters():
        if parameter.ndim > 1:  # large enough that attention and order matter in every vector
            torch.nn.init.normal_(parameter, std=1.5 / hidden_size**0.5)
        else:
            torch.nn.init.normal_(parameter, mean=1.0, std=0.1)
    torch.nn.Module.to(model, dtype)
    model.save_pretrained(folder, max_shard_size=max_shard_size)
    save_tokenizer(folder, style)
    return folder


@cache
def _mistral_tokenizer() -> Tokenizer:
    """The vocabulary and merges of the sentencepiece model, in the hub's layout."""
    pieces = ground_truth()
    vocab = {pieces.id_to_piece(i): i for i in range(pieces.get_piece_size())}
    by_score = sorted(vocab, key=lambda piece: -pieces.get_score(vocab[piece]))
    merges = [
        (piece[:cut], piece[cut:])
        for piece in by_score
        for cut in range(1, len(piece))
        if piece[:cut] in vocab and piece[cut:] in vocab
    ]
    tokenizer = Tokenizer(
        models.BPE(vocab=vocab, merges=merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True)
    )
    tokenizer.add_special_tokens(
        [AddedToken(token, normalized=False, special=True) for token in ("<unk>", "<s>", "</s>")]
    )
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    return tokenizer


def load(folder: Path, **options: float | str) -> Embedder:
    """A folder's embedder on the CPU; the dtype is float32 by default."""
    settings = {"device": "cpu", "dtype": "float32"} | options
    return Embedder.load(Settings(weights=folder, **settings))  # type: ignore[arg-type]
