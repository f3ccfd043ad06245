"""The tokenizer of e5-mini: whole words that the texts use, pieces and bytes for all others.

It is a unigram model with byte fallback. It lower-cases, strips accents, and gives each punctuation
mark a token. It splits each word by itself, so a text has the same ids after a prompt as alone.
Like the 7B model's tokenizer, it adds only `<s>`; the service adds `</s>`.
"""

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from string import ascii_lowercase

from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)

CONTROL_TOKENS = ("<unk>", "<s>", "</s>")
# Log-probabilities: a word is likelier than any two pieces, a piece than its bytes.
WORD_SCORE, PIECE_SCORE, BYTE_SCORE, CONTROL_SCORE = -10.0, -16.0, -25.0, -30.0
ALPHABET_SIZE = 64  # characters that pieces are made of; all others become bytes
SYMBOLS = [
    *"!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~0123456789",
    *"\u20ac\u00a3\u00b0\u2013\u2014\u201c\u201d\u2018\u2019\u2026\n",
]


def build_tokenizer(texts: Iterable[str], teacher_words: Sequence[str], size: int) -> Tokenizer:
    """Build a tokenizer of `size` ids for `texts`.

    Words are ranked by 0.6 x their rank in `teacher_words`, which stands for general English, and
    0.4 x their rank in `texts`. The most frequent word comes first in `teacher_words`.
    """
    counts = Counter(word for text in texts for word in split_words(text))
    in_texts = {word: rank for rank, (word, _) in enumerate(counts.most_common())}
    in_teacher = {word: rank for rank, word in enumerate(teacher_words) if word in in_texts}

    def rank(word: str) -> float:
        return 0.6 * in_teacher.get(word, len(teacher_words)) + 0.4 * min(
            in_texts[word], len(teacher_words)
        )

    num_pieces = size // 8
    num_words = size - num_pieces - len(CONTROL_TOKENS) - 256 - len(SYMBOLS)
    words = sorted(in_texts, key=lambda word: (rank(word), word))[:num_words]
    known = set(words)
    rare = {word: count for word, count in counts.items() if word not in known}
    entries: dict[str, float] = dict.fromkeys(CONTROL_TOKENS, CONTROL_SCORE)
    entries |= {f"<0x{byte:02X}>": BYTE_SCORE for byte in range(256)}
    entries |= {f"▁{symbol}": WORD_SCORE for symbol in SYMBOLS}
    entries |= {f"▁{word}": WORD_SCORE for word in words}
    for piece in _pieces(rare, num_pieces * 2):
        if len(entries) < size:
            entries.setdefault(piece, PIECE_SCORE)
    tokenizer = Tokenizer(models.Unigram(list(entries.items()), unk_id=0, byte_fallback=True))
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in CONTROL_TOKENS])
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.NFKD(), normalizers.StripAccents(), normalizers.Lowercase()]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r"[^\S\n]+"), "removed"),
            pre_tokenizers.Split("\n", "isolated"),
            pre_tokenizers.Punctuation("isolated"),
            pre_tokenizers.Metaspace(prepend_scheme="always"),
        ]
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", 1)]
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


def split_words(text: str) -> list[str]:
    """Split a text into words as the tokenizer does.

    Example:
        >>> split_words("The café's 2 tables.")
        ['the', 'cafe', 's', '2', 'tables']
    """
    unaccented = "".join(
        c for c in unicodedata.normalize("NFKD", text) if not unicodedata.combining(c)
    )
    return re.findall(r"[^\W_]+", unaccented.lower())


def _pieces(words: dict[str, int], size: int) -> list[str]:
    """The pieces that build rare words best, single characters first."""
    counts = Counter(character for word in words for character in word)
    others = sorted(counts.keys() - set(ascii_lowercase), key=lambda x: (-counts[x], x))
    # The trainer would choose differently in each run among equally rare characters.
    kept = [*ascii_lowercase, *others[: ALPHABET_SIZE - 27], "▁"]
    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        initial_alphabet=kept,
        limit_alphabet=ALPHABET_SIZE,
        show_progress=False,
    )
    raw.train_from_iterator(
        (word for word, count in sorted(words.items()) for _ in range(min(count, 20))), trainer
    )
    pieces = sorted(raw.get_vocab().items(), key=lambda item: item[1])
    return [piece for piece, _ in pieces if piece != "▁"]
