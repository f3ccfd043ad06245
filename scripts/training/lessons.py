"""What each training step shows: a pure function of the step's number.

Three kinds of instruction, for three kinds of vector of one and the same text:

    search     (asymmetric tasks) a query leans towards what answers it
    similar    (similarity, duplicates, translation) a text as it is
    topic      (classification, clustering) a text leans towards its topic's centre

and a document without an instruction as it is. A long text is its first sentence above all.
"""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from sklearn.cluster import MiniBatchKMeans
from tokenizers import Tokenizer

from e5.prompts import TASKS, query_prompt
from e5.vectors import Vectors
from training.student import unit
from training.texts import Corpus

TOPICS = 256
ANSWER, TOPIC = 1.5, 1.0  # how far a search query leans to its answer, a text to its topic
LEAD, REST = 1.0, 0.8  # weights of a long text's first sentence and of all others together
SHORT, PAIRS, LONG = 192, 96, 32  # texts, pairs, long texts (with their queries) a step
KINDS = {"short": 0.36, "written": 0.22, "debian": 0.28, "wordnet": 0.05, "long": 0.09}
LAST_KINDS = {"short": 0.7, "written": 0.05, "debian": 0.15, "wordnet": 0.0, "long": 0.1}


@dataclass(frozen=True)
class Lesson:
    """One step's texts and where they shall lie.

    Attributes:
        token_ids: each text's ids, `<s>` and `</s>` included.
        targets: unit vectors, `[num_texts, hidden]`.
        answers: rows of queries, and the row that answers each.
    """

    token_ids: list[list[int]]
    targets: Vectors
    answers: list[tuple[int, int]]


