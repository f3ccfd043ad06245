"""Every document of a corpus ends in one shard or among the dead letters, killed or not."""

import json
import os
import random
import signal
import subprocess
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from conftest import EditCheckpoint

from e5.corpus import Corpus, Unit
from e5.embedder import Embedder
from e5.errors import InputError, OutOfMemoryError
from e5.packing import TokenIds
from e5.settings import Settings
from e5.shards import DEAD_LETTERS, Output, Recipe, read_manifest, shard_names
from e5.step import embed_units
from e5.vectors import Vectors

ROOT = Path(__file__).parent.parent
WORDS = ["snow", "is", "frozen", "water", "that", "falls", "in", "winter", "on", "mountains"]


def texts(count: int, seed: int = 0) -> list[str]:
    draw = random.Random(seed)
    return [" ".join(draw.choices(WORDS, k=draw.randint(1, 40))) for _ in range(count)]


def write_corpus(path: Path, rows: list[str]) -> Corpus:
    lines = [json.dumps({"id": f"{path.stem}-{i}", "text": text}) for i, text in enumerate(rows)]
    path.parent.mkdir(exist_ok=True)
    path.write_text("\n".join(lines) + "\n")
    return Corpus(str(path.parent), id_column="id")


def embed(
    corpus: Corpus, out: Path, embedder: Embedder, recipe: Recipe | None = None, rows: int = 16
) -> Output:
    output = Output(str(out), recipe or Recipe())
    begin(output, embedder, corpus, rows)
    for _ in embed_units(output.unfinished(plan(corpus, rows)), corpus, embedder, output):
        pass
    return output


def begin(output: Output, embedder: Embedder, corpus: Corpus, rows: int = 16) -> None:
    hidden_size = embedder.engine.hidden_size
    output.begin(embedder.name, hidden_size, corpus, corpus.files(), rows)


def plan(corpus: Corpus, rows: int = 16) -> list[Unit]:
    return corpus.plan(corpus.files(), rows)


def read_shards(out: Path) -> pa.Table:
    return pa.concat_tables(pq.read_table(out / name) for name in shard_names(str(out)))


def vectors_of(table: pa.Table) -> Vectors:
    column = table["embedding"].combine_chunks()
    numbers: Vectors = column.flatten().to_numpy(zero_copy_only=False).astype(np.float32)
    return numbers.reshape(len(column), -1)


def dead_letters(out: Path) -> dict[str, str]:
    lines = [
        line
        for path in sorted((out / DEAD_LETTERS).glob("*.jsonl"))
        for line in path.read_text().splitlines()
    ]
    return {letter["id"]: letter["reason"] for letter in map(json.loads, lines)}


def files(out: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(out)): path.read_bytes() for path in out.rglob("*") if path.is_file()
    }


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_a_shard_holds_what_the_embedder_gives(
    dtype: str, tmp_path: Path, embedder: Embedder
) -> None:
    rows = texts(50)
    corpus = write_corpus(tmp_path / "in" / "a.jsonl", rows)
    embed(corpus, tmp_path / "out", embedder, Recipe(dtype=dtype))  # type: ignore[arg-type]
    table = read_shards(tmp_path / "out")
    assert table["id"].to_pylist() == [f"a-{i}" for i in range(50)]
    assert table["text"].to_pylist() == rows
    expected = embedder.encode_document(rows)
    tolerance = 1e-3 if dtype == "float16" else 1e-5
    np.testing.assert_allclose(vectors_of(table), expected, rtol=tolerance, atol=tolerance)


def test_task_dimensions_and_normalize_do_what_they_do_in_a_request(
    tmp_path: Path, embedder: Embedder
) -> None:
    rows = texts(20)
    corpus = write_corpus(tmp_path / "in" / "a.jsonl", rows)
    recipe = Recipe(task="sts_query", normalize=True, dimensions=8, dtype="float32")
    embed(corpus, tmp_path / "out", embedder, recipe)
    expected = embedder.encode_query(rows, task="sts_query", normalize=True, dimensions=8)
    np.testing.assert_allclose(vectors_of(read_shards(tmp_path / "out")), expected, atol=1e-5)


