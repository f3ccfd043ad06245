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
from mini.teacher import Teacher
from sklearn.feature_extraction.text import TfidfVectorizer

from e5.embedder import Embedder
from e5.settings import Settings

Scores = npt.NDArray[np.float32]  # [num_queries, num_documents], larger is nearer
# queries, documents, whether both are of one kind -> scores
System = Callable[[Sequence[str], Sequence[str], bool], Scores]


def checkpoint(folder: Path) -> tuple[System, Embedder]:
    """Any checkpoint folder through the project's own `Embedder`."""
    embedder = Embedder.load(Settings(weights=str(folder)))

    def score(queries: Sequence[str], documents: Sequence[str], symmetric: bool) -> Scores:
        if symmetric:
            return embedder.similarity(
                *(
                    embedder.encode_query(list(side), task="sts_query")
                    for side in (queries, documents)
                )
            )
        return embedder.similarity(
            embedder.encode_query(list(queries), task="web_search_query"),
            embedder.encode_document(list(documents)),
        )

    return score, embedder


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
