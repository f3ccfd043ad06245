"""A search finds what an exact search finds, in an index that grows and knows its model."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from conftest import load_script
from test_shards import ROOT, embed, texts, write_corpus

from e5.corpus import Corpus, Document, Unit
from e5.embedder import Embedder
from e5.errors import InputError
from e5.index import Index, _probes
from e5.shards import Output, Recipe
from e5.vectors import Vectors, cosine_scores

MODEL = "made-up@0123456789ab"


def clustered(count: int, dimensions: int, seed: int = 0) -> Vectors:
    """Vectors in clusters of about 50, as real texts have their topics."""
    draw = np.random.default_rng(seed)
    centres = draw.standard_normal((max(1, count // 50), dimensions))
    own = centres[draw.integers(len(centres), size=count)]
    noisy: Vectors = (own + 0.7 * draw.standard_normal(own.shape)).astype(np.float32)
    return noisy


def write_shards(folder: Path, vectors: Vectors, rows: int = 5000, first: int = 0) -> None:
    """Vectors as shards, without a model; ids count on from `first`."""
    (folder.parent / "in").mkdir(exist_ok=True)
    name = f"from-{first}.jsonl"
    (folder.parent / "in" / name).write_text("{}")
    output = Output(str(folder), Recipe())
    corpus = Corpus(str(folder.parent / "in"))
    output.begin(MODEL, vectors.shape[1], corpus, corpus.files(), rows)
    for i in range(0, len(vectors), rows):
        part = vectors[i : i + rows]
        documents = [
            Document(str(first + i + j), f"text {first + i + j}") for j in range(len(part))
        ]
        unit = Unit(name, i, len(part))
        output.write(unit, documents, part, dead=[])


def recall(index: Index, vectors: Vectors, queries: Vectors, top: int = 10) -> float:
    """Share of the exact search's results that the index finds."""
    exact = np.argsort(-cosine_scores(queries, vectors), axis=1)[:, :top]
    found = [[int(hit.id) for hit in index.search(query, top)] for query in queries]
    return float(np.mean([len({*a} & {*b}) / top for a, b in zip(exact, found, strict=True)]))