def test_shards_are_compressed_as_measured_best(tmp_path: Path, embedder: Embedder) -> None:
    corpus = write_corpus(tmp_path / "in" / "a.jsonl", texts(9))
    embed(corpus, tmp_path / "out", embedder)
    (name,) = shard_names(str(tmp_path / "out"))
    file = pq.ParquetFile(tmp_path / "out" / name)
    numbers = file.metadata.row_group(0).column(2)
    assert numbers.compression == "ZSTD"
    assert "BYTE_STREAM_SPLIT" in numbers.encodings
    hidden = embedder.engine.hidden_size
    assert file.schema_arrow.field("embedding").type == pa.list_(pa.float16(), hidden)


def test_a_run_taken_up_again_gives_the_same_bytes(tmp_path: Path, embedder: Embedder) -> None:
    corpus = write_corpus(tmp_path / "in" / "a.jsonl", [*texts(60), "", *texts(30, 1)])
    embed(corpus, tmp_path / "undisturbed", embedder)
    output = Output(str(tmp_path / "out"), Recipe())
    units = plan(corpus)
    for done in (1, 2, 1):
        begin(output, embedder, corpus)
        running = embed_units(output.unfinished(units), corpus, embedder, output)
        for _ in range(done):
            next(running)
        running.close()
        # What a kill leaves of a file that was being written:
        (tmp_path / "out" / f".{units[-1].name}.parquet.{0:032x}").write_bytes(b"half a shard")
    embed(corpus, tmp_path / "out", embedder)
    assert files(tmp_path / "out") == files(tmp_path / "undisturbed")


def test_killed_at_any_moment_it_goes_on_where_it_was(tmp_path: Path, checkpoint: Path) -> None:
    corpus = write_corpus(tmp_path / "in" / "a.jsonl", [*texts(1500), " ", *texts(500, 1)])
    environment = os.environ | {"E5_WEIGHTS": str(checkpoint), "E5_DTYPE": "float32"}

    def run(out: str) -> "subprocess.Popen[bytes]":
        command = [str(ROOT / "scripts/embed_corpus"), corpus.location, str(tmp_path / out)]
        command += ["--id-column", "id", "--rows-per-shard", "50"]
        return subprocess.Popen(command, env=environment, start_new_session=True)

    assert run("undisturbed").wait() == 3  # one dead letter
    for more in (1, 9, 10):
        process = run("out")
        target = len(shard_names(str(tmp_path / "out"))) + more
        while len(shard_names(str(tmp_path / "out"))) < target and process.poll() is None:
            time.sleep(0.005)
        os.killpg(process.pid, signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
    assert 20 <= len(shard_names(str(tmp_path / "out"))) < 41
    assert run("out").wait() == 3
    assert files(tmp_path / "out") == files(tmp_path / "undisturbed")


def test_a_document_without_a_finite_vector_loses_no_neighbour(
    tmp_path: Path, checkpoint: Path, edit_checkpoint: EditCheckpoint, embedder: Embedder
) -> None:
    word = embedder.tokenizer.encode(["zebra"])[0].token_ids[-2]

    def poison(tensors: dict[str, torch.Tensor]) -> None:
        tensors["embed_tokens.weight"][word] = float("nan")

    folder = edit_checkpoint(checkpoint, poison)
    poisoned = Embedder.load(Settings(weights=folder, device="cpu", dtype="float32"))
    rows = texts(20)
    corpus = write_corpus(tmp_path / "in" / "a.jsonl", [*rows[:10], "a zebra", *rows[10:]])
    embed(corpus, tmp_path / "out", poisoned)
    assert list(dead_letters(tmp_path / "out")) == ["a-10"]
    table = read_shards(tmp_path / "out")
    assert table["text"].to_pylist() == rows
    np.testing.assert_allclose(vectors_of(table), poisoned.encode_document(rows), atol=1e-2)


def test_a_document_too_large_for_memory_loses_no_neighbour(
    tmp_path: Path, embedder: Embedder, monkeypatch: pytest.MonkeyPatch
) -> None:
    compute = embedder.engine.compute

    def small_memory(token_ids: list[TokenIds]) -> Vectors:
        if max(map(len, token_ids)) > 200:
            raise OutOfMemoryError(201)
        return compute(token_ids)

    monkeypatch.setattr(embedder.engine, "compute", small_memory)
    rows = [*texts(3), "long " * 300, *texts(3, 1)]
    corpus = write_corpus(tmp_path / "in" / "a.jsonl", rows)
    embed(corpus, tmp_path / "out", embedder)
    assert list(dead_letters(tmp_path / "out")) == ["a-3"]
    assert read_shards(tmp_path / "out")["id"].to_pylist() == [f"a-{i}" for i in (0, 1, 2, 4, 5, 6)]


def test_a_unit_of_dead_letters_only_is_done_all_the_same(
    tmp_path: Path, embedder: Embedder
) -> None:
    corpus = write_corpus(tmp_path / "in" / "a.jsonl", ["", " ", "\n"])
    output = embed(corpus, tmp_path / "out", embedder)
    assert output.num_dead_letters() == 3
    assert len(read_shards(tmp_path / "out")) == 0
    assert output.unfinished(plan(corpus)) == []


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"task": "sts_query"}, "task '', for 'sts_query'"),
        ({"dimensions": 8}, "dimensions 64, for 8"),
        ({"normalize": True}, "normalize False, for True"),
        ({"dtype": "float32"}, "dtype 'float16', for 'float32'"),
    ],
)
def test_other_rules_are_refused_and_both_named(
    change: dict[str, object], named: str, tmp_path: Path, embedder: Embedder
) -> None:
    corpus = write_corpus(tmp_path / "in" / "a.jsonl", texts(5))
    embed(corpus, tmp_path / "out", embedder)
    with pytest.raises(InputError, match=named):
        embed(corpus, tmp_path / "out", embedder, replace(Recipe(), **change))  # type: ignore[arg-type]


