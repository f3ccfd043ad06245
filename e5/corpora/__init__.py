"""Whole corpora: files of documents -> a folder of vectors -> an index -> search."""

from typing import TYPE_CHECKING

from e5.lazy import lazy_exports

if TYPE_CHECKING:
    from e5.corpora.cluster import Cluster as Cluster
    from e5.corpora.column_types import NAMED_TYPES as NAMED_TYPES
    from e5.corpora.corpus import Corpus as Corpus
    from e5.corpora.documents import PassageSize as PassageSize
    from e5.corpora.formats import TextFormat as TextFormat
    from e5.corpora.index import Hit as Hit
    from e5.corpora.index import Index as Index
    from e5.corpora.lance import IndexLimits as IndexLimits
    from e5.corpora.loop import Loop as Loop
    from e5.corpora.manifest import Manifest as Manifest
    from e5.corpora.plan import ROWS_PER_SHARD as ROWS_PER_SHARD
    from e5.corpora.row_sample import SampledRow as SampledRow
    from e5.corpora.row_sample import own_sample as own_sample
    from e5.corpora.row_sample import sample_rows as sample_rows
    from e5.corpora.shard import Dtype as Dtype
    from e5.corpora.shard import decode_vectors as decode_vectors
    from e5.corpora.shard import encode_vectors as encode_vectors
    from e5.corpora.shard_folder import DEAD_LETTERS as DEAD_LETTERS
    from e5.corpora.shard_folder import Recipe as Recipe
    from e5.corpora.shard_folder import ShardFolder as ShardFolder
    from e5.corpora.synchronize import Model as Model
    from e5.corpora.synchronize import Report as Report
    from e5.corpora.synchronize import Runner as Runner
    from e5.corpora.synchronize import Summary as Summary
    from e5.corpora.synchronize import embed_corpus as embed_corpus

__all__, __getattr__, __dir__ = lazy_exports(__name__)
