"""The systems under comparison, each a way to score documents for queries.

Knows no measure: `measures` asks, these answer.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import bm25s
import numpy as np
import numpy.typing as npt
import Stemmer
from sklearn.feature_extraction.text import TfidfVectorizer

from e5.corpora.shard import Dtype, decode_vectors, encode_vectors
from e5.embedder import Embedder
from e5.settings import Settings
from e5.vectors import Vectors
from training.teacher import Teacher

Scores = npt.NDArray[np.float32]  # [num_queries, num_documents], larger is nearer
# queries, documents, whether both are of one kind -> scores
System = Callable[[Sequence[str], Sequence[str], bool], Scores]
RESCORED = 40  # of 1000 documents, for one bit


def checkpoint(folder: Path) -> tuple[System, Embedder]:
    """Any checkpoint folder through the project's own `Embedder`."""
    embedder = Embedder.load(Settings(weights=str(folder)))

    def score(queries: Sequence[str], documents: Sequence[str], symmetric: bool) -> Scores:
        return embedder.similarity(*_vectors(embedder, queries, documents, symmetric))

    return score, embedder


def smaller(embedder: Embedder) -> dict[str, tuple[float, System]]:
    """The same checkpoint with vectors stored in fewer bytes: bytes a vector, and the system.

    Queries stay whole but for their dimensions, as in a search: only documents are stored.
    """
    width = embedder.dimensions

    def system(store: Callable[[Vectors], Vectors], dimensions: int = width) -> System:
        def score(queries: Sequence[str], documents: Sequence[str], symmetric: bool) -> Scores:
            asked, stored = _vectors(embedder, queries, documents, symmetric, dimensions)
            return embedder.similarity(asked, store(stored))

        return score

    def rescored(queries: Sequence[str], documents: Sequence[str], symmetric: bool) -> Scores:
        asked, stored = _vectors(embedder, queries, documents, symmetric, width)
        coarse = embedder.similarity(asked, _as("binary")(stored))
        exact = embedder.similarity(asked, _as("float16")(stored))
        if symmetric:  # every pair is looked at
            return exact
        candidates = np.argsort(-coarse, axis=1)[:, :RESCORED]
        scores = coarse - 200  # behind every candidate
        np.put_along_axis(scores, candidates, np.take_along_axis(exact, candidates, 1), 1)
        return scores

    return {
        "float32": (4 * width, system(lambda stored: stored)),
        "float16": (2 * width, system(_as("float16"))),
        "float16, half the dimensions": (width, system(_as("float16"), width // 2)),
        "float16, a quarter": (width / 2, system(_as("float16"), width // 4)),
        "int8": (width, system(_as("int8"))),
        "one bit": (width / 8, system(_as("binary"))),
        f"one bit, best {RESCORED} rescored in float16": (width / 8 + 2 * width, rescored),
    }


def _as(dtype: Dtype) -> Callable[[Vectors], Vectors]:
    """Vectors as they come back from where `embed_corpus` stores them."""
    return lambda vectors: decode_vectors(encode_vectors(vectors, dtype), dtype)


def _vectors(
    embedder: Embedder,
    queries: Sequence[str],
    documents: Sequence[str],
    symmetric: bool,
    dimensions: int | None = None,
) -> tuple[Vectors, Vectors]:
    if symmetric:
        first, second = (
            embedder.encode_query(list(side), task="sts_query", dimensions=dimensions)
            for side in (queries, documents)
        )
        return first, second
    return (
        embedder.encode_query(list(queries), task="web_search_query", dimensions=dimensions),
        embedder.encode_document(list(documents), dimensions=dimensions),
    )


def teacher() -> System:
    """all-MiniLM-L6-v2 at its full 384 dimensions."""
    model = Teacher()
    return lambda queries, documents, _: 100 * model.embed(queries) @ model.embed(documents).T


def bm25(queries: Sequence[str], documents: Sequence[str], _: bool) -> Scores:
    """BM25 with English stop words and the Snowball stemmer, on the documents at hand."""
    tokenize: Any = lambda texts: bm25s.tokenize(  # noqa: E731
        list(texts), stemmer=Stemmer.Stemmer("english"), return_ids=False, show_progress=False
    )
    index = bm25s.BM25()
    index.index(tokenize(documents), show_progress=False)
    return np.stack([index.get_scores(words) for words in tokenize(queries)])


def tf_idf(queries: Sequence[str], documents: Sequence[str], _: bool) -> Scores:
    """Cosine of TF-IDF vectors with English stop words, fitted on the documents at hand."""
    vectorizer = TfidfVectorizer(stop_words="english", sublinear_tf=True)
    columns = vectorizer.fit_transform(list(documents))
    scores: Scores = (vectorizer.transform(list(queries)) @ columns.T).toarray() * 100
    return scores
