"""A checkpoint in this process -> the vectors that hypotheses would give."""

import json
import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers
import torch

from e5.audit.hypotheses import Computation
from e5.audit.unmodified import HiddenStates, MaskedText, load_unmodified
from e5.checkpoint import TOKENIZER, weight_bytes
from e5.device import choose_device
from e5.embedder import Embedder
from e5.settings import Settings
from e5.tokenizer import TokenIds, Tokenizer
from e5.vectors import Vectors

MAX_TOKENS = 1_000_000  # of a text before it is truncated; texts have fewer
SMALL = 2_000_000_000  # bytes of weights that are computed in float32 on a CPU
PACKED_POOLINGS = ("last", "first")  # what the packed forward gives: a first token is a text
BATCH_TOKENS = 2048  # of a forward of the unmodified model
MAX_PADDING = 256  # tokens of padding that are tried


class LocalSource:
    """A checkpoint in this process, which computes every hypothesis. A `VectorSource`."""

    def __init__(
        self, embedder: Embedder, settings: Settings, *, rounding: float, loads_more: bool = True
    ) -> None:
        """Use a loaded embedder of the settings' checkpoint.

        Without `loads_more` what needs the unmodified model, or the model without its adapter, is
        left out.
        """
        self.prompts, self.dimensions = embedder.prompts, embedder.dimensions
        self.rounding = rounding
        self._embedder, self._settings, self._loads_more = embedder, settings, loads_more
        self._base: Embedder | None = None  # without the adapter
        self._states: dict[bool, HiddenStates] = {}  # by whether the adapter is left out
        self._tokens = _TokenVariants(Path(settings.weights) / TOKENIZER)
        self._vectors: dict[tuple[str, TokenIds], Vectors] = {}

    @classmethod
    def load(cls, settings: Settings) -> "LocalSource":
        """Load the checkpoint of the settings, as `Embedder.load` does.

        On a CPU a small checkpoint is computed in float32 unless `settings.dtype` says otherwise:
        the more exact the vectors, the nearer the hypotheses that they tell apart.
        """
        folder = Path(settings.weights)
        size = weight_bytes(folder)
        if settings.dtype is None and size <= SMALL:
            device = choose_device(settings.device, weight_bytes=size)
            settings = replace(settings, dtype="float32" if device.type == "cpu" else None)
        embedder = Embedder.load(settings)
        return cls(embedder, settings, rounding=1e-10 if settings.dtype == "float32" else 2e-5)

    def can(self, computation: Computation) -> bool:
        """Whether the source can compute this: an adapter must be set to be left out."""
        if computation.weights == "without_adapter" and self._settings.adapter is None:
            return False
        is_packed = computation.weights == "right" and computation.pooling in PACKED_POOLINGS
        return self._loads_more or is_packed

    def compute(self, computations: Sequence[Computation]) -> list[Vectors]:
        """See `VectorSource.compute`; identical token ids are computed once."""
        ids = [self._token_ids(each) for each in computations]
        found: list[Vectors] = [np.empty((0, 0), np.float32)] * len(ids)
        for weights in ("right", "without_adapter"):
            rows = [
                i
                for i, each in enumerate(computations)
                if each.weights == weights and each.pooling in PACKED_POOLINGS
            ]
            texts = [ids[i] if computations[i].pooling == "last" else ids[i][:1] for i in rows]
            for i, vector in zip(rows, self._last_tokens(texts, weights), strict=True):
                found[i] = vector
        rest = [i for i in range(len(ids)) if not found[i].size]
        for is_bare in (False, True):
            texts_of = {
                i: self._masked(computations[i], ids[i])
                for i in rest
                if (computations[i].weights == "without_adapter") == is_bare
            }
            for batch in _batches(set(texts_of.values())):
                states = dict(zip(batch, self._states_without(is_bare).of(batch), strict=True))
                for i, text in texts_of.items():
                    if text in states:
                        found[i] = self._pooled(computations[i], len(ids[i]), *states[text])
        return found

    def forget(self) -> None:
        """See `VectorSource.forget`."""
        self._vectors.clear()
        self._tokens.bodies.clear()

    def _last_tokens(self, texts: Sequence[TokenIds], weights: str) -> list[Vectors]:
        """The packed forward's vectors, `[1, dimensions]` each."""
        new = list(dict.fromkeys(text for text in texts if (weights, text) not in self._vectors))
        if new:
            vectors = self._embedder_with(weights).compute(new).vectors
            self._vectors |= {
                (weights, text): v[None] for text, v in zip(new, vectors, strict=True)
            }
        return [self._vectors[weights, text] for text in texts]

    def _embedder_with(self, weights: str) -> Embedder:
        if weights == "right":
            return self._embedder
        if self._base is None:
            self._base = Embedder.load(replace(self._settings, adapter=None))
        return self._base

    def _states_without(self, is_bare: bool) -> HiddenStates:
        """The unmodified model, with the adapter or without it."""
        if is_bare not in self._states:
            settings = replace(self._settings, adapter=None) if is_bare else self._settings
            self._states[is_bare] = HiddenStates(load_unmodified(settings))
        return self._states[is_bare]

    def _masked(self, computation: Computation, ids: TokenIds) -> MaskedText:
        """What the unmodified model computes: the text, and padding if that is read."""
        is_padded = computation.pooling.startswith("padding")
        padded = ids + (self._tokens.eos,) * MAX_PADDING if is_padded else ids
        visible = padded if computation.pooling == "padding_attended" else ids
        return MaskedText(padded, len(visible), computation.weights == "bidirectional")

    def _pooled(
        self, computation: Computation, count: int, states: torch.Tensor, before_norm: torch.Tensor
    ) -> Vectors:
        """The vectors that hidden states give of a text of `count` tokens, and padding."""
        start, pooling = 0, computation.pooling
        if pooling == "before_norm":
            states = before_norm[-1:]
        elif pooling in PACKED_POOLINGS:
            states = states[-1:] if pooling == "last" else states[:1]
        elif pooling == "padding_masked":
            states = states[count - 1 :]
        elif pooling == "padding_attended":
            # The longest text has no padding; one token of it is what double_eos gives.
            states = torch.cat((states[count - 1 : count], states[count + 1 :]))
        else:
            if pooling == "mean_without_prefix":
                alone = replace(computation, text="", suffix="")
                start = computation.bos + len(self._tokens.body(alone))
            states = states[start if start < count else 0 :].mean(0, keepdim=True)
        vectors: Vectors = states.numpy()
        return vectors

    def _token_ids(self, computation: Computation) -> TokenIds:
        """The ids that the text is computed with, truncated and with both ends."""
        ends = computation.bos + computation.eos
        most = min(computation.max_tokens or self._embedder.max_length, self._embedder.max_length)
        room = max(most - ends, 1)
        body = self._tokens.body(computation)
        if len(body) > room:
            body = body[-room:] if computation.keeps_end else body[:room]
        bos, eos = (self._tokens.bos,), (self._tokens.eos,)
        return (bos * computation.bos + body + eos * computation.eos) or eos


