"""The measures of the evaluation.

questions      150 queries, each with one right passage and three distractors that share its words
               in another sense: how often the right passage scores highest (37.5 by chance)
behind         the same with 200 words on other subjects after every passage
pairs          200 sentence pairs graded 0 to 5: Spearman's correlation of the scores and grades
answers        queries that the project wrote and that are held out from training, each searched
               among all their passages: how often one of its own two scores highest
titles         1000 Debian package titles, each searched among 1000 descriptions: recall@1 and MRR
same domain    how often a passage's nearest neighbour has the same domain
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import spearmanr

from e5.embedder import Embedder
from training.sources import Pair
from training.systems import Scores, System
from training.texts import split_written

HERE = Path(__file__).parent
# The columns that are means of scores. All others depend on the order of the scores only.
MEAN_COLUMNS = ("right", "above distractors")
TOPIC_TASK = "TwentyNewsgroupsClustering"


def read_items(name: str) -> list[dict[str, Any]]:
    """The items of an evaluation file."""
    return [json.loads(line) for line in (HERE / name).read_text().splitlines()]


def measure(system: System, titles: Sequence[Pair]) -> dict[str, Any]:
    """Take all measures that any system allows."""
    items = read_items("questions.jsonl")
    plain = _passage_scores(system, items, [""] * len(items))
    longer = _passage_scores(system, items, _fillers(items, 200))
    found = {
        "questions": int(_right(plain).sum()),
        "behind 200 words": int(_right(longer).sum()),
        "right": round(float(plain[:, 0].mean()), 1),
        "above distractors": round(float(plain[:, 0].mean() - plain[:, 1:].mean()), 1),
    }
    pairs = read_items("pairs.jsonl")
    first, second = ([pair[side] for pair in pairs] for side in ("a", "b"))
    grades = [pair["grade"] for pair in pairs]
    scores = np.diag(system(first, second, True))
    found["pairs"] = round(float(spearmanr(scores, grades).statistic), 3)
    found["answers R@1"] = _answers(system)
    if titles:
        ranks = _ranks(
            system([pair.query for pair in titles], [pair.passages[0] for pair in titles], False)
        )
        found["titles R@1"] = round(float((ranks == 1).mean()), 3)
        found["titles MRR"] = round(float((1 / ranks).mean()), 3)
    return found


def measure_tasks(embedder: Embedder) -> dict[str, Any]:
    """Measure what the task changes, for a checkpoint that reads instructions."""
    items = read_items("questions.jsonl")
    texts = [item["right"] for item in items]
    domains = np.array([item["domain"] for item in items])
    queries = [item["query"] for item in items]
    search, same = (
        embedder.encode_query(queries, task=f"{task}_query", normalize=True)
        for task in ("web_search", "sts")
    )
    return {
        "same domain, no task": _same_domain(embedder.encode_document(texts), domains, embedder),
        "same domain, topic task": _same_domain(
            embedder.encode_query(texts, task=TOPIC_TASK), domains, embedder
        ),
        "web_search_query x sts_query": round(100 * float((search * same).sum(axis=1).mean()), 1),
    }


def _answers(system: System) -> float:
    _, pairs = split_written()
    passages = [passage for pair in pairs for passage in pair.passages]
    owners = np.array([i for i, pair in enumerate(pairs) for _ in pair.passages])
    best = system([pair.query for pair in pairs], passages, False).argmax(axis=1)
    return round(float((owners[best] == np.arange(len(pairs))).mean()), 3)


def _passage_scores(system: System, items: list[dict[str, Any]], fillers: Sequence[str]) -> Scores:
    """Score each item's four passages, with the fillers after them: `[num_items, 4]`.

    The right passage stands in the first column.
    """
    passages = [
        f"{text} {filler}".strip()
        for item, filler in zip(items, fillers, strict=True)
        for text in (item["right"], *item["distractors"])
    ]
    scores = system([item["query"] for item in items], passages, False)
    return np.stack([row[4 * i : 4 * i + 4] for i, row in enumerate(scores)])


def _right(scores: Scores) -> Any:
    """Tell for each item whether the right passage scores strictly higher than all others."""
    return scores[:, 0] > scores[:, 1:].max(axis=1)


def _fillers(items: list[dict[str, Any]], num_words: int) -> list[str]:
    """For each item, join right passages of items of other domains, in a fixed order."""
    texts = [item["right"] for item in items]
    found = []
    for i in range(len(items)):
        words: list[str] = []
        step = 7
        while len(words) < num_words:
            words += texts[(i + step) % len(texts)].split()
            step += 7
        found.append(" ".join(words[:num_words]))
    return found


def _ranks(scores: Scores) -> Any:
    """The rank of each query's own document, which has the same index; ties count against it."""
    return (scores >= np.diag(scores)[:, None]).sum(axis=1)


def _same_domain(vectors: Any, domains: Any, embedder: Embedder) -> float:
    scores = embedder.similarity(vectors, vectors)
    np.fill_diagonal(scores, -np.inf)
    return round(float((domains[scores.argmax(axis=1)] == domains).mean()), 3)
