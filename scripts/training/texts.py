"""The records of `sources` as training text: distinct texts, pairs, long texts, swapped words.

Knows what is trained on and what is held out. Knows nothing of ids, models or optimisers.
"""

import hashlib
import json
import random
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from e5.vectors import Vectors
from training import sources
from training.sources import Pair
from training.vocabulary import words_of

HERE = Path(__file__).parent
HELD_OUT = 1000  # Debian pairs for the evaluation
SHARED_WORDS = 6  # a training text with as many words in a row from an evaluation text is left out


@dataclass
class Corpus:
    """Distinct texts, and by their indices the pairs they form.

    Attributes:
        texts: every text to be labelled by the teacher.
        pairs: query, passages, group; those of Debian, of WordNet and of our own writing.
        fillers: sentences from which long texts are built.
        left_out: texts dropped because they share words with the evaluation set.
    """

    texts: list[str] = field(default_factory=list)
    pairs: dict[str, list[tuple[int, list[int], str]]] = field(default_factory=dict)
    fillers: list[int] = field(default_factory=list)
    left_out: int = 0
    places: dict[str, int] = field(default_factory=dict)

    def add(self, text: str) -> int:
        """The index of a text, added if it is new."""
        place = self.places.setdefault(text, len(self.texts))
        if place == len(self.texts):
            self.texts.append(text)
        return place

    def add_pairs(self, kind: str, pairs: Sequence[Pair], leaks: "Leaks") -> None:
        """Pairs none of whose texts leaks evaluation text."""
        for pair in pairs:
            if any(leaks.found_in(text) for text in (pair.query, *pair.passages)):
                self.left_out += 1
                continue
            passages = [self.add(passage) for passage in pair.passages]
            self.pairs.setdefault(kind, []).append((self.add(pair.query), passages, pair.group))


class Leaks:
    """The evaluation set's texts, to be kept out of training."""

    def __init__(self, held_out: Sequence[Pair] = ()) -> None:
        """Remember every run of words of the evaluation files, and the held-out pairs' texts."""
        self._runs = {run for text in evaluation_texts() for run in _runs(text)}
        # Package descriptions repeat stock phrases, so of those only whole texts count.
        self._wholes = {
            tuple(words_of(text)) for pair in held_out for text in (pair.query, *pair.passages)
        }

    def found_in(self, text: str) -> bool:
        """Whether a text holds one of them; one shorter than a run counts only as a whole."""
        return tuple(words_of(text)) in self._wholes or not self._runs.isdisjoint(_runs(text))


def evaluation_texts() -> list[str]:
    """Every sentence of the evaluation files."""
    found: list[str] = []
    for item in map(json.loads, (HERE / "questions.jsonl").read_text().splitlines()):
        found += [item["query"], item["right"], *item["distractors"]]
    for item in map(json.loads, (HERE / "pairs.jsonl").read_text().splitlines()):
        found += [item["a"], item["b"]]
    return found


def _runs(text: str) -> list[tuple[str, ...]]:
    words = words_of(text)
    if len(words) <= SHARED_WORDS:
        return [tuple(words)]
    return [tuple(words[i : i + SHARED_WORDS]) for i in range(len(words) - SHARED_WORDS + 1)]


def held_out_pairs(pairs: Sequence[Pair]) -> list[Pair]:
    """The Debian pairs of the evaluation: those whose titles hash lowest, whatever the snapshot."""
    return sorted(pairs, key=lambda pair: hashlib.sha256(pair.query.encode()).digest())[:HELD_OUT]


def split_written() -> tuple[list[Pair], list[Pair]]:
    """Our own pairs: those to train on, and those of every twentieth group, for the evaluation."""
    pairs = sources.written()
    groups = sorted({pair.group for pair in pairs})
    kept_back = set(random.Random(0).sample(groups, len(groups) // 20))
    return (
        [pair for pair in pairs if pair.group not in kept_back],
        [pair for pair in pairs if pair.group in kept_back],
    )


def gather(snapshot: Path) -> Corpus:
    """All natural and written text, less what the evaluation asks about."""
    corpus = Corpus()
    described = sources.descriptions(snapshot)
    kept_back = held_out_pairs(described)
    leaks = Leaks(kept_back)
    kept_titles = {pair.query for pair in kept_back}
    corpus.add_pairs("debian", [p for p in described if p.query not in kept_titles], leaks)
    trained_on, _ = split_written()
    corpus.add_pairs("written", trained_on, leaks)
    wordnet, examples = [], []
    for words, definition, shown in sources.definitions(snapshot):
        if shown and words.islower():  # common senses; neither names nor species
            wordnet.append(Pair(words, (definition,), "wordnet"))
        examples += [text for text in shown if len(text.split()) > 3]
    corpus.add_pairs("wordnet", wordnet, leaks)
    pages = []
    for title, paragraphs in sources.help_pages(snapshot):
        parts = [part for text in paragraphs for part in sources.sentences(text)]
        pages += [title, *parts]
    loose = [text for text in dict.fromkeys([*examples, *pages]) if not leaks.found_in(text)]
    corpus.fillers = [corpus.add(text) for text in loose]
    corpus.fillers += [p for _, passages, _ in corpus.pairs["written"] for p in passages]
    return corpus


class Swapper:
    """Sentences -> others of the same shape: content words give way to neighbours in meaning."""

    def __init__(self, words: Sequence[str], vectors: Vectors) -> None:
        """Find each word's nearest ones among `words` by the teacher's unit vectors of them."""
        self._near: dict[str, list[str]] = {}
        for i in range(0, len(words), 1024):
            scores = vectors[i : i + 1024] @ vectors.T
            nearest = np.argsort(-scores, axis=1, kind="stable")[:, 1:9]
            for word, places in zip(words[i : i + 1024], nearest, strict=True):
                self._near[word] = [words[place] for place in places]

    def swap(self, text: str, draw: random.Random) -> str:
        """The text with about a third of its content words swapped."""

        def other(match: re.Match[str]) -> str:
            near = self._near.get(match[0].lower())
            return draw.choice(near) if near and draw.random() < 0.35 else match[0]

        return re.sub(r"[A-Za-z]{4,}", other, text)


def swappable(corpus: Corpus, known: Sequence[str]) -> list[str]:
    """The content words of a corpus among those that the teacher knows, its most frequent first."""
    used = {word for text in corpus.texts for word in words_of(text) if len(word) > 3}
    return [word for word in known if word in used][:12_000]


def add_swapped(corpus: Corpus, swapper: Swapper, copies: int) -> list[int]:
    """Add swapped copies of our own texts; returns their indices."""
    written = [i for query, passages, _ in corpus.pairs["written"] for i in (query, *passages)]
    leaks = Leaks()
    draw = random.Random(1)
    added = []
    for i in written:
        for _ in range(copies):
            text = swapper.swap(corpus.texts[i], draw)
            if text not in corpus.places and not leaks.found_in(text):
                added.append(corpus.add(text))
    return added