def _batches(texts: Collection[MaskedText]) -> Iterator[list[MaskedText]]:
    """Texts of like lengths, with about `BATCH_TOKENS` tokens."""
    batch: list[MaskedText] = []
    for text in sorted(texts, key=lambda text: len(text.ids)):
        if (len(batch) + 1) * len(text.ids) > BATCH_TOKENS and batch:
            yield batch
            batch = []
        batch.append(text)
    if batch:
        yield batch


class _TokenVariants:
    """The token ids of whole texts by our rule, and by the mistakes of other libraries."""

    def __init__(self, file: Path) -> None:
        self._tokenizer = Tokenizer(file, max_length=MAX_TOKENS)
        described = json.loads(file.read_text(encoding="utf-8"))
        added = [token for token in described["added_tokens"] if token["special"]]
        self._special_ids = {token["content"]: int(token["id"]) for token in added}
        names = sorted(self._special_ids, key=len, reverse=True)
        self._specials = re.compile(f"({'|'.join(map(re.escape, names))})")
        self.bos, self.eos = self._special_ids["<s>"], self._special_ids["</s>"]
        self._without_space = tokenizers.Tokenizer.from_str(json.dumps(_without_space(described)))
        self._without_space.no_truncation()
        self._without_space.no_padding()
        self._without_space.encode_special_tokens = True
        self.bodies: dict[tuple[str, bool, bool], TokenIds] = {}

    def body(self, computation: Computation) -> TokenIds:
        """The ids between both ends."""
        variant = (computation.specials_parsed, computation.leading_space)
        key = (computation.prompt, *variant)
        if key not in self.bodies:
            self.bodies[key] = self._tokenize(*key)
        return self.bodies[key]

    def _tokenize(self, prompt: str, specials_parsed: bool, leading_space: bool) -> TokenIds:
        pieces = self._specials.split(prompt) if specials_parsed else [prompt]
        ids: list[int] = []
        for i, piece in enumerate(pieces):
            if i % 2:  # the regular expression's group
                ids.append(self._special_ids[piece])
            elif piece and not (leading_space or i):
                ids += self._without_space.encode(piece, add_special_tokens=False).ids
            elif piece:
                ids += self._tokenizer.encode([piece])[0].token_ids[1:-1]
        return tuple(ids)


def _without_space(described: dict[str, Any]) -> dict[str, Any]:
    """A tokenizer.json that does not put `▁` before a text."""

    def edited(node: Any) -> Any:
        if isinstance(node, list):
            return [edited(each) for each in node if _type(each) != "Prepend"]
        if isinstance(node, dict):
            node = {
                name: edited(value) for name, value in node.items() if _type(value) != "Prepend"
            }
            if node.get("type") == "Metaspace":
                node |= {"prepend_scheme": "never"}
        return node

    def _type(node: Any) -> Any:
        return node.get("type") if isinstance(node, dict) else None

    if described["model"].get("byte_fallback") and described["model"]["type"] == "BPE":
        replaced = {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}
        return {**described, "normalizer": replaced, "pre_tokenizer": None}
    parts = {name: edited(described[name]) for name in ("normalizer", "pre_tokenizer")}
    return {**described, **parts}