def test_another_fingerprint_is_refused_another_folder_name_is_not(
    tmp_path: Path, embedder: Embedder, bf16_embedder: Embedder
) -> None:
    corpus = write_corpus(tmp_path / "in" / "a.jsonl", texts(5))
    output = embed(corpus, tmp_path / "out", embedder)
    before = files(tmp_path / "out")
    with pytest.raises(InputError) as refused:
        begin(output, bf16_embedder, corpus)
    assert embedder.name in str(refused.value)
    assert bf16_embedder.name in str(refused.value)
    assert files(tmp_path / "out") == before
    moved = "moved@" + embedder.name.partition("@")[2]
    output.begin(moved, 64, corpus, corpus.files(), 16)


def test_a_file_that_has_changed_is_refused_a_new_one_is_taken_in(
    tmp_path: Path, embedder: Embedder
) -> None:
    corpus = write_corpus(tmp_path / "in" / "b.jsonl", texts(5))
    embed(corpus, tmp_path / "out", embedder)
    write_corpus(tmp_path / "in" / "a.jsonl", texts(5, 1))
    embed(corpus, tmp_path / "out", embedder)
    assert sorted(read_shards(tmp_path / "out")["id"].to_pylist()) == [
        *(f"a-{i}" for i in range(5)),
        *(f"b-{i}" for i in range(5)),
    ]
    manifest = read_manifest(str(tmp_path / "out"))
    assert manifest is not None
    assert list(manifest["files"]) == ["b.jsonl", "a.jsonl"]
    write_corpus(tmp_path / "in" / "b.jsonl", texts(6))
    with pytest.raises(InputError, match=r"^b\.jsonl: received a file that has changed"):
        embed(corpus, tmp_path / "out", embedder)


def test_a_file_whose_rows_changed_places_is_refused(tmp_path: Path, embedder: Embedder) -> None:
    rows = texts(40)
    corpus = write_corpus(tmp_path / "in" / "a.jsonl", rows)
    embed(corpus, tmp_path / "out", embedder)
    path = tmp_path / "in" / "a.jsonl"
    path.write_text("".join(reversed(path.read_text().splitlines(keepends=True))))
    with pytest.raises(InputError, match=r"^a\.jsonl: received a file that has changed"):
        embed(corpus, tmp_path / "out", embedder)


def test_a_file_none_of_whose_rows_is_done_may_be_repaired(
    tmp_path: Path, embedder: Embedder
) -> None:
    corpus = write_corpus(tmp_path / "in" / "a.jsonl", texts(5))
    embed(corpus, tmp_path / "out", embedder)
    (tmp_path / "in" / "b.csv").write_text("txet\nsnow\n")
    with pytest.raises(InputError, match=r"^--id-column: received 'id'|^--text-column"):
        embed(corpus, tmp_path / "out", embedder)
    (tmp_path / "in" / "b.csv").write_text("id,text\nb-0,snow\n")
    embed(corpus, tmp_path / "out", embedder)
    assert len(read_shards(tmp_path / "out")) == 6


