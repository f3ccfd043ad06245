"""An index grows with its shards, knows its model, and refuses every other."""

import json
from pathlib import Path

import numpy as np
import pytest
from corpus_tools import (
    MODEL,
    clustered,
    embed,
    recall,
    texts,
    write_corpus,
    write_shards,
)

from e5.corpora.index import Index
from e5.corpora.shards import ShardFolder
from e5.embedder import Embedder
from e5.errors import InputError
from e5.vectors import cosine_scores


@pytest.mark.slow
@pytest.mark.parametrize(("count", "dimensions"), [(20_000, 192), (3_000, 4096)])
def test_an_index_finds_what_an_exact_search_finds(
    count: int, dimensions: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    vectors = clustered(count + 50, dimensions)
    write_shards(tmp_path / "out", vectors[:count])
    monkeypatch.setattr("e5.corpora.lance.FLAT_BELOW", 1)
    index = Index.build(ShardFolder(str(tmp_path / "out")), str(tmp_path / "index"))
    assert not index.is_flat
    assert len(index) == count
    for top in (1, 3, 10, 30):
        assert recall(index, vectors[:count], vectors[count:], top) >= 0.99


def test_vectors_of_a_corpus_beside_an_index_do_not_change_the_index(
    tmp_path: Path, embedder: Embedder
) -> None:
    write_shards(tmp_path / "out", clustered(10, 64))
    where = tmp_path / "index"
    Index.build(ShardFolder(str(tmp_path / "out")), str(where))
    embed(write_corpus(tmp_path / "other" / "a.jsonl", texts(5)), where, embedder)
    Index(str(where)).check_model(MODEL)


def test_a_small_table_is_searched_whole_and_scores_are_cosines(tmp_path: Path) -> None:
    vectors = clustered(300, 64)
    write_shards(tmp_path / "out", vectors, rows=100)
    index = Index.build(ShardFolder(str(tmp_path / "out")), str(tmp_path / "index"))
    assert index.is_flat
    query = clustered(1, 64, seed=1)
    expected = cosine_scores(query, vectors)[0]
    hits = index.search(query[0], 300)
    assert [int(hit.id) for hit in hits[:10]] == list(np.argsort(-expected)[:10])
    assert sorted(int(hit.id) for hit in hits) == list(range(300))
    for hit in hits:
        assert hit.text == f"text {hit.id}"
        assert hit.score == pytest.approx(expected[int(hit.id)], abs=0.1)


@pytest.mark.parametrize("flat_below", [1, 2**24])
def test_new_shards_are_added_once(
    flat_below: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("e5.corpora.lance.FLAT_BELOW", flat_below)
    vectors = clustered(6_000, 64)
    write_shards(tmp_path / "out", vectors[:4_000], rows=1_000)
    out, where = ShardFolder(str(tmp_path / "out")), str(tmp_path / "index")
    assert len(Index.build(out, where)) == 4_000
    assert len(Index.build(out, where)) == 4_000
    write_shards(tmp_path / "out", vectors[4_000:], rows=1_000, first=4_000)
    grown = Index.build(out, where)
    assert len(grown) == 6_000
    assert recall(grown, vectors, vectors[::300] * 1.01) >= 0.99
    assert recall(Index(where), vectors, vectors[4_000::200]) >= 0.99


def test_a_build_that_was_cut_off_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    vectors = clustered(500, 64)
    write_shards(tmp_path / "out", vectors, rows=100)
    out, where = ShardFolder(str(tmp_path / "out")), str(tmp_path / "index")
    monkeypatch.setattr("e5.corpora.index.SHARDS_AT_ONCE", 2)
    last = sorted((tmp_path / "out").glob("*.parquet"))[-1]
    whole = last.read_bytes()
    last.write_bytes(whole[:100])
    with pytest.raises(InputError, match=f"^{last.name}: received a shard that cannot be read"):
        Index.build(out, where)
    assert len(Index(where)) == 400
    last.write_bytes(whole)
    index = Index.build(out, where)
    assert len(index) == 500
    assert {hit.id for hit in index.search(vectors[0], 500)} == {str(i) for i in range(500)}


def test_vectors_of_another_kind_are_refused(tmp_path: Path) -> None:
    write_shards(tmp_path / "out", clustered(10, 64))
    where = str(tmp_path / "index")
    Index.build(ShardFolder(str(tmp_path / "out")), where)
    (tmp_path / "b").mkdir()
    write_shards(tmp_path / "b" / "out", clustered(10, 32))
    with pytest.raises(InputError, match=r"made with dimensions 32; .* holds 64: name another"):
        Index.build(ShardFolder(str(tmp_path / "b" / "out")), where)
    manifest = tmp_path / "out" / "manifest.json"
    manifest.write_text(manifest.read_text().replace("0123456789ab", "ba9876543210"))
    with pytest.raises(InputError, match=r"made-up@ba9876543210'; .* holds 'made-up@0123456789ab'"):
        Index.build(ShardFolder(str(tmp_path / "out")), where)


def test_places_that_hold_neither_shards_nor_an_index_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"^shards: received .*; embed a corpus into it first"):
        Index.build(ShardFolder(str(tmp_path)), str(tmp_path / "index"))
    write_shards(tmp_path / "out", clustered(10, 64))
    before = sorted((tmp_path / "out").iterdir())
    for place in (tmp_path, tmp_path / "out", tmp_path / "nowhere"):
        with pytest.raises(InputError, match=r"^index: received .*; build one from a folder"):
            Index(str(place))
    assert sorted((tmp_path / "out").iterdir()) == before
    assert not (tmp_path / "nowhere").exists()


def test_another_corpus_with_files_of_the_same_names_is_refused(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        write_shards(tmp_path / name / "out", clustered(10, 64))
    manifest = tmp_path / "b" / "out" / "manifest.json"
    content = json.loads(manifest.read_text())
    content["files"]["from-0.jsonl"] = "another"
    manifest.write_text(json.dumps(content))
    where = str(tmp_path / "index")
    Index.build(ShardFolder(str(tmp_path / "a" / "out")), where)
    with pytest.raises(InputError, match=r"^from-0\.jsonl: received a file that has changed"):
        Index.build(ShardFolder(str(tmp_path / "b" / "out")), where)


@pytest.mark.parametrize("rule", ["text_columns", "id_column", "rows_per_shard", "task"])
def test_shards_of_the_same_names_made_by_other_rules_are_refused(
    rule: str, tmp_path: Path
) -> None:
    write_shards(tmp_path / "out", clustered(10, 64))
    out, where = ShardFolder(str(tmp_path / "out")), str(tmp_path / "index")
    Index.build(out, where)
    other = ["another"] if rule == "text_columns" else "another"
    path = tmp_path / "out" / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {rule: other}))
    with pytest.raises(InputError, match=f"made with {rule} .*another'.*; .*name another index"):
        Index.build(out, where)


