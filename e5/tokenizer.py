"""Texts -> exactly the token ids the model was trained on: `<s>` + body + `</s>`.

The rule is this project's, not the library's. Tokenizer files and libraries disagree about the
final `</s>`, about `</s>` written inside a text and about the leading space, and a mistake raises
no error: the vector is read from the wrong token. So the body is tokenised without special tokens,
and both ends are added here. Control tokens written inside a text are plain text. A sentencepiece
BPE (Mistral's) gets sentencepiece's own normalisation, whatever the file says.

Of a long text only a beginning is tokenised. The beginning ends where no token can span its end, so
its ids do not depend on the rest of the text.
"""

import hashlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TypeAlias

import numpy as np
import tokenizers
from numpy.typing import NDArray
from tokenizers import models, normalizers

from e5.errors import TokenizerError

TokenIds: TypeAlias = tuple[int, ...]

# Part of the fingerprint: change it whenever the ids of any text change.
RULE = "<s> + body[: max_length - 2] + </s>, control tokens in a text are text"

# The ids that sentencepiece gives with Mistral 7B v0.1's own model (`[1] + sp.encode(text) + [2]`).
MISTRAL_VOCAB_SIZE = 32000
MISTRAL_GOLDENS: Mapping[str, TokenIds] = {
    "The capital of France is Paris": (1, 415, 5565, 302, 4843, 349, 5465, 2),
    "Hello, my dog is cute. How can I help you?": (
        *(1, 22557, 28725, 586, 3914, 349, 17949, 28723),
        *(1602, 541, 315, 1316, 368, 28804, 2),
    ),
    "hello": (1, 6312, 28709, 2),
    "</s>": (1, 1867, 28713, 28767, 2),
    "a\nb": (1, 264, 13, 28726, 2),
    "\N{GRINNING FACE} \x00": (1, 28705, 30575, 28705, 3, 2),
}

CHARACTERS_PER_TOKEN = 6  # the first estimate; prose has fewer
# Normalizers that do not look beyond neighbouring characters.
LOCAL_NORMALIZERS = {"NFC", "NFD", "NFKC", "NFKD", "Lowercase", "StripAccents"}


@dataclass(frozen=True)
class TokenizedText:
    """One text's token ids; before truncation the text had at least `num_tokens` tokens."""

    token_ids: TokenIds
    num_tokens: int

    @property
    def truncated(self) -> bool:
        """Whether tokens of the text are missing."""
        return self.num_tokens > len(self.token_ids)


@dataclass(frozen=True)
class AllTokens:
    """All tokens of one text, however long it is.

    Attributes:
        ids: int64 `[num_tokens]`: `<s>`, the text's own, `</s>`.
        pieces: the vocabulary's string for each of them.
        spans: for each of the text's own tokens, the start and the end of its characters in it.
    """

    ids: NDArray[np.int64]
    pieces: Sequence[str]
    spans: Sequence[tuple[int, int]]