@pytest.mark.parametrize(("count", "dimensions"), [(20_000, 192), (3_000, 4096)])
def test_an_index_finds_what_an_exact_search_finds(
    count: int, dimensions: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    vectors = clustered(count + 50, dimensions)
    write_shards(tmp_path / "out", vectors[:count])
    monkeypatch.setattr("e5.index.FLAT_BELOW", 1)
    index = Index.build(str(tmp_path / "out"), str(tmp_path / "index"))
    assert not index.is_flat
    assert len(index) == count
    for top in (1, 3, 10, 30):
        assert recall(index, vectors[:count], vectors[count:], top) >= 0.99


def test_few_partitions_of_many_are_enough(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("e5.index.FLAT_BELOW", 1)
    monkeypatch.setattr("e5.index.PARTITION", 64)
    vectors = clustered(20_100, 64)
    write_shards(tmp_path / "out", vectors[:20_000])
    index = Index.build(str(tmp_path / "out"), str(tmp_path / "index"))
    partitions = 20_000 // 64
    assert index._partitions() == partitions
    assert _probes(partitions) < partitions / 4
    assert recall(index, vectors[:20_000], vectors[20_000:]) >= 0.99
    assert len(index.search(vectors[0], 10_000)) == 10_000


def test_an_index_that_a_kill_left_beside_a_newer_one_goes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("e5.index.FLAT_BELOW", 1)
    write_shards(tmp_path / "out", clustered(1_200, 64))
    out, where = str(tmp_path / "out"), str(tmp_path / "index")
    monkeypatch.setattr("e5.index.PARTITION", 600)
    table = Index.build(out, where)._table
    monkeypatch.setattr("e5.index.PARTITION", 60)
    with monkeypatch.context() as patch:

        def killed(*_: object) -> None:
            raise KeyboardInterrupt

        patch.setattr(type(table), "drop_index", killed)
        with pytest.raises(KeyboardInterrupt):
            Index.build(out, where)
    assert len(list(Index(where)._table.list_indices())) == 2
    (left,) = Index.build(out, where)._table.list_indices()
    assert left.name == "partitions_20"


def test_vectors_of_a_corpus_beside_an_index_do_not_change_the_index(
    tmp_path: Path, embedder: Embedder
) -> None:
    write_shards(tmp_path / "out", clustered(10, 64))
    where = tmp_path / "index"
    Index.build(str(tmp_path / "out"), str(where))
    embed(write_corpus(tmp_path / "other" / "a.jsonl", texts(5)), where, embedder)
    Index(str(where)).check_model(MODEL)


def test_a_small_table_is_searched_whole_and_scores_are_cosines(tmp_path: Path) -> None:
    vectors = clustered(300, 64)
    write_shards(tmp_path / "out", vectors, rows=100)
    index = Index.build(str(tmp_path / "out"), str(tmp_path / "index"))
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
    monkeypatch.setattr("e5.index.FLAT_BELOW", flat_below)
    vectors = clustered(6_000, 64)
    write_shards(tmp_path / "out", vectors[:4_000], rows=1_000)
    out, where = str(tmp_path / "out"), str(tmp_path / "index")
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
    out, where = str(tmp_path / "out"), str(tmp_path / "index")
    monkeypatch.setattr("e5.index.SHARDS_AT_ONCE", 2)
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
    Index.build(str(tmp_path / "out"), where)
    (tmp_path / "b").mkdir()
    write_shards(tmp_path / "b" / "out", clustered(10, 32))
    with pytest.raises(InputError, match=r"made with dimensions 32; .* holds 64: name another"):
        Index.build(str(tmp_path / "b" / "out"), where)
    manifest = tmp_path / "out" / "manifest.json"
    manifest.write_text(manifest.read_text().replace("0123456789ab", "ba9876543210"))
    with pytest.raises(InputError, match=r"made-up@ba9876543210'; .* holds 'made-up@0123456789ab'"):
        Index.build(str(tmp_path / "out"), where)


def test_places_that_hold_neither_shards_nor_an_index_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"^OUT: received .*scripts/embed_corpus"):
        Index.build(str(tmp_path), str(tmp_path / "index"))
    write_shards(tmp_path / "out", clustered(10, 64))
    before = sorted((tmp_path / "out").iterdir())
    for place in (tmp_path, tmp_path / "out", tmp_path / "nowhere"):
        with pytest.raises(InputError, match=r"^INDEX: received .*scripts/build_index"):
            Index(str(place))
    assert sorted((tmp_path / "out").iterdir()) == before
    assert not (tmp_path / "nowhere").exists()


def test_dimensions_that_have_no_index_are_searched_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("e5.index.FLAT_BELOW", 1)
    vectors = clustered(600, 50)
    write_shards(tmp_path / "out", vectors)
    index = Index.build(str(tmp_path / "out"), str(tmp_path / "index"))
    assert index.is_flat
    assert index.search(vectors[3], 1)[0].id == "3"


def test_an_index_that_its_table_has_outgrown_is_made_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("e5.index.FLAT_BELOW", 1)
    monkeypatch.setattr("e5.index.PARTITION", 300)
    vectors = clustered(6_000, 64)
    out, where = str(tmp_path / "out"), str(tmp_path / "index")
    for first, last, partitions in ((0, 600, 2), (600, 1_200, 2), (1_200, 6_000, 20)):
        write_shards(tmp_path / "out", vectors[first:last], first=first)
        index = Index.build(out, where)
        (made,) = index._table.list_indices()
        assert made.name == f"partitions_{partitions}"
    assert recall(index, vectors, vectors[::300] * 1.01) >= 0.99


def test_another_corpus_with_files_of_the_same_names_is_refused(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        write_shards(tmp_path / name / "out", clustered(10, 64))
    manifest = tmp_path / "b" / "out" / "manifest.json"
    content = json.loads(manifest.read_text())
    content["files"]["from-0.jsonl"] = "another"
    manifest.write_text(json.dumps(content))
    where = str(tmp_path / "index")
    Index.build(str(tmp_path / "a" / "out"), where)
    with pytest.raises(InputError, match=r"^from-0\.jsonl: received a file that has changed"):
        Index.build(str(tmp_path / "b" / "out"), where)


@pytest.mark.parametrize("rule", ["text_columns", "id_column", "rows_per_shard", "task"])
def test_shards_of_the_same_names_made_by_other_rules_are_refused(
    rule: str, tmp_path: Path
) -> None:
    write_shards(tmp_path / "out", clustered(10, 64))
    out, where = str(tmp_path / "out"), str(tmp_path / "index")
    Index.build(out, where)
    path = tmp_path / "out" / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {rule: "another"}))
    with pytest.raises(InputError, match=f"made with {rule} 'another'; .*name another INDEX"):
        Index.build(out, where)


