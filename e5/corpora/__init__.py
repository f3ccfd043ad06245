"""Whole corpora: files of documents -> a folder of vectors -> an index -> search."""

from typing import TYPE_CHECKING

from e5.lazy import lazy_exports

if TYPE_CHECKING:
    from e5.corpora.cluster import Cluster
    from e5.corpora.corpus import Corpus
    from e5.corpora.formats import TextFormat
    from e5.corpora.hits import Hit
    from e5.corpora.index import Index
    from e5.corpora.loop import Loop
    from e5.corpora.run import Report, embed_corpus
    from e5.corpora.shard_folder import Recipe, ShardFolder

__all__ = [
    "Cluster",
    "Corpus",
    "Hit",
    "Index",
    "Loop",
    "Recipe",
    "Report",
    "ShardFolder",
    "TextFormat",
    "embed_corpus",
]

__getattr__, __dir__ = lazy_exports(
    __name__,
    {
        "Cluster": "e5.corpora.cluster",
        "Corpus": "e5.corpora.corpus",
        "Hit": "e5.corpora.hits",
        "Index": "e5.corpora.index",
        "Loop": "e5.corpora.loop",
        "Recipe": "e5.corpora.shard_folder",
        "Report": "e5.corpora.run",
        "ShardFolder": "e5.corpora.shard_folder",
        "TextFormat": "e5.corpora.formats",
        "embed_corpus": "e5.corpora.run",
    },
)
