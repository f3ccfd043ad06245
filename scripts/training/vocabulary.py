"""The tokenizer of e5-mini: whole words where the text uses them, pieces and bytes for the rest.

A unigram model with byte fallback, lower-cased, accents stripped, one token a punctuation mark.
Each word is cut by itself, so a text's ids behind a prompt are its ids alone. It emits only `<s>`,
like the 7B model's files: the service adds `</s>`.
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
    processors,
    trainers,
)
from tokenizers import pre_tokenizers as cut

CONTROL = ("<unk>", "<s>", "</s>")
# Log-probabilities: a word beats any two pieces, a piece beats its bytes.
WORD, PIECE, BYTE, NEVER = -10.0, -16.0, -25.0, -30.0
LETTERS = 64  # that pieces are made of; of others there are bytes
SYMBOLS = [
    *"!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~0123456789",
    *"\u20ac\u00a3\u00b0\u2013\u2014\u201c\u201d\u2018\u2019\u2026\n",
]


def build_tokenizer(texts: Iterable[str], teacher_words: Sequence[str], size: int) -> Tokenizer:
    """A tokenizer of `size` ids for `texts`.

    Words are ranked by 0.6 x their rank in the teacher's vocabulary (best first in
    `teacher_words`), which is that of general English, and 0.4 x their rank in `texts`.
    """
    counts = Counter(word for text in texts for word in words_of(text))
    in_texts = {word: rank for rank, (word, _) in enumerate(counts.most_common())}
    in_teacher = {word: rank for rank, word in enumerate(teacher_words) if word in in_texts}

    def rank(word: str) -> float:
        return 0.6 * in_teacher.get(word, len(teacher_words)) + 0.4 * min(
            in_texts[word], len(teacher_words)
        )

    num_pieces = size // 8
    num_words = size - num_pieces - len(CONTROL) - 256 - len(SYMBOLS)
    words = sorted(in_texts, key=lambda word: (rank(word), word))[:num_words]
    known = set(words)
    rare = {word: count for word, count in counts.items() if word not in known}
    entries: dict[str, float] = dict.fromkeys(CONTROL, NEVER)
    entries |= {f"<0x{byte:02X}>": BYTE for byte in range(256)}
    entries |= {f"▁{symbol}": WORD for symbol in SYMBOLS}
    entries |= {f"▁{word}": WORD for word in words}
    for piece in _pieces(rare, num_pieces * 2):
        if len(entries) < size:
            entries.setdefault(piece, PIECE)
    tokenizer = Tokenizer(models.Unigram(list(entries.items()), unk_id=0, byte_fallback=True))
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in CONTROL])
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.NFKD(), normalizers.StripAccents(), normalizers.Lowercase()]
    )
    tokenizer.pre_tokenizer = cut.Sequence(
        [
            cut.Split(Regex(r"[^\S\n]+"), "removed"),
            cut.Split("\n", "isolated"),
            cut.Punctuation("isolated"),
            cut.Metaspace(prepend_scheme="always"),
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


def words_of(text: str) -> list[str]:
    """The words of a text as the tokenizer sees them.

    Example:
        >>> words_of("The café's 2 doors.")
        ['the', 'cafe', 's', '2', 'doors']
    """
    plain = "".join(c for c in unicodedata.normalize("NFKD", text) if not unicodedata.combining(c))
    return re.findall(r"[^\W_]+", plain.lower())


def _pieces(words: dict[str, int], size: int) -> list[str]:
    """The pieces from which rare words are best built, letters first."""
    letters = Counter(letter for word in words for letter in word)
    others = sorted(letters.keys() - set(ascii_lowercase), key=lambda x: (-letters[x], x))
    # Chosen here, because among equally rare ones the trainer's choice changes from run to run.
    kept = [*ascii_lowercase, *others[: LETTERS - 27], "▁"]
    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = cut.Metaspace(prepend_scheme="always")
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        initial_alphabet=kept,
        limit_alphabet=LETTERS,
        show_progress=False,
    )
    raw.train_from_iterator(
        (word for word, count in sorted(words.items()) for _ in range(min(count, 20))), trainer
    )
    pieces = sorted(raw.get_vocab().items(), key=lambda item: item[1])
    return [piece for piece, _ in pieces if piece != "▁"]
