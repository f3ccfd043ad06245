"""What each training step trains on: a pure function of the step's number.

There are three kinds of instruction, and so three kinds of target for the same text:

    search     (asymmetric tasks) a query's target leans towards the passages that answer it
    similar    (similarity, duplicates, translation) the target is the teacher's vector of the text
    topic      (classification, clustering) the target leans towards the centre of the text's topic

A document has no instruction, and the teacher's vector as its target. In the target of a long text
the first sentence has the largest weight.
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

NUM_TOPICS = 256
# How far a search query leans towards its answer, and a text towards its topic.
ANSWER_LEAN, TOPIC_LEAN = 1.5, 1.0
# The weights of a long text's first sentence, and of all its other sentences together.
FIRST_WEIGHT, REST_WEIGHT = 1.0, 0.8
# The number of short texts, of pairs, or of long texts with their queries in a batch.
SHORT_TEXTS, PAIRS, LONG_TEXTS = 192, 96, 32
# The share of the steps that each kind of batch has, in the main and in the final part.
KIND_SHARES = {"short": 0.36, "written": 0.22, "debian": 0.28, "wordnet": 0.05, "long": 0.09}
FINAL_KIND_SHARES = {"short": 0.7, "written": 0.05, "debian": 0.15, "wordnet": 0.0, "long": 0.1}


@dataclass(frozen=True)
class TrainingBatch:
    """The texts of one step and their targets.

    Attributes:
        token_ids: each text's ids, `<s>` and `</s>` included.
        targets: unit vectors, `[num_texts, hidden]`.
        answers: the row number of each query, and that of the text which answers it.
    """

    token_ids: list[list[int]]
    targets: Vectors
    answers: list[tuple[int, int]]


class BatchSampler:
    """Draws training batches from a labelled corpus."""

    def __init__(
        self, corpus: Corpus, labels: Vectors, copies: Sequence[int], raw: Tokenizer
    ) -> None:
        """Tokenise all texts once and find the topics.

        Args:
            corpus: the texts and pairs.
            labels: unit vectors of `corpus.texts`, `[num_texts, hidden]`.
            copies: indices of the copies with replaced words.
            raw: the student's tokenizer.
        """
        self._labels = labels
        encodings = raw.encode_batch_fast(corpus.texts, add_special_tokens=False)
        self._token_ids = [encoding.ids for encoding in encodings]
        self._pairs = corpus.pairs
        self._fillers = corpus.fillers
        self._groups: dict[str, list[int]] = {}
        for i, (_, _, group) in enumerate(corpus.pairs["written"]):
            self._groups.setdefault(group, []).append(i)
        means = MiniBatchKMeans(NUM_TOPICS, random_state=0, batch_size=4096, n_init=1).fit(labels)
        self._centres = unit(means.cluster_centers_.astype(np.float32))
        self._topics = means.labels_
        written = [p for query, passages, _ in corpus.pairs["written"] for p in (query, *passages)]
        wordnet = [passages[0] for _, passages, _ in corpus.pairs["wordnet"]]
        self._short = [*written * 3, *copies, *corpus.fillers, *wordnet]
        self._short_by_topic = self._grouped(self._short)
        self._pairs_by_topic = {
            kind: self._grouped([passages[0] for _, passages, _ in pairs], range(len(pairs)))
            for kind, pairs in corpus.pairs.items()
        }
        self._prompts = _prompts(corpus, raw)

    def batch(self, step: int, kind_shares: Mapping[str, float] = KIND_SHARES) -> TrainingBatch:
        """The batch of a step: the same for the same number and shares of the kinds."""
        rng = random.Random(step)
        kind = rng.choices(list(kind_shares), list(kind_shares.values()))[0]
        if kind == "short":
            return self._short_batch(rng)
        if kind == "long":
            return self._long_batch(rng)
        return self._pair_batch(rng, kind)

    def _short_batch(self, rng: random.Random) -> TrainingBatch:
        if rng.random() < 0.5:  # texts of similar meaning teach fine differences
            indices = _similar(rng, self._short_by_topic, SHORT_TEXTS, 16)
        else:
            indices = rng.choices(self._short, k=SHORT_TEXTS)
        token_ids, targets = [], []
        for index in dict.fromkeys(indices):
            kind = rng.choices(("document", "similar", "topic"), (0.7, 0.15, 0.15))[0]
            token_ids.append(self._with_prompt(rng, index, kind))
            target = self._labels[index]
            if kind == "topic":
                target = _unit(target + TOPIC_LEAN * self._centres[self._topics[index]])
            targets.append(target)
        return TrainingBatch(token_ids, np.stack(targets), [])

    def _pair_batch(self, rng: random.Random, kind: str) -> TrainingBatch:
        pairs = self._pairs[kind]
        if kind == "written":  # hard negatives: a word's other senses, a domain's other questions
            groups = rng.sample(sorted(self._groups), 40)
            chosen = [
                i
                for group in groups
                for i in rng.sample(self._groups[group], min(4, len(self._groups[group])))
            ]
            chosen = chosen[:PAIRS]
        else:
            chosen = _similar(rng, self._pairs_by_topic[kind], PAIRS, 24)
        token_ids, targets, answers = [], [], []
        for i in chosen:
            query, passages, _ = pairs[i]
            answer = rng.choice(passages)
            query_kind = rng.choices(("search", "similar", "document"), (0.7, 0.15, 0.15))[0]
            token_ids += [
                self._with_prompt(rng, query, query_kind),
                self._with_prompt(rng, answer, "document"),
            ]
            lean = ANSWER_LEAN if query_kind == "search" else 0
            targets += [self._query_target(query, passages, lean), self._labels[answer]]
            answers.append((len(token_ids) - 2, len(token_ids) - 1))
        return TrainingBatch(token_ids, np.stack(targets), answers)

    def _long_batch(self, rng: random.Random) -> TrainingBatch:
        token_ids, targets, answers = [], [], []
        for i in rng.sample(range(len(self._pairs["written"])), LONG_TEXTS):
            query, passages, _ = self._pairs["written"][i]
            first = rng.choice(passages)
            rest = rng.choices(self._fillers, k=rng.choice((1, 2, 3, 5, 8, 13, 20)))
            weights = np.array([FIRST_WEIGHT, *[REST_WEIGHT / len(rest)] * len(rest)], np.float32)
            body = [token for index in (first, *rest) for token in self._token_ids[index]]
            target = weights @ self._labels[[first, *rest]]
            token_ids += [self._with_prompt(rng, query, "search"), [1, *body, 2]]
            targets += [self._query_target(query, passages), _unit(target)]
            answers.append((len(token_ids) - 2, len(token_ids) - 1))
        return TrainingBatch(token_ids, np.stack(targets), answers)

    def _grouped(
        self, indices: Sequence[int], items: Sequence[int] | None = None
    ) -> list[list[int]]:
        """Group items by the topics of the texts at `indices`; without items, those indices."""
        groups: list[list[int]] = [[] for _ in range(NUM_TOPICS)]
        for index, item in zip(indices, items or indices, strict=True):
            groups[self._topics[index]].append(item)
        return [group for group in groups if group]

    def _with_prompt(self, rng: random.Random, index: int, kind: str) -> list[int]:
        """The ids of a text behind a prompt of this kind; documents have none."""
        prompt = rng.choice(self._prompts[kind]) if kind in self._prompts else []
        return [1, *prompt, *self._token_ids[index], 2]

    def _query_target(
        self, query: int, passages: Sequence[int], lean: float = ANSWER_LEAN
    ) -> Vectors:
        return _unit(self._labels[query] + lean * self._labels[passages].mean(axis=0))


def _similar(
    rng: random.Random, by_topic: Sequence[Sequence[int]], count: int, per_topic: int
) -> list[int]:
    """Draw `count` items of a few topics: they are similar in meaning, so hard to distinguish."""
    topics = rng.sample(range(len(by_topic)), len(by_topic))
    found: list[int] = []
    for topic in topics:
        found += rng.sample(by_topic[topic], min(per_topic, len(by_topic[topic])))
        if len(found) >= count:
            break
    return found[:count]


def _prompts(corpus: Corpus, raw: Tokenizer) -> dict[str, list[list[int]]]:
    """The ids of the prompts of each kind; half of those of two kinds are the usual prompt."""
    instructions: dict[str, list[str]] = {"search": [], "similar": [], "topic": []}
    for name, task in TASKS.items():
        if "Classification" in name or "Clustering" in name:
            instructions["topic"].append(task.instruction)
        else:
            instructions["similar" if task.symmetric else "search"].append(task.instruction)
    # Any other instruction that a caller may write means a search.
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
