"""An index grows with its shards, knows its model, and refuses every other."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from checkpoints import load
from corpus_tools import (
    MODEL,
    ROOT,
    clustered,
    embed,
    mirror,
    recall,
    texts,
    write_corpus,
    write_rows,
    write_shard,
    write_shards,
)

from e5.corpora.corpus import Corpus
from e5.corpora.documents import Document, PassageSize
from e5.corpora.index import Index
from e5.corpora.lance import IndexLimits
from e5.corpora.shard import Dtype
from e5.corpora.shard_folder import Recipe, ShardFolder
from e5.embedder import Embedder
from e5.errors import InputError
from e5.vectors import cosine_scores


@pytest.mark.slow
@pytest.mark.parametrize(("count", "dimensions"), [(8_000, 192), (1_000, 4096)])
def test_an_index_finds_what_an_exact_search_finds(
    count: int, dimensions: int, tmp_path: Path
) -> None:
    vectors = clustered(count + 50, dimensions)
    write_shards(tmp_path / "out", vectors[:count])
    limits = IndexLimits(min_floats=1, partition_size=count // 4)
    index = Index.build(ShardFolder(str(tmp_path / "out")), str(tmp_path / "index"), limits)
    assert not index.is_flat
    assert len(index) == count
    for top in (1, 3, 10, 30):
        assert recall(index, vectors[:count], vectors[count:], top) >= 0.99


def test_vectors_of_a_corpus_beside_an_index_do_not_change_the_index(
    tmp_path: Path, embedder: Embedder
) -> None:
    write_shards(tmp_path / "out", clustered(10, 64))
    location = tmp_path / "index"
    Index.build(ShardFolder(str(tmp_path / "out")), str(location))
    embed(write_corpus(tmp_path / "other" / "a.jsonl", texts(5)), location, embedder)
    Index(str(location)).check_model(MODEL)


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


@pytest.mark.slow
@pytest.mark.parametrize("min_floats", [1, 2**24])
def test_new_shards_are_added_once(min_floats: int, tmp_path: Path) -> None:
    vectors = clustered(6_000, 64)
    write_shards(tmp_path / "out", vectors[:4_000], rows=1_000)
    out, location = ShardFolder(str(tmp_path / "out")), str(tmp_path / "index")
    limits = IndexLimits(min_floats=min_floats)
    assert len(Index.build(out, location, limits)) == 4_000
    assert len(Index.build(out, location, limits)) == 4_000
    write_shards(tmp_path / "out", vectors[4_000:], rows=1_000, first=4_000)
    grown = Index.build(out, location, limits)
    assert len(grown) == 6_000
    assert recall(grown, vectors, vectors[::300] * 1.01) >= 0.99
    assert recall(Index(location), vectors, vectors[4_000::200]) >= 0.99


def test_changed_shards_are_replaced_and_deleted_ones_removed(tmp_path: Path) -> None:
    vectors = clustered(50, 16)
    write_shards(tmp_path / "out", vectors[:40], rows=10)
    out, location = ShardFolder(str(tmp_path / "out")), str(tmp_path / "index")
    Index.build(out, location)
    documents = [Document(str(i), f"new {i}") for i in (10, 12, 45)]
    write_shard(out, "part-000001.parquet", documents, -vectors[[10, 12, 45]])
    (tmp_path / "out" / "part-000003.parquet").unlink()
    index = Index.build(out, location)
    expected = {str(i) for i in [*range(10), 10, 12, 45, *range(20, 30)]}
    hits = index.search(-vectors[12], 100)
    assert sorted(hit.id for hit in hits) == sorted(expected)
    assert (hits[0].id, hits[0].text) == ("12", "new 12")
    assert hits[0].score == pytest.approx(100, abs=0.1)


def test_documents_that_moved_to_other_shards_are_found_once(tmp_path: Path) -> None:
    vectors = clustered(30, 16)
    write_shards(tmp_path / "out", vectors, rows=10)
    location = str(tmp_path / "index")
    Index.build(ShardFolder(str(tmp_path / "out")), location)
    for path in (tmp_path / "out").glob("*.parquet"):
        path.unlink()
    write_shards(tmp_path / "out", vectors[::-1].copy(), rows=7)
    index = Index.build(ShardFolder(str(tmp_path / "out")), location)
    hits = index.search(vectors[0], 100)
    assert sorted(int(hit.id) for hit in hits) == list(range(30))
    assert hits[0].id == "29"


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "int8", "binary"])
def test_vectors_of_any_dtype_are_found(dtype: Dtype, tmp_path: Path) -> None:
    vectors = clustered(200, 64)
    out = ShardFolder(str(tmp_path / "out"), Recipe(dtype=dtype))
    corpus = Corpus(str(tmp_path / "in"))
    out.begin(out.check(MODEL, 64, corpus))
    documents = [Document(str(i), f"text {i}") for i in range(200)]
    write_shard(out, "part-000000.parquet", documents, vectors)
    index = Index.build(out, str(tmp_path / "index"))
    found = [index.search(vector, 1)[0].id for vector in vectors[:50]]
    assert found == [str(i) for i in range(50)]


class TestConditions:
    @pytest.fixture
    def index(self, tmp_path: Path, embedder: Embedder) -> Index:
        rows: list[dict[str, Any]] = [
            {"id": f"d{i}", "text": text, "year": 2000 + i, "lang": "de" if i % 3 else "en",
             "on": f"2024-01-{i + 1:02d}"}
            for i, text in enumerate([*texts(27), "Zanzibar 4711", "an island"])
        ]  # fmt: skip
        (tmp_path / "in").mkdir()
        write_rows(tmp_path / "in" / "a.csv", rows)
        corpus = Corpus(str(tmp_path / "in"), id_column="id", keep=("year", "lang", "on"))
        folder = ShardFolder(str(tmp_path / "out"))
        mirror(corpus, folder, embedder)
        return Index.build(folder, str(tmp_path / "index"))

    @pytest.mark.slow
    @pytest.mark.parametrize(
        ("where", "count"),
        [("year >= 2020 and lang = 'en'", 3), ("id = 'd3'", 1), ("year > 3000", 0),
         ("\"on\" < date '2024-01-05'", 4), ("text like '%island'", 1), ("lang in ('de')", 19)],
    )  # fmt: skip
    def test_only_documents_that_meet_one_are_ranked(
        self, where: str, count: int, index: Index, embedder: Embedder
    ) -> None:
        hits = index.find(embedder, "snow", top=100, where=where)
        assert len(hits) == count
        for hit in hits:
            assert set(hit.values) == {"year", "lang", "on"}

    @pytest.mark.parametrize("where", ["yeer > 1", "year >", "year = 'x' x", "'", "drop table a"])
    def test_a_mistake_is_one_sentence_with_the_columns(
        self, where: str, index: Index, embedder: Embedder
    ) -> None:
        with pytest.raises(InputError, match=r"^where: received .*; use SQL over .*year, lang"):
            index.find(embedder, "snow", where=where)

    def test_keywords_are_found_that_vectors_miss(self, index: Index, embedder: Embedder) -> None:
        for keyword in ("Zanzibar", "4711"):
            (best, *_) = index.find(embedder, keyword, top=3, hybrid=True)
            assert best.id == "d27"
            scores = {hit.id: hit.score for hit in index.find(embedder, keyword, top=29)}
            assert best.score == pytest.approx(scores["d27"], abs=0.05)
        assert index.find(embedder, "Zanzibar", hybrid=True, where="year < 2020")
        assert index.find(embedder, '"( AND ^', hybrid=True)  # which is not a query language

    def test_many_queries_are_answered_as_one_is(self, index: Index, embedder: Embedder) -> None:
        queries = texts(5, 7)
        found = index.find_all(embedder, queries, top=4)
        assert [[hit.id for hit in hits] for hits in found] == [
            [hit.id for hit in index.find(embedder, query, top=4)] for query in queries
        ]


class AskedFirst:
    """An encoder that knows its name once it has embedded, as a client on Replicate does."""

    def __init__(self, embedder: Embedder) -> None:
        self._embedder, self._name = embedder, ""

    @property
    def name(self) -> str:
        assert self._name, "a prediction of its own would be billed"
        return self._name

    def encode_query(self, queries: list[str], **options: Any) -> Any:
        vectors = self._embedder.encode_query(queries, **options)
        self._name = self._embedder.name
        return vectors

    def __getattr__(self, name: str) -> Any:
        return getattr(self._embedder, name)


@pytest.mark.slow
def test_the_model_is_compared_by_the_answer_that_a_search_needs(
    tmp_path: Path, embedder: Embedder
) -> None:
    weights = ROOT / "weights/e5-mini"
    wide, other = load(weights), load(weights, max_length=99)
    right: Any = AskedFirst(wide)
    wrong: Any = AskedFirst(other)
    folder = embed(write_corpus(tmp_path / "in" / "a.jsonl", texts(9)), tmp_path / "out", wide)
    index = Index.build(folder, str(tmp_path / "index"))
    assert index.find(right, "snow") == index.find(wide, "snow")
    with pytest.raises(InputError, match=r"^model: received e5-mini@"):
        index.find(wrong, "snow")
    with pytest.raises(InputError, match=r"^model: received small@"):  # which is narrower
        index.find(embedder, "snow")


def test_the_best_passage_of_each_document(tmp_path: Path, embedder: Embedder) -> None:
    rows = [" ".join(texts(9, i)) for i in range(12)]
    corpus = write_corpus(tmp_path / "in" / "a.jsonl", rows)
    folder = ShardFolder(str(tmp_path / "out"), Recipe(passage_size=PassageSize(16)))
    mirror(corpus, folder, embedder, 1000)
    index = Index.build(folder, str(tmp_path / "index"))
    every = index.find(embedder, "snow in winter", top=len(index))
    best: dict[str, str] = {}
    for hit in every:
        best.setdefault(hit.values["document"], hit.id)
        assert (
            rows[int(hit.values["document"][2:])][hit.values["start"] : hit.values["end"]]
            == hit.text
        )
    for top in (1, 5, 12, 20):
        hits = index.find(embedder, "snow in winter", top=top, per_document=True)
        assert [hit.id for hit in hits] == list(best.values())[:top]


def test_a_build_that_failed_is_continued(tmp_path: Path) -> None:
    vectors = clustered(500, 64)
    write_shards(tmp_path / "out", vectors, rows=100)
    out, location = ShardFolder(str(tmp_path / "out")), str(tmp_path / "index")
    limits = IndexLimits(shards_per_commit=2)
    last = sorted((tmp_path / "out").glob("*.parquet"))[-1]
    whole = last.read_bytes()
    last.write_bytes(whole[:100])
    with pytest.raises(InputError, match=f"^{last.name}: received a shard that cannot be read"):
        Index.build(out, location, limits)
    assert len(Index(location)) == 400
    last.write_bytes(whole)
    index = Index.build(out, location, limits)
    assert len(index) == 500
    assert {hit.id for hit in index.search(vectors[0], 500)} == {str(i) for i in range(500)}


def test_vectors_of_another_kind_are_refused(tmp_path: Path) -> None:
    write_shards(tmp_path / "out", clustered(10, 64))
    location = str(tmp_path / "index")
    Index.build(ShardFolder(str(tmp_path / "out")), location)
    (tmp_path / "b").mkdir()
    write_shards(tmp_path / "b" / "out", clustered(10, 32))
    with pytest.raises(InputError, match=r"made with dimensions 32; name another .* made with 64"):
        Index.build(ShardFolder(str(tmp_path / "b" / "out")), location)
    manifest = tmp_path / "out" / "_manifest.json"
    manifest.write_text(manifest.read_text().replace("0123456789ab", "ba9876543210"))
    with pytest.raises(InputError, match=r"made-up@ba9876543210'; .* with 'made-up@0123456789ab'"):
        Index.build(ShardFolder(str(tmp_path / "out")), location)


def test_folders_that_hold_neither_shards_nor_an_index_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"^shards: received .*; embed a corpus into it first"):
        Index.build(ShardFolder(str(tmp_path)), str(tmp_path / "index"))
    write_shards(tmp_path / "out", clustered(10, 64))
    before = sorted((tmp_path / "out").iterdir())
    for folder in (tmp_path, tmp_path / "out", tmp_path / "nowhere"):
        with pytest.raises(InputError, match=r"^index: received .*; build one from a folder"):
            Index(str(folder))
    assert sorted((tmp_path / "out").iterdir()) == before
    assert not (tmp_path / "nowhere").exists()


@pytest.mark.parametrize("rule", ["text_columns", "id_column", "passages", "task"])
def test_shards_of_the_same_names_made_by_other_rules_are_refused(
    rule: str, tmp_path: Path
) -> None:
    write_shards(tmp_path / "out", clustered(10, 64))
    out, location = ShardFolder(str(tmp_path / "out")), str(tmp_path / "index")
    Index.build(out, location)
    other = ["another"] if rule == "text_columns" else "another"
    path = tmp_path / "out" / "_manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {rule: other}))
    with pytest.raises(InputError, match=f"made with {rule} .*another'.*; name another index"):
        Index.build(out, location)


def test_a_damaged_index_is_named_with_a_remedy(tmp_path: Path) -> None:
    vectors = clustered(60, 16)
    write_shards(tmp_path / "out", vectors[:50])
    location = str(tmp_path / "index")
    index = Index.build(ShardFolder(str(tmp_path / "out")), location)
    for file in (tmp_path / "index").rglob("*.lance"):
        if file.is_file():
            file.unlink()
    for attempt in (
        lambda: index.search(vectors[50], 3),
        lambda: Index.build(ShardFolder(index.location), location),
    ):
        with pytest.raises((OSError, InputError)) as caught:
            attempt()
        assert "\n" not in str(caught.value)
    with pytest.raises(OSError, match=r"index: received '.*' from LanceDB; .*build the index anew"):
        index.search(vectors[50], 3)


def test_a_table_that_no_manifest_describes_is_not_changed(tmp_path: Path) -> None:
    write_shards(tmp_path / "out", clustered(50, 16))
    Index.build(ShardFolder(str(tmp_path / "out")), str(tmp_path / "index"))
    (tmp_path / "index" / "index.json").unlink()
    with pytest.raises(
        InputError, match=r"^index: received .*a table of documents and no index\.json"
    ):
        Index.build(ShardFolder(str(tmp_path / "out")), str(tmp_path / "index"))


def test_an_empty_index_accepts_vectors_of_any_model(tmp_path: Path) -> None:
    write_shards(tmp_path / "none", clustered(50, 16)[:0])
    Index.build(ShardFolder(str(tmp_path / "none")), str(tmp_path / "index"))
    write_shards(tmp_path / "out", clustered(50, 24))
    assert len(Index.build(ShardFolder(str(tmp_path / "out")), str(tmp_path / "index"))) == 50
