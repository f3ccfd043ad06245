"""A column of any name is kept, found by conditions, and printed under its own name."""

import csv
import json
from pathlib import Path

import lancedb
import numpy as np
import pyarrow as pa
import pytest
from corpus_tools import MODEL, mirror, write_rows

from e5.corpora.column_names import as_stored, in_sql, stored_names, with_stored_names
from e5.corpora.corpus import Corpus
from e5.corpora.documents import PassageSize
from e5.corpora.index import INDEX_MANIFEST, Index
from e5.corpora.lance import TABLE
from e5.corpora.manifest import Manifest
from e5.corpora.shard_folder import Recipe, ShardFolder
from e5.embedder import Embedder
from e5.errors import InputError

NAMES = [
    *("plain", "Camel", "größe", "e\u0301", "é", "名前", "ชื่อ", "ﬁ", "İ", "🙂", "x" * 5000),
    *("", " ", " a", "a ", "a b", "\t", "a\nb", "a\u2028b", "\ufeffb", "\u200b", "a\x00b"),
    *("doc.id", ".x", "x.", "text.x", "a`b", 'a"b', "a'b", "a\\b", "[0]", "a[0]", "{x}"),
    *("a,b", "*", "%", "?", "--x", "1", "1a", "a-b", "a(b)", "a/b", "a;b", "$a", "@on", "#h"),
    *("_rowid", "_rowaddr", "_rowoffset", "_row_created_at_version", "_score", "_distance"),
    *("_relevance_score", "_doc_index", "_ngrams", "ngrams", "words", "vector", "shard"),
    *("kept_0", "kept_7", "documents", "document", "start", "end", "query", "hits", "rank"),
    *("Name", "name", "NAME", "Id", "ID", "TEXT", "Score", "Embedding", "Shard"),
    *("select", "order", "and", "not", "null", "true", "date", "interval", "count", "between"),
]  # fmt: skip
# These need no quotes, because they are what SQL takes for a name, or nearly so.
UNQUOTED = (
    *("plain", "Camel", "größe", "名前", "doc.id", "$a", "@on", "_rowid", "_score", "_distance"),
    *("_ngrams", "vector", "shard", "kept_0", "document", "Name", "name", "NAME", "ID", "order"),
)  # fmt: skip


