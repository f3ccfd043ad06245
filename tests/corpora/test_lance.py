"""A table finds what an exact search finds, however it has grown."""

import subprocess
import sys
from pathlib import Path

import pytest
from corpus_tools import clustered, recall, write_shards

from e5.corpora.index import Index
from e5.corpora.lance import KEYWORD_INDEX, IndexLimits, probes
from e5.corpora.shard_folder import ShardFolder


def names(index: Index) -> list[str]:
    """Names of the indexes of vectors."""
    found = [made.name for made in index._table._table.list_indices()]
    return sorted(name for name in found if name != KEYWORD_INDEX)


@pytest.mark.slow  # it starts a process, because LanceDB reads its settings when it is imported
def test_making_a_table_warns_of_nothing(tmp_path: Path) -> None:
    write_shards(tmp_path / "out", clustered(10, 64))
    command = [sys.executable, "-m", "e5", "build-index", "out", "index"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert "WARN" not in done.stderr


@pytest.mark.slow
def test_a_search_of_few_partitions_finds_what_an_exact_one_finds(tmp_path: Path) -> None:
    vectors = clustered(10_100, 64)
    write_shards(tmp_path / "out", vectors[:10_000])
    limits = IndexLimits(min_floats=1, partition_size=32)
    index = Index.build(ShardFolder(str(tmp_path / "out")), str(tmp_path / "index"), limits)
    partitions = 10_000 // 32
    assert index._table.partitions == partitions
    assert probes(partitions) < partitions / 4
    assert recall(index, vectors[:10_000], vectors[10_000:]) >= 0.99
    assert len(index.search(vectors[0], 5_000)) == 5_000


def test_an_index_that_a_kill_left_beside_a_newer_one_is_deleted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_shards(tmp_path / "out", clustered(1_200, 64))
    out, location = ShardFolder(str(tmp_path / "out")), str(tmp_path / "index")
    first = IndexLimits(min_floats=1, partition_size=600)
    table = Index.build(out, location, first)._table._table
    limits = IndexLimits(min_floats=1, partition_size=60)
    with monkeypatch.context() as patch:

        def killed(*_: object) -> None:
            raise KeyboardInterrupt

        patch.setattr(type(table), "drop_index", killed)
        with pytest.raises(KeyboardInterrupt):
            Index.build(out, location, limits)
    assert len(names(Index(location))) == 2
    assert names(Index.build(out, location, limits)) == ["partitions_20"]


def test_dimensions_that_have_no_index_are_searched_whole(tmp_path: Path) -> None:
    vectors = clustered(600, 50)
    write_shards(tmp_path / "out", vectors)
    out, limits = ShardFolder(str(tmp_path / "out")), IndexLimits(min_floats=1)
    index = Index.build(out, str(tmp_path / "index"), limits)
    assert index.is_flat
    assert index.search(vectors[3], 1)[0].id == "3"


@pytest.mark.slow
def test_an_index_that_its_table_has_outgrown_is_made_anew(tmp_path: Path) -> None:
    limits = IndexLimits(min_floats=1, partition_size=300)
    vectors = clustered(6_000, 64)
    out, location = ShardFolder(str(tmp_path / "out")), str(tmp_path / "index")
    for first, last, partitions in ((0, 600, 2), (600, 1_200, 2), (1_200, 6_000, 20)):
        write_shards(tmp_path / "out", vectors[first:last], first=first)
        index = Index.build(out, location, limits)
        assert names(index) == [f"partitions_{partitions}"]
    assert recall(index, vectors, vectors[::300] * 1.01) >= 0.99


def test_of_few_partitions_all_are_searched_and_of_many_a_smaller_share() -> None:
    assert (probes(10), probes(10_000)) == (20, 400)