class Tokenizer:
    """A checkpoint's tokenizer, used by this project's rule; `MISTRAL_GOLDENS` has examples.

    Attributes:
        max_length: the maximum tokens of a text, both ends included.
        vocab_size: one more than the largest token id.
        sha256: of the file that was read, in hex digits.
    """

    def __init__(self, file: Path, *, max_length: int) -> None:
        """Read a `tokenizer.json` as saved by the hub, transformers 4 or transformers 5.

        `max_length` is the maximum tokens of a text, both ends included; at least 3.

        Raises:
            TokenizerError: for a file that is not a tokenizer, lacks `<s>` or `</s>`, or has added
                tokens that are not special.
        """
        self._file = str(file)
        try:
            content = file.read_bytes()
            self._tokenizer = tokenizers.Tokenizer.from_buffer(content)
        except Exception as error:  # the library raises plain Exception
            raise self.error(f"not a readable tokenizer.json ({error})") from error
        self.sha256 = hashlib.sha256(content).hexdigest()
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self._tokenizer.encode_special_tokens = True
        added = self._tokenizer.get_added_tokens_decoder().values()
        plain_tokens = [token.content for token in added if not token.special]
        if plain_tokens:  # they would be matched before the model's own pieces
            first = repr(plain_tokens[0])
            raise self.error(f"it has added tokens that are not special, such as {first}")
        model = self._tokenizer.model
        if isinstance(model, models.BPE) and model.byte_fallback:
            steps = [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
            self._tokenizer.normalizer = normalizers.Sequence(steps)
            self._tokenizer.pre_tokenizer = None
        self._bos, self._eos = (self._control_id(token) for token in ("<s>", "</s>"))
        self.max_length = max_length
        vocabulary = self._tokenizer.get_vocab(with_added_tokens=False)
        self.vocab_size = max(*vocabulary.values(), self._bos, self._eos) + 1
        # Whether no token can span the boundary between two neighbouring characters of a text.
        self._is_boundary: Callable[[str], object] = lambda _: False
        if self._tokenizer.pre_tokenizer is None and self._tokenizer.normalizer is not None:
            joined = {a + b for piece in vocabulary for a, b in pairwise(piece)}
            self._is_boundary = lambda pair: pair.replace(" ", "▁") not in joined
        elif self._splits_at_spaces():
            self._is_boundary = re.compile(" [0-9A-Za-z]").match

    def encode(self, texts: Sequence[str]) -> list[TokenizedText]:
        """Token ids of each text, `<s>` first and `</s>` last, at most `max_length` of them.

        Releases the interpreter lock (GIL) while it works.
        """
        body_length = self.max_length - 2
        tokenized: dict[int, TokenizedText] = {}  # by the text's position
        pending, num_characters = list(range(len(texts))), CHARACTERS_PER_TOKEN * body_length
        while pending:
            heads = [self._head(texts[i], num_characters) for i in pending]
            bodies = self._tokenizer.encode_batch_fast(heads, add_special_tokens=False)
            for i, head, body in zip(pending, heads, bodies, strict=True):
                ids = body.ids
                if len(head) == len(texts[i]) or len(ids) > body_length:
                    token_ids = (self._bos, *ids[:body_length], self._eos)
                    tokenized[i] = TokenizedText(token_ids, len(ids) + 2)
            pending = [i for i in pending if i not in tokenized]
            num_characters *= 8
        return [tokenized[i] for i in range(len(texts))]

    def count(self, text: str) -> int:
        """The number of tokens of the whole text, both ends included."""
        return len(self._tokenizer.encode(text, add_special_tokens=False).ids) + 2

    def all_tokens(self, text: str) -> AllTokens:
        """All tokens of a text. Their ids are those of `encode` for a text that is not truncated.

        Takes about 230 bytes for each token, of which a character may have several.
        """
        # As a batch: that releases the interpreter lock.
        [body] = self._tokenizer.encode_batch([text], add_special_tokens=False)
        ids = np.array([self._bos, *body.ids, self._eos])
        return AllTokens(ids, ["<s>", *body.tokens, "</s>"], body.offsets)

    def decode(self, token_ids: Sequence[int], *, skip_special_tokens: bool = True) -> str:
        """The text that token ids below `vocab_size` stand for, as far as they keep it."""
        return self._tokenizer.decode(token_ids, skip_special_tokens=skip_special_tokens)

    def _head(self, text: str, least: int) -> str:
        """A beginning of at least `least` characters whose ids the rest does not change."""
        ends = range(least, len(text))
        return text[: next((e for e in ends if self._is_boundary(text[e - 1 : e + 1])), None)]

    def _splits_at_spaces(self) -> bool:
        """Whether the words between spaces are tokenised independently of each other."""
        normalizer, splitter = (
            json.loads(self._tokenizer.to_str())[name] for name in ("normalizer", "pre_tokenizer")
        )
        parts = (normalizer or {}).get("normalizers", [normalizer] if normalizer else [])
        if splitter is None or not {part["type"] for part in parts} <= LOCAL_NORMALIZERS:
            return False
        split = self._tokenizer.pre_tokenizer.pre_tokenize_str
        first, second = ([word for word, _ in split(word)] for word in ("ab", "cd"))
        return [word for word, _ in split("ab  cd")] == first + second

    def check(self, goldens: Mapping[str, TokenIds]) -> None:
        """Compare with ids that are known to be right; TokenizerError for a text that differs."""
        for text, expected in goldens.items():
            ids = self.encode([text])[0].token_ids
            expected = (*expected[:-1][: self.max_length - 1], expected[-1])
            if ids != expected:
                raise self.error(f"it turns {text!r} into {list(ids)} instead of {list(expected)}")

    def error(self, received: str) -> TokenizerError:
        """The error about this tokenizer's file."""
        return TokenizerError(self._file, received, "restore the checkpoint's own tokenizer.json")

    def _control_id(self, token: str) -> int:
        token_id = self._tokenizer.token_to_id(token)
        if token_id is None:
            raise self.error(f"it has no {token} token, so it is not a Mistral tokenizer")
        return token_id
