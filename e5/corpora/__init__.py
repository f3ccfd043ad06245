"""Whole corpora: files of documents -> a folder of vectors -> an index -> search."""

from typing import TYPE_CHECKING

from e5.lazy import lazy_exports

if TYPE_CHECKING:
    from e5.corpora.cluster import Cluster
    from e5.corpora.corpus import Corpus
    from e5.corpora.documents import PassageSize
    from e5.corpora.formats import TextFormat
    from e5.corpora.index import Hit, Index
    from e5.corpora.lance import IndexLimits
    from e5.corpora.loop import Loop
    from e5.corpora.plan import ROWS_PER_SHARD
    from e5.corpora.shard import Dtype
    from e5.corpora.shard_folder import DEAD_LETTERS, Recipe, ShardFolder
    from e5.corpora.synchronize import Model, Report, Runner, Summary, embed_corpus

__all__ = [
    "DEAD_LETTERS",
    "ROWS_PER_SHARD",
    "Cluster",
    "Corpus",
    "Dtype",
    "Hit",
    "Index",
    "IndexLimits",
    "Loop",
    "Model",
    "PassageSize",
    "Recipe",
    "Report",
    "Runner",
    "ShardFolder",
    "Summary",
    "TextFormat",
    "embed_corpus",
]

__getattr__, __dir__ = lazy_exports(
    __name__,
    {
        "DEAD_LETTERS": "e5.corpora.shard_folder",
        "ROWS_PER_SHARD": "e5.corpora.plan",
        "Cluster": "e5.corpora.cluster",
        "Corpus": "e5.corpora.corpus",
        "Dtype": "e5.corpora.shard",
        "Hit": "e5.corpora.index",
        "Index": "e5.corpora.index",
        "IndexLimits": "e5.corpora.lance",
        "Loop": "e5.corpora.loop",
        "Model": "e5.corpora.synchronize",
        "PassageSize": "e5.corpora.documents",
        "Recipe": "e5.corpora.shard_folder",
        "Report": "e5.corpora.synchronize",
        "Runner": "e5.corpora.synchronize",
        "ShardFolder": "e5.corpora.shard_folder",
        "Summary": "e5.corpora.synchronize",
        "TextFormat": "e5.corpora.formats",
        "embed_corpus": "e5.corpora.synchronize",
    },
)
