"""Words in scripts that put no blanks between them -> n-grams, which an inverted index can find.

Chinese, Japanese, Thai, Lao, Khmer and Burmese put none, Korean adds particles to its words. A run
of such letters is split into all of its parts of two letters (`東京都` into `東京 京都`), or three
where letters are parts of syllables, as in Thai. A document has the parts that are one letter
shorter as well: short words are found by them, and a query that has longer ones ignores them.
"""

import re
from collections.abc import Iterator
from unicodedata import normalize

# Ideographs, kana, bopomofo, hangul, yi and related scripts: a letter is a syllable or a word.
_SYLLABLES = (
    "\u1100-\u11ff\u2e80-\u2fdf\u3005-\u3007\u3021-\u3029\u3031-\u3035\u3038-\u303c\u3041-\u309f"
    "\u30a1-\u30fa\u30fc-\u318f\u31a0-\u31bf\u31f0-\u31ff\u3400-\u4dbf\u4e00-\ua4cf\ua960-\ua97f"
    "\uac00-\ud7ff\uf900-\ufaff\uff66-\uffdc\U00016fe0-\U00018cff\U0001aff0-\U0001b2ff"
    "\U00020000-\U0003ffff"
)
# Thai, Lao, Burmese, Khmer, Tai Le, Buginese, Tai Tham, Balinese, Javanese, Tai Viet: vowels and
# tones are letters or marks of their own.
_LETTERS = (
    "\u0e01-\u0e3a\u0e40-\u0e4e\u0e81-\u0ece\u0edc-\u0edf\u1000-\u103f\u1050-\u109f\u1780-\u17d3"
    "\u17d7\u17dc\u17dd\u1950-\u19df\u1a00-\u1a1b\u1a20-\u1a7f\u1aa7\u1b00-\u1b4c\ua980-\ua9c0"
    "\ua9e0-\ua9fe\uaa60-\uaadd"
)
_VARIATION = re.compile("[\ufe00-\ufe0f\U000e0100-\U000e01ef]")  # how a letter is drawn
# Chinese and Japanese texts have letters and digits of full width as well.
UNSPACED = re.compile(f"[{_SYLLABLES}{_LETTERS}\uff10-\uff5a]")
_WORD = re.compile(rf"[\w{_SYLLABLES}{_LETTERS}]+")
_PART = re.compile(rf"([{_SYLLABLES}]+)|([{_LETTERS}]+)|[^\W_{_SYLLABLES}{_LETTERS}]+")


def ngrams_of_document(text: str) -> str | None:
    """The n-grams of a text with blanks between them; None for a text that has none.

    They include what a search for words does not see: a word of another script that touches a run,
    such as `pc` in `pcを`, or that is written in other characters, such as those of full width.

    Example:
        >>> ngrams_of_document("My 東京都, my pcを."), ngrams_of_document("My pc.")
        ('東 京 都 東京 京都 pc を', None)
    """
    if not UNSPACED.search(text):
        return None
    seen = set(_WORD.findall(text))
    words = _WORD.findall(_normalized(text))
    hidden = (word for word in words if word not in seen or UNSPACED.search(word))
    return " ".join(ngram for word in hidden for ngram in _ngrams(word, shorter=True)) or None


def ngrams_of_query(text: str) -> str:
    """What a query looks for among the n-grams of documents, with blanks between.

    Example:
        >>> ngrams_of_query("東京都 pc 本")
        '東京 京都 pc 本'
    """
    return " ".join(dict.fromkeys(_ngrams(_normalized(text), shorter=False)))


def _normalized(text: str) -> str:
    """The text with one spelling for each letter, whatever its composition, width or variant."""
    return normalize("NFKC", _VARIATION.sub("", text))


def _ngrams(text: str, *, shorter: bool) -> Iterator[str]:
    for part in _PART.finditer(text):
        run, longest = part[0], 2 if part[1] else 3
        if part.lastindex is None:
            yield run
            continue
        most = min(longest, len(run))
        least = min(longest - 1, len(run)) if shorter else most
        for size in range(least, most + 1):
            yield from (run[i : i + size] for i in range(len(run) - size + 1))
