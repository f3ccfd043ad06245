"""The training corpus, made from the records of `sources`, and what is held out from it."""

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
from training.vocabulary import split_words

HERE = Path(__file__).parent
HELD_OUT = 1000  # Debian pairs for the evaluation
# A text is left out if it shares so many words in a row with a text of the evaluation.
SHARED_WORDS = 6


@dataclass
class Corpus:
    """Distinct texts and, by their indices, the pairs that they form.

    Attributes:
        texts: every text that the teacher labels.
        pairs: by source, the index of a query, those of its passages, and the pair's group.
        fillers: the indices of sentences from which long texts are built.
        left_out: the number of pairs that were left out because they hold evaluation text.
        index_by_text: the index of each text.
    """

    texts: list[str] = field(default_factory=list)
    pairs: dict[str, list[tuple[int, list[int], str]]] = field(default_factory=dict)
    fillers: list[int] = field(default_factory=list)
    left_out: int = 0
    index_by_text: dict[str, int] = field(default_factory=dict)

    def add(self, text: str) -> int:
        """Add a text if it is new, and return its index."""
        index = self.index_by_text.setdefault(text, len(self.texts))
        if index == len(self.texts):
            self.texts.append(text)
        return index

    def add_pairs(self, kind: str, pairs: Sequence[Pair], leaks: "LeakDetector") -> None:
        """Add the pairs none of whose texts holds text of the evaluation."""
        for pair in pairs:
            if any(leaks.found_in(text) for text in (pair.query, *pair.passages)):
                self.left_out += 1
                continue
            passages = [self.add(passage) for passage in pair.passages]
            self.pairs.setdefault(kind, []).append((self.add(pair.query), passages, pair.group))


class LeakDetector:
    """Finds text of the evaluation set, which must not be trained on."""

    def __init__(self, held_out: Sequence[Pair] = ()) -> None:
        """Remember every run of words of the evaluation files, and the held-out pairs' texts."""
        self._runs = {run for text in evaluation_texts() for run in _runs(text)}
        # Package descriptions share phrases, so only their whole texts count.
        self._whole_texts = {
            tuple(split_words(text)) for pair in held_out for text in (pair.query, *pair.passages)
        }

    def found_in(self, text: str) -> bool:
        """Whether a text shares a run of words with the evaluation, or is a held-out text."""
        words = tuple(split_words(text))
        return words in self._whole_texts or not self._runs.isdisjoint(_runs(text))


def evaluation_texts() -> list[str]:
    """Every sentence of the evaluation files."""
    found: list[str] = []
    for item in map(json.loads, (HERE / "questions.jsonl").read_text().splitlines()):
        found += [item["query"], item["right"], *item["distractors"]]
    for item in map(json.loads, (HERE / "pairs.jsonl").read_text().splitlines()):
        found += [item["a"], item["b"]]
    return found


def _runs(text: str) -> list[tuple[str, ...]]:
    """All runs of `SHARED_WORDS` words; for a shorter text, all its words."""
    words = split_words(text)
    if len(words) <= SHARED_WORDS:
        return [tuple(words)]
    return [tuple(words[i : i + SHARED_WORDS]) for i in range(len(words) - SHARED_WORDS + 1)]


def held_out_pairs(pairs: Sequence[Pair]) -> list[Pair]:
    """The Debian pairs of the evaluation: those whose titles have the lowest hashes.

    So they hardly depend on the snapshot.
    """
    return sorted(pairs, key=lambda pair: hashlib.sha256(pair.query.encode()).digest())[:HELD_OUT]


def split_written() -> tuple[list[Pair], list[Pair]]:
    """The project's own pairs, split into those to train on and those for the evaluation.

    One group in twenty is held out as a whole.
    """
    pairs = sources.written()
    groups = sorted({pair.group for pair in pairs})
    held_out = set(random.Random(0).sample(groups, len(groups) // 20))
    return (
        [pair for pair in pairs if pair.group not in held_out],
        [pair for pair in pairs if pair.group in held_out],
    )


def gather(snapshot: Path) -> Corpus:
    """Gather the training corpus from all sources, without the text of the evaluation."""
    corpus = Corpus()
    described = sources.descriptions(snapshot)
    held_out = held_out_pairs(described)
    leaks = LeakDetector(held_out)
    held_out_titles = {pair.query for pair in held_out}
    corpus.add_pairs("debian", [p for p in described if p.query not in held_out_titles], leaks)
    trained_on, _ = split_written()
    corpus.add_pairs("written", trained_on, leaks)
    wordnet, examples = [], []
    for words, definition, sentences in sources.definitions(snapshot):
        if sentences and words.islower():  # common senses: no names and no species
            wordnet.append(Pair(words, (definition,), "wordnet"))
        examples += [text for text in sentences if len(text.split()) > 3]
    corpus.add_pairs("wordnet", wordnet, leaks)
    pages = []
    for title, paragraphs in sources.help_pages(snapshot):
        parts = [part for text in paragraphs for part in sources.sentences(text)]
        pages += [title, *parts]
    loose = [text for text in dict.fromkeys([*examples, *pages]) if not leaks.found_in(text)]
    corpus.fillers = [corpus.add(text) for text in loose]
    corpus.fillers += [p for _, passages, _ in corpus.pairs["written"] for p in passages]
    return corpus


class WordReplacer:
    """Replaces content words of a sentence by words of similar meaning."""

    def __init__(self, words: Sequence[str], vectors: Vectors) -> None:
        """Find the nearest of `words` for each of them, by the teacher's unit vectors."""
        self._similar: dict[str, list[str]] = {}
        for i in range(0, len(words), 1024):
            scores = vectors[i : i + 1024] @ vectors.T
            nearest = np.argsort(-scores, axis=1, kind="stable")[:, 1:9]
            for word, indices in zip(words[i : i + 1024], nearest, strict=True):
                self._similar[word] = [words[index] for index in indices]

    def replace(self, text: str, rng: random.Random) -> str:
        """Replace about a third of a text's content words."""

        def replacement(match: re.Match[str]) -> str:
            similar = self._similar.get(match[0].lower())
            return rng.choice(similar) if similar and rng.random() < 0.35 else match[0]

        return re.sub(r"[A-Za-z]{4,}", replacement, text)


def replaceable_words(corpus: Corpus, known: Sequence[str]) -> list[str]:
    """The content words of a corpus that are among `known`, in the order of `known`."""
    used = {word for text in corpus.texts for word in split_words(text) if len(word) > 3}
    return [word for word in known if word in used][:12_000]


def add_copies(corpus: Corpus, replacer: WordReplacer, copies: int) -> list[int]:
    """Add copies of the project's own texts, with words replaced, and return their indices."""
    written = [i for query, passages, _ in corpus.pairs["written"] for i in (query, *passages)]
    leaks = LeakDetector()
    rng = random.Random(1)
    added = []
    for i in written:
        for _ in range(copies):
            text = replacer.replace(corpus.texts[i], rng)
            if text not in corpus.index_by_text and not leaks.found_in(text):
                added.append(corpus.add(text))
    return added