def test_a_damaged_index_is_named_with_a_remedy(tmp_path: Path) -> None:
    vectors = clustered(60, 16)
    write_shards(tmp_path / "out", vectors[:50])
    place = str(tmp_path / "index")
    index = Index.build(ShardFolder(str(tmp_path / "out")), place)
    for file in (tmp_path / "index").rglob("*.lance"):
        if file.is_file():
            file.unlink()
    for attempt in (
        lambda: index.search(vectors[50], 3),
        lambda: Index.build(ShardFolder(index.location), place),
    ):
        with pytest.raises((OSError, InputError)) as caught:
            attempt()
        assert "\n" not in str(caught.value)
    with pytest.raises(OSError, match=r"index: received '.*' from LanceDB; .*build the index anew"):
        index.search(vectors[50], 3)


def test_a_table_that_no_manifest_describes_is_left_alone(tmp_path: Path) -> None:
    write_shards(tmp_path / "out", clustered(50, 16))
    Index.build(ShardFolder(str(tmp_path / "out")), str(tmp_path / "index"))
    (tmp_path / "index" / "index.json").unlink()
    with pytest.raises(
        InputError, match=r"^index: received .*a table of documents and no index\.json"
    ):
        Index.build(ShardFolder(str(tmp_path / "out")), str(tmp_path / "index"))


def test_an_index_of_nothing_binds_nobody(tmp_path: Path) -> None:
    write_shards(tmp_path / "none", clustered(50, 16)[:0])
    Index.build(ShardFolder(str(tmp_path / "none")), str(tmp_path / "index"))
    write_shards(tmp_path / "out", clustered(50, 24))
    assert len(Index.build(ShardFolder(str(tmp_path / "out")), str(tmp_path / "index"))) == 50