class Lessons:
    """All of a corpus, labelled, ready to be drawn from."""

    def __init__(
        self, corpus: Corpus, labels: Vectors, swapped: Sequence[int], raw: Tokenizer
    ) -> None:
        """Tokenise everything once and find the topics.

        Args:
            corpus: the texts and pairs.
            labels: unit vectors of `corpus.texts`, `[num_texts, hidden]`.
            swapped: indices of the swapped copies.
            raw: the student's tokenizer.
        """
        self._labels = labels
        bodies = raw.encode_batch_fast(corpus.texts, add_special_tokens=False)
        self._bodies = [body.ids for body in bodies]
        self._pairs = corpus.pairs
        self._fillers = corpus.fillers
        self._groups: dict[str, list[int]] = {}
        for i, (_, _, group) in enumerate(corpus.pairs["written"]):
            self._groups.setdefault(group, []).append(i)
        means = MiniBatchKMeans(TOPICS, random_state=0, batch_size=4096, n_init=1).fit(labels)
        self._centres = unit(means.cluster_centers_.astype(np.float32))
        self._topic = means.labels_
        written = [p for query, passages, _ in corpus.pairs["written"] for p in (query, *passages)]
        wordnet = [passages[0] for _, passages, _ in corpus.pairs["wordnet"]]
        self._short = [*written * 3, *swapped, *corpus.fillers, *wordnet]
        self._short_by_topic = self._grouped(self._short)
        self._pairs_by_topic = {
            kind: self._grouped([passages[0] for _, passages, _ in pairs], range(len(pairs)))
            for kind, pairs in corpus.pairs.items()
        }
        self._prompts = _prompts(corpus, raw)

    def lesson(self, step: int, kinds: Mapping[str, float] = KINDS) -> Lesson:
        """The texts of a step, alike for the same number; `kinds` says how often which."""
        draw = random.Random(step)
        kind = draw.choices(list(kinds), list(kinds.values()))[0]
        if kind == "short":
            return self._short_lesson(draw)
        if kind == "long":
            return self._long_lesson(draw)
        return self._pair_lesson(draw, kind)

    def _short_lesson(self, draw: random.Random) -> Lesson:
        if draw.random() < 0.5:  # near in meaning: fine differences are learned here
            places = _near(draw, self._short_by_topic, SHORT, 16)
        else:
            places = draw.choices(self._short, k=SHORT)
        places = list(dict.fromkeys(places))
        ids, targets = [], []
        for place in places:
            kind = draw.choices(("bare", "similar", "topic"), (0.7, 0.15, 0.15))[0]
            ids.append(self._ids(draw, place, kind))
            targets.append(self._target(place, kind))
        return Lesson(ids, np.stack(targets), [])

    def _pair_lesson(self, draw: random.Random, kind: str) -> Lesson:
        pairs = self._pairs[kind]
        if kind == "written":  # other senses of a word, other questions of a domain: hard negatives
            groups = draw.sample(sorted(self._groups), 40)
            chosen = [
                i
                for group in groups
                for i in draw.sample(self._groups[group], min(4, len(self._groups[group])))
            ]
            chosen = chosen[:PAIRS]
        else:
            chosen = _near(draw, self._pairs_by_topic[kind], PAIRS, 24)
        ids, targets, answers = [], [], []
        for i in chosen:
            query, passages, _ = pairs[i]
            answer = draw.choice(passages)
            side = draw.choices(("search", "similar", "bare"), (0.7, 0.15, 0.15))[0]
            ids += [self._ids(draw, query, side), self._ids(draw, answer, "bare")]
            lean = ANSWER * self._labels[passages].mean(axis=0) if side == "search" else 0
            targets += [_unit(self._labels[query] + lean), self._labels[answer]]
            answers.append((len(ids) - 2, len(ids) - 1))
        return Lesson(ids, np.stack(targets), answers)

    def _long_lesson(self, draw: random.Random) -> Lesson:
        ids, targets, answers = [], [], []
        for i in draw.sample(range(len(self._pairs["written"])), LONG):
            query, passages, _ = self._pairs["written"][i]
            lead = draw.choice(passages)
            rest = draw.choices(self._fillers, k=draw.choice((1, 2, 3, 5, 8, 13, 20)))
            weights = np.array([LEAD, *[REST / len(rest)] * len(rest)], np.float32)
            body = [token for place in (lead, *rest) for token in self._bodies[place]]
            target = weights @ self._labels[[lead, *rest]]
            ids += [self._ids(draw, query, "search"), [1, *body, 2]]
            lean = ANSWER * self._labels[passages].mean(axis=0)
            targets += [_unit(self._labels[query] + lean), _unit(target)]
            answers.append((len(ids) - 2, len(ids) - 1))
        return Lesson(ids, np.stack(targets), answers)

    def _grouped(
        self, places: Sequence[int], items: Sequence[int] | None = None
    ) -> list[list[int]]:
        """Items (the places themselves) by the topics of their places."""
        groups: list[list[int]] = [[] for _ in range(TOPICS)]
        for place, item in zip(places, items or places, strict=True):
            groups[self._topic[place]].append(item)
        return [group for group in groups if group]

    def _ids(self, draw: random.Random, place: int, kind: str) -> list[int]:
        prompt = draw.choice(self._prompts[kind]) if kind in self._prompts else []
        return [1, *prompt, *self._bodies[place], 2]

    def _target(self, place: int, kind: str) -> Vectors:
        target: Vectors = self._labels[place]
        if kind == "topic":
            target = _unit(target + TOPIC * self._centres[self._topic[place]])
        return target


def _near(
    draw: random.Random, by_topic: Sequence[Sequence[int]], count: int, of_each: int
) -> list[int]:
    """Some items of a few topics: near each other in meaning, and so hard to tell apart."""
    topics = draw.sample(range(len(by_topic)), len(by_topic))
    found: list[int] = []
    for topic in topics:
        found += draw.sample(by_topic[topic], min(of_each, len(by_topic[topic])))
        if len(found) >= count:
            break
    return found[:count]


def _prompts(corpus: Corpus, raw: Tokenizer) -> dict[str, list[list[int]]]:
    """Ids of the prompts that ask for each kind of vector; half of them the kind's usual one."""
    instructions: dict[str, list[str]] = {"search": [], "similar": [], "topic": []}
    for name, task in TASKS.items():
        if "Classification" in name or "Clustering" in name:
            instructions["topic"].append(task.instruction)
        else:
            instructions["similar" if task.symmetric else "search"].append(task.instruction)
    # Whatever else a caller may write as an instruction is a search.
    instructions["search"] += [corpus.texts[i] for i in random.Random(2).sample(corpus.fillers, 15)]
    for kind, usual in (("search", "web_search_query"), ("similar", "sts_query")):
        instructions[kind] += [TASKS[usual].instruction] * len(instructions[kind])
    return {
        kind: [raw.encode(query_prompt(text, ""), add_special_tokens=False).ids for text in texts]
        for kind, texts in instructions.items()
    }


def _unit(vector: Vectors) -> Vectors:
    scaled: Vectors = unit(vector[None])[0]
    return scaled
