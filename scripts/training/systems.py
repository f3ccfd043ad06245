"""The systems that the evaluation compares: each scores documents for queries."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import bm25s
import numpy as np
import numpy.typing as npt
import Stemmer
from sklearn.feature_extraction.text import TfidfVectorizer

from e5.corpora import Dtype, decode_vectors, encode_vectors
from e5.embedder import Embedder
from e5.settings import Settings
from e5.vectors import Vectors
from training.teacher import Teacher

Scores = npt.NDArray[np.float32]  # [num_queries, num_documents]; a larger score is better
# From queries, documents, and whether the task is symmetric, to scores.
System = Callable[[Sequence[str], Sequence[str], bool], Scores]
# Of 1000 documents with one bit for each dimension, so many are scored again in float16.
RESCORED = 40


def checkpoint(folder: Path) -> tuple[System, Embedder]:
    """Load a checkpoint folder by the project's own `Embedder`, with the settings that are set."""
    embedder = Embedder.load(replace(Settings.from_env(), weights=str(folder)))

    def score(queries: Sequence[str], documents: Sequence[str], symmetric: bool) -> Scores:
        return embedder.similarity(*_vectors(embedder, queries, documents, symmetric))

    return score, embedder


def stored_smaller(embedder: Embedder) -> dict[str, tuple[float, System]]:
    """The same checkpoint with vectors stored in fewer bytes: bytes a vector, and the system.

    As in a search, only documents are stored: queries lose at most dimensions, but no precision.
    """
    width = embedder.dimensions

    def system(encode: Callable[[Vectors], Vectors], dimensions: int = width) -> System:
        def score(queries: Sequence[str], documents: Sequence[str], symmetric: bool) -> Scores:
            query_vectors, document_vectors = _vectors(
                embedder, queries, documents, symmetric, dimensions
            )
            return embedder.similarity(query_vectors, encode(document_vectors))

        return score

    def rescored(queries: Sequence[str], documents: Sequence[str], symmetric: bool) -> Scores:
        query_vectors, document_vectors = _vectors(embedder, queries, documents, symmetric, width)
        coarse = embedder.similarity(query_vectors, _stored_as("binary")(document_vectors))
        exact = embedder.similarity(query_vectors, _stored_as("float16")(document_vectors))
        if symmetric:  # every pair is rescored
            return exact
        candidates = np.argsort(-coarse, axis=1)[:, :RESCORED]
        scores = coarse - 200  # lower than that of any candidate
        np.put_along_axis(scores, candidates, np.take_along_axis(exact, candidates, 1), 1)
        return scores

    return {
        "float32": (4 * width, system(lambda vectors: vectors)),
        "float16": (2 * width, system(_stored_as("float16"))),
        "float16, half the dimensions": (width, system(_stored_as("float16"), width // 2)),
        "float16, a quarter": (width / 2, system(_stored_as("float16"), width // 4)),
        "int8": (width, system(_stored_as("int8"))),
        "one bit": (width / 8, system(_stored_as("binary"))),
        f"one bit, best {RESCORED} rescored in float16": (width / 8 + 2 * width, rescored),
    }


def _stored_as(dtype: Dtype) -> Callable[[Vectors], Vectors]:
    """Encode and decode vectors as `embed_corpus` stores them."""
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
    """The teacher all-MiniLM-L6-v2 with all of its 384 dimensions."""
    model = Teacher()
    return lambda queries, documents, _: 100 * model.embed(queries) @ model.embed(documents).T


def bm25(queries: Sequence[str], documents: Sequence[str], _: bool) -> Scores:
    """BM25 of the given documents, with English stop words and the Snowball stemmer."""
    tokenize: Any = lambda texts: bm25s.tokenize(  # noqa: E731
        list(texts), stemmer=Stemmer.Stemmer("english"), return_ids=False, show_progress=False
    )
    index = bm25s.BM25()
    index.index(tokenize(documents), show_progress=False)
    return np.stack([index.get_scores(words) for words in tokenize(queries)])


def tf_idf(queries: Sequence[str], documents: Sequence[str], _: bool) -> Scores:
    """Cosines of TF-IDF vectors with English stop words, fitted on the given documents."""
    vectorizer = TfidfVectorizer(stop_words="english", sublinear_tf=True)
    columns = vectorizer.fit_transform(list(documents))
    scores: Scores = (vectorizer.transform(list(queries)) @ columns.T).toarray() * 100
    return scores