@pytest.fixture
def run(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str, str]]:
    """Runs a script's `main` with the settings of `embedder`; status, and what it printed."""
    monkeypatch.setenv("E5_WEIGHTS", str(checkpoint))
    monkeypatch.setenv("E5_DTYPE", "float32")
    monkeypatch.setenv("COLUMNS", "100")

    def run(script: str, *arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.argv", [script, *map(str, arguments)])
        status = load_script(script).main()
        printed = capsys.readouterr()
        assert "Traceback" not in printed.err
        return status, printed.out, printed.err

    return run


def test_from_documents_to_a_search_by_the_scripts(
    tmp_path: Path, embedder: Embedder, run: Callable[..., tuple[int, str, str]]
) -> None:
    rows = [*texts(40), "a cat sleeps\non the sofa"]
    corpus = write_corpus(tmp_path / "in" / "a.jsonl", rows)
    out, index = tmp_path / "out", tmp_path / "index"
    status, printed, _ = run("embed_corpus", corpus.location, out, "--id-column", "id")
    assert status == 0
    assert printed.startswith("41 documents, ")
    status, printed, _ = run("build_index", out, index)
    assert status == 0
    assert printed.startswith(f"41 documents by {embedder.name}, searched whole")
    status, printed, _ = run("search", index, rows[7], "--task", "", "--top", 3)
    assert status == 0
    head, first, *others = printed.splitlines()
    assert head.split() == ["rank", "score", "id", "text"]
    assert first.split()[:3] == ["1", "100.0", "a-7"]
    assert len(others) == 2
    status, printed, _ = run("search", index, rows[40], "--task", "", "--top", 2, "--json")
    best, second = json.loads(printed)
    assert (best["id"], best["text"]) == ("a-40", rows[40])
    assert best["score"] == pytest.approx(100, abs=0.1)
    assert second["score"] < best["score"]


def test_a_query_carries_the_task_of_a_symmetric_corpus(
    tmp_path: Path, embedder: Embedder, run: Callable[..., tuple[int, str, str]]
) -> None:
    rows = texts(20)
    corpus = write_corpus(tmp_path / "in" / "a.jsonl", rows)
    embed(corpus, tmp_path / "out", embedder, Recipe(task="sts_query", dimensions=16))
    run("build_index", tmp_path / "out", tmp_path / "index")
    _, printed, _ = run("search", tmp_path / "index", rows[3], "--json", "--top", 1)
    (best,) = json.loads(printed)
    assert best["id"] == "a-3"
    assert best["score"] == pytest.approx(100, abs=0.1)


def test_a_query_of_other_weights_is_refused(
    tmp_path: Path,
    embedder: Embedder,
    run: Callable[..., tuple[int, str, str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    embed(write_corpus(tmp_path / "in" / "a.jsonl", texts(9)), tmp_path / "out", embedder)
    run("build_index", tmp_path / "out", tmp_path / "index")
    monkeypatch.setenv("E5_WEIGHTS", str(ROOT / "weights/e5-mini"))
    status, printed, said = run("search", tmp_path / "index", "snow")
    assert (status, printed) == (1, "")
    assert "E5_WEIGHTS: received e5-mini@" in said
    assert f"made by {embedder.name}" in said
    assert run("search", tmp_path / "index", "snow", "--top", 0)[0] == 1
    assert run("build_index", tmp_path, tmp_path / "index")[0] == 1


def test_a_damaged_index_is_named_with_a_remedy(tmp_path: Path) -> None:
    vectors = clustered(60, 16)
    write_shards(tmp_path / "out", vectors[:50])
    place = str(tmp_path / "index")
    index = Index.build(str(tmp_path / "out"), place)
    for file in (tmp_path / "index").rglob("*.lance"):
        if file.is_file():
            file.unlink()
    for attempt in (
        lambda: index.search(vectors[50], 3),
        lambda: Index.build(index.location, place),
    ):
        with pytest.raises((OSError, InputError)) as caught:
            attempt()
        assert "\n" not in str(caught.value)
    with pytest.raises(OSError, match=r"index: received '.*' from LanceDB; .*build the index anew"):
        index.search(vectors[50], 3)


def test_a_table_that_no_manifest_describes_is_left_alone(tmp_path: Path) -> None:
    write_shards(tmp_path / "out", clustered(50, 16))
    Index.build(str(tmp_path / "out"), str(tmp_path / "index"))
    (tmp_path / "index" / "index.json").unlink()
    with pytest.raises(
        InputError, match=r"^INDEX: received .*a table documents and no index\.json"
    ):
        Index.build(str(tmp_path / "out"), str(tmp_path / "index"))


def test_an_index_of_nothing_binds_nobody(tmp_path: Path) -> None:
    write_shards(tmp_path / "none", clustered(50, 16)[:0])
    Index.build(str(tmp_path / "none"), str(tmp_path / "index"))
    write_shards(tmp_path / "out", clustered(50, 24))
    assert len(Index.build(str(tmp_path / "out"), str(tmp_path / "index"))) == 50
