"""A table finds what an exact search finds, however it has grown."""

from pathlib import Path

import pytest
from corpus_tools import (
    clustered,
    recall,
    write_shards,
)

from e5.corpora.index import Index
from e5.corpora.lance import WORDS, probes
from e5.corpora.shard_folder import ShardFolder


def names(index: Index) -> list[str]:
    """Of the indexes of vectors."""
    found = [made.name for made in index._table._table.list_indices()]
    return sorted(name for name in found if name != WORDS)


@pytest.mark.slow
def test_few_partitions_of_many_are_enough(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("e5.corpora.lance.FLAT_BELOW", 1)
    monkeypatch.setattr("e5.corpora.lance.PARTITION", 64)
    vectors = clustered(20_100, 64)
    write_shards(tmp_path / "out", vectors[:20_000])
    index = Index.build(ShardFolder(str(tmp_path / "out")), str(tmp_path / "index"))
    partitions = 20_000 // 64
    assert index._table.partitions == partitions
    assert probes(partitions) < partitions / 4
    assert recall(index, vectors[:20_000], vectors[20_000:]) >= 0.99
    assert len(index.search(vectors[0], 10_000)) == 10_000


def test_an_index_that_a_kill_left_beside_a_newer_one_goes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("e5.corpora.lance.FLAT_BELOW", 1)
    write_shards(tmp_path / "out", clustered(1_200, 64))
    out, where = ShardFolder(str(tmp_path / "out")), str(tmp_path / "index")
    monkeypatch.setattr("e5.corpora.lance.PARTITION", 600)
    table = Index.build(out, where)._table._table
    monkeypatch.setattr("e5.corpora.lance.PARTITION", 60)
    with monkeypatch.context() as patch:

        def killed(*_: object) -> None:
            raise KeyboardInterrupt

        patch.setattr(type(table), "drop_index", killed)
        with pytest.raises(KeyboardInterrupt):
            Index.build(out, where)
    assert len(names(Index(where))) == 2
    assert names(Index.build(out, where)) == ["partitions_20"]


def test_dimensions_that_have_no_index_are_searched_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("e5.corpora.lance.FLAT_BELOW", 1)
    vectors = clustered(600, 50)
    write_shards(tmp_path / "out", vectors)
    index = Index.build(ShardFolder(str(tmp_path / "out")), str(tmp_path / "index"))
    assert index.is_flat
    assert index.search(vectors[3], 1)[0].id == "3"


def test_an_index_that_its_table_has_outgrown_is_made_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("e5.corpora.lance.FLAT_BELOW", 1)
    monkeypatch.setattr("e5.corpora.lance.PARTITION", 300)
    vectors = clustered(6_000, 64)
    out, where = ShardFolder(str(tmp_path / "out")), str(tmp_path / "index")
    for first, last, partitions in ((0, 600, 2), (600, 1_200, 2), (1_200, 6_000, 20)):
        write_shards(tmp_path / "out", vectors[first:last], first=first)
        index = Index.build(out, where)
        assert names(index) == [f"partitions_{partitions}"]
    assert recall(index, vectors, vectors[::300] * 1.01) >= 0.99