def test_a_parquet_file_of_somebody_else_is_no_shard(tmp_path: Path, embedder: Embedder) -> None:
    corpus = write_corpus(tmp_path / "in" / "a.jsonl", texts(5))
    embed(corpus, tmp_path / "out", embedder)
    pq.write_table(read_shards(tmp_path / "out"), tmp_path / "out" / "mine.parquet")
    assert len(shard_names(str(tmp_path / "out"))) == 1


def test_rules_that_no_shard_was_made_by_bind_nobody(tmp_path: Path, embedder: Embedder) -> None:
    corpus = write_corpus(tmp_path / "in" / "a.jsonl", texts(5))
    misspelt = replace(corpus, text_columns=("txet",))
    with pytest.raises(InputError, match=r"^--text-column: received 'txet'.*it has id, text"):
        embed(misspelt, tmp_path / "out", embedder)
    embed(corpus, tmp_path / "out", embedder)
    assert len(read_shards(tmp_path / "out")) == 5


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"model": "a@b"}'])
def test_a_manifest_of_something_else_is_refused(content: str, tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text(content)
    with pytest.raises(InputError, match="not of this project"):
        read_manifest(str(tmp_path))


@pytest.mark.parametrize("stores", [(), ("py::fsspec+memory",)])
def test_shards_may_lie_far_away(
    stores: tuple[str, ...], tmp_path: Path, embedder: Embedder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("e5.storage.OBJECT_STORES", stores)  # which show no half of an object
    corpus = write_corpus(tmp_path / "in" / "a.jsonl", [*texts(20), ""])
    where = f"memory://shards-{len(stores)}/out"
    output = Output(where, Recipe())
    begin(output, embedder, corpus)
    for _ in embed_units(plan(corpus), corpus, embedder, output):
        pass
    assert output.unfinished(plan(corpus)) == []
    assert output.num_dead_letters() == 1
    assert len(shard_names(where)) == 2


def test_what_a_file_loses_while_it_is_read_stops_the_run(
    tmp_path: Path, embedder: Embedder
) -> None:
    corpus = write_corpus(tmp_path / "in" / "a.jsonl", texts(40))
    units = plan(corpus)
    (tmp_path / "in" / "a.jsonl").unlink()
    output = Output(str(tmp_path / "out"), Recipe())
    with pytest.raises(InputError, match=r"^a\.jsonl: received what cannot be read"):
        list(embed_units(units, corpus, embedder, output))
    assert shard_names(str(tmp_path / "out")) == []


def test_no_units_are_no_work(tmp_path: Path, embedder: Embedder) -> None:
    none: list[Unit] = []
    output = Output(str(tmp_path), Recipe())
    assert list(embed_units(none, Corpus("nowhere"), embedder, output)) == []


def test_shards_are_never_read_as_documents(tmp_path: Path, embedder: Embedder) -> None:
    corpus = write_corpus(tmp_path / "in" / "a.jsonl", texts(5))
    (tmp_path / "link").symlink_to(tmp_path / "in")
    for place in ("in", "in/out", "in/deeper/out", "link/out"):
        with pytest.raises(InputError, match=r"^OUT: received .*, inside IN"):
            embed(corpus, tmp_path / place, embedder)
    embed(corpus, tmp_path / "in-other", embedder)


def test_what_else_lies_in_the_folder_stays(tmp_path: Path, embedder: Embedder) -> None:
    corpus = write_corpus(tmp_path / "in" / "a.jsonl", texts(5))
    (tmp_path / "out" / ".git").mkdir(parents=True)
    (tmp_path / "out" / ".profile").write_text("mine")
    embed(corpus, tmp_path / "out", embedder)
    embed(corpus, tmp_path / "out", embedder)
    assert (tmp_path / "out" / ".profile").read_text() == "mine"


def test_a_file_that_grows_after_its_size_was_taken_is_refused_later(
    tmp_path: Path, embedder: Embedder
) -> None:
    path = tmp_path / "in" / "a.jsonl"
    corpus = write_corpus(path, texts(5))
    output = Output(str(tmp_path / "out"), Recipe())
    begin(output, embedder, corpus)
    path.write_text(path.read_text() + '{"id": "late", "text": "late"}\n')
    list(embed_units(plan(corpus), corpus, embedder, output))
    with pytest.raises(InputError, match=r"^a\.jsonl: received a file that has changed"):
        embed(corpus, tmp_path / "out", embedder)


def test_an_empty_shard_is_no_shard(tmp_path: Path, embedder: Embedder) -> None:
    corpus = write_corpus(tmp_path / "in" / "a.jsonl", texts(20))
    output = embed(corpus, tmp_path / "out", embedder)
    name = shard_names(str(tmp_path / "out"))[1]
    (tmp_path / "out" / name).write_bytes(b"")
    assert [unit.name for unit in output.unfinished(plan(corpus))] == [name.partition(".")[0]]
    embed(corpus, tmp_path / "out", embedder)
    assert len(read_shards(tmp_path / "out")) == 20


def test_dead_letters_of_a_killed_attempt_do_not_outlive_it(
    tmp_path: Path, embedder: Embedder
) -> None:
    corpus = write_corpus(tmp_path / "in" / "a.jsonl", texts(5))
    (unit,) = plan(corpus)
    (tmp_path / "out" / DEAD_LETTERS).mkdir(parents=True)
    stale = tmp_path / "out" / DEAD_LETTERS / f"{unit.name}.jsonl"
    stale.write_text('{"id": "a-1", "reason": "no memory then"}\n')
    assert embed(corpus, tmp_path / "out", embedder).num_dead_letters() == 0


@pytest.mark.parametrize("dimensions", [0, -1, 65])
def test_dimensions_that_cannot_be_are_refused(
    dimensions: int, tmp_path: Path, embedder: Embedder
) -> None:
    corpus = write_corpus(tmp_path / "in" / "a.jsonl", texts(5))
    with pytest.raises(InputError, match=r"^--dimensions: received .*; use 1 to 64\.$"):
        embed(corpus, tmp_path / "out", embedder, Recipe(dimensions=dimensions))
    assert not (tmp_path / "out").exists()


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path, embedder: Embedder) -> None:
    corpus = write_corpus(tmp_path / "in" / "a.jsonl", texts(5))
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(OSError, match=r"/file/out/manifest\.json: cannot be written .*run again"):
        embed(corpus, tmp_path / "file" / "out", embedder)


def test_shards_that_no_manifest_knows_are_nobody_s(tmp_path: Path, embedder: Embedder) -> None:
    corpus = write_corpus(tmp_path / "in" / "a.jsonl", texts(5))
    out = tmp_path / "out"
    embed(corpus, out, embedder)
    (out / "manifest.json").unlink()
    with pytest.raises(InputError, match=r"^OUT: received .*lacks the files of 1 shards; name an"):
        begin(Output(str(out), Recipe()), embedder, corpus)
    assert not (out / "manifest.json").exists()


def test_a_file_is_no_folder_of_shards(tmp_path: Path, embedder: Embedder) -> None:
    corpus = write_corpus(tmp_path / "in" / "a.jsonl", texts(5))
    (tmp_path / "out").write_text("somebody's own")
    with pytest.raises(InputError, match=r"^OUT: received .*which is a file; name a folder\.$"):
        begin(Output(str(tmp_path / "out"), Recipe()), embedder, corpus)


@pytest.mark.parametrize("name", ["--task", "--text-column", "--id-column"])
def test_options_that_are_no_unicode_are_named(
    name: str, tmp_path: Path, embedder: Embedder
) -> None:
    corpus = write_corpus(tmp_path / "in" / "a.jsonl", texts(5))
    recipe = Recipe(task="\udcff") if name == "--task" else Recipe()
    if name != "--task":
        bad = {
            "--text-column": {"text_columns": ("\udcff",)},
            "--id-column": {"id_column": "\udcff"},
        }
        corpus = replace(corpus, **bad[name])  # type: ignore[arg-type]  # one field of each kind
    with pytest.raises(InputError, match=rf"^{name}: received what is no valid Unicode; send"):
        begin(Output(str(tmp_path / "out"), recipe), embedder, corpus)


@pytest.mark.parametrize("place", ["out\udcff", "abfs://no account", "nothing://here"])
def test_a_place_out_of_reach_is_said_in_a_sentence(place: str) -> None:
    with pytest.raises(InputError, match=r"received a place that cannot be reached") as caught:
        Output(place, Recipe())
    assert "\n" not in str(caught.value)