def build(folder: Path, ending: str, embedder: Embedder) -> Index:
    """An index of three documents, with a whole number in each of these columns."""
    (folder / "in").mkdir()
    rows = [
        {"i.d": f"d{i}", "te`xt": text, **{name: 1000 * i + j for j, name in enumerate(NAMES)}}
        for i, text in enumerate(["snow falls", "rain", "a word"])
    ]
    if ending == "csv":  # as spreadsheets write it: names with line ends stand in quotes
        with open(folder / "in" / "a.csv", "w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, quoting=csv.QUOTE_ALL)
            writer.writerows([list(rows[0]), *(list(row.values()) for row in rows)])
    else:
        write_rows(folder / "in" / f"a.{ending}", rows)
    out = ShardFolder(str(folder / "out"))
    mirror(Corpus(str(folder / "in"), ("te`xt",), "i.d", tuple(NAMES)), out, embedder)
    return Index.build(out, str(folder / "index"))


@pytest.fixture(scope="module")
def index(embedder: Embedder, tmp_path_factory: pytest.TempPathFactory) -> Index:
    return build(tmp_path_factory.mktemp("names"), "jsonl", embedder)


@pytest.mark.slow
@pytest.mark.parametrize("ending", ["jsonl", "csv", "parquet"])
def test_hits_have_every_column_under_its_own_name(
    ending: str, tmp_path: Path, embedder: Embedder
) -> None:
    index = build(tmp_path, ending, embedder)
    for hybrid in (False, True):
        hits = index.find(embedder, "snow", hybrid=hybrid)
        assert len(hits) == 3
        for hit in hits:
            expected = {name: 1000 * int(hit.id[1:]) + j for j, name in enumerate(NAMES)}
            assert hit.values == expected
            printed = json.loads(json.dumps(hit.as_dict()))
            assert {name: printed[name] for name in NAMES} == expected


@pytest.mark.parametrize("quote", ["`", '"', ""])
@pytest.mark.slow
def test_conditions_are_about_the_column_that_they_name(
    quote: str, index: Index, embedder: Embedder
) -> None:
    query = embedder.encode_query("snow")
    for j, name in enumerate(NAMES):
        if quote or name in UNQUOTED:
            written = f"{quote}{name.replace(quote, quote * 2) if quote else name}{quote}"
            where = f"{written} >= {1000 + j} and {written} < {2000 + j}"
            hits = index.search(query, 3, where=where, keywords="snow rain")
            assert [hit.id for hit in hits] == ["d1"], name


def test_a_mistake_shows_the_columns_as_a_condition_has_them(
    index: Index, embedder: Embedder
) -> None:
    with pytest.raises(InputError) as caught:
        index.find(embedder, "snow", where="doc.id = 'one'")
    assert caught.value.received.startswith("doc.id = 'one' (Error ")
    assert "`doc.id`" in caught.value.received
    assert "kept_" not in caught.value.received
    for shown in ("plain", "größe", "`doc.id`", "`a``b`", "``", "`a b`"):
        assert f", {shown}, " in caught.value.remedy
    with pytest.raises(InputError, match=r"^where: received \$b > 1 \(rust future panicked"):
        index.find(embedder, "snow", where="$b > 1")  # at which LanceDB panics


STORED = {"doc.id": "kept_1", "_score": "kept_2", "": "kept_3", "a`b": "kept_4", "1": "kept_5"}


@pytest.mark.parametrize(
    ("condition", "expected"),
    [
        ("doc.id=1 and -_score>=2.5e3", "`kept_1`=1 and -`kept_2`>=2.5e3"),
        ("text = 'it''s _score' and _score = 1", "text = 'it''s _score' and `kept_2` = 1"),
        ("`` = 1 or `a``b` = 'a`b'", "`kept_3` = 1 or `kept_4` = 'a`b'"),
        ('"" = 1 or "a`b" = 2', "`kept_3` = 1 or `kept_4` = 2"),
        ("lower(\"doc.id\") in ('x', 'doc.id')", "lower(`kept_1`) in ('x', 'doc.id')"),
        ("1 = 1 and `1` = 1", "1 = 1 and `kept_5` = 1"),
        ("_scores = 1 and a._score = 1 and doc.id.x", "_scores = 1 and a._score = 1 and doc.id.x"),
        ("year > 2020 and `order` = \"b\"", "year > 2020 and `order` = \"b\""),
        ("'unclosed", "'unclosed"),
    ],
)  # fmt: skip
def test_only_names_are_replaced_in_a_condition(condition: str, expected: str) -> None:
    assert with_stored_names(condition, STORED) == expected


def test_plain_names_are_stored_as_they_are_and_others_stay_apart() -> None:
    names = ["id", "year", "größe", "a.b", "kept_3", "kept_4", "Order", "_x"]
    stored = as_stored(pa.schema([(name, pa.string()) for name in names]))
    assert stored.names == ["id", "year", "größe", "kept_3", "kept_4", "kept_5", "Order", "kept_7"]
    assert list(stored_names(stored)) == names
    assert in_sql("x" * 100) == f"{'x' * 57}..."


def test_a_column_that_passages_have_is_refused_where_documents_are_split(
    tmp_path: Path, embedder: Embedder
) -> None:
    (tmp_path / "in").mkdir()
    write_rows(tmp_path / "in" / "a.jsonl", [{"text": "snow", "start": 7}])
    folder = ShardFolder(str(tmp_path / "out"), Recipe(passage_size=PassageSize(16)))
    corpus = Corpus(str(tmp_path / "in"), keep=("start",))
    with pytest.raises(InputError, match=r"^keep: received 'start'; rename it: passages have "):
        mirror(corpus, folder, embedder)
    assert not (tmp_path / "out").exists()


def test_an_index_of_an_earlier_release_is_read(tmp_path: Path) -> None:
    """There, columns have their own names, and there are no n-grams."""
    manifest = Manifest(
        model=MODEL, task="", normalize=False, dimensions=8, dtype="float32", number="float",
        text_columns=("text",), id_column="id", keep={"a b": "int64", "_x": "int64"},
    )  # fmt: skip
    (tmp_path / "index").mkdir()
    manifest.write(pa.fs.LocalFileSystem(), str(tmp_path / "index" / INDEX_MANIFEST))
    vectors = pa.array(np.eye(3, 8, dtype=np.float16).ravel())
    columns = {
        "id": ["d0", "d1", "d2"], "text": ["snow", "snow 東京", "tea"], "a b": [0, 1, 2],
        "_x": [5, 6, 7], "shard": ["part-000000.parquet"] * 3,
        "embedding": pa.FixedSizeListArray.from_arrays(vectors, 8),
    }  # fmt: skip
    table = lancedb.connect(str(tmp_path / "index")).create_table(TABLE, pa.table(columns))
    table.create_index("text", config=lancedb.index.FTS(), name="words")
    index = Index(str(tmp_path / "index"))
    query = np.eye(1, 8, 2, dtype=np.float32)[0]
    (best, *_) = index.search(query, 3)
    assert (best.id, best.values) == ("d2", {"a b": 2, "_x": 7})
    hits = index.search(query, 3, where="`a b` < 2 and _x > 5", keywords="snow")
    assert [hit.id for hit in hits] == ["d1"]
