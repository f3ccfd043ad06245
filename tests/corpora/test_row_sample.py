"""Rows are chosen over the whole of their files, always the same ones, and read as they are."""

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from corpus_tools import embed, packed, texts, write_corpus, write_rows

from e5.corpora.corpus import Corpus
from e5.corpora.formats import FORMATS
from e5.corpora.index import Index
from e5.corpora.row_sample import SampledRow, SampleLimits, own_sample, sample_rows
from e5.corpora.shard_folder import Recipe
from e5.embedder import Embedder
from e5.errors import InputError

SEEKING = SampleLimits(whole_bytes=0, parquet_bytes=1)


def rows_of(count: int) -> list[dict[str, Any]]:
    """Rows of different lengths, some with a line break; the vector is the row's number."""
    draw = random.Random(0)
    return [
        {"text": f"text {i}" + "\n" * (i % 3 == 0) + "x" * draw.randint(1, 90), "embedding": [i, 1]}
        for i in range(count)
    ]


def write(path: Path, rows: list[dict[str, Any]], rows_per_group: int = 7) -> Path:
    if "csv" in path.name or "tsv" in path.name:
        rows = [row | {"embedding": json.dumps(row["embedding"])} for row in rows]
    write_rows(path, rows, rows_per_group)
    return path


def number_of(row: SampledRow) -> int:
    """The number of a row of `rows_of`, which its text and its vector must agree about."""
    assert row.problem == ""
    vector = json.loads(row.vector) if isinstance(row.vector, str) else row.vector
    assert row.text.strip("x\n") == f"text {vector[0]}"
    return int(vector[0])


class TestChoice:
    @pytest.mark.parametrize("name", [f"a{ending}" for ending in FORMATS])
    def test_rows_come_from_the_whole_file_and_are_the_same_each_time(
        self, name: str, tmp_path: Path
    ) -> None:
        corpus = Corpus(str(write(tmp_path / name, rows_of(300))))
        found = sample_rows(corpus, "embedding", 30)
        numbers = [number_of(row) for row in found]
        assert numbers == sorted(set(numbers))
        assert len(numbers) == 30
        assert {number // 100 for number in numbers} == {0, 1, 2}
        assert [row.id for row in found] == [f"{name}:{number}" for number in numbers]
        assert sample_rows(corpus, "embedding", 30) == found

    @pytest.mark.parametrize("name", [f"a{ending}" for ending in FORMATS])
    @pytest.mark.parametrize("count", [20, 21])
    def test_a_file_of_few_rows_is_taken_whole(self, name: str, count: int, tmp_path: Path) -> None:
        corpus = Corpus(str(write(tmp_path / name, rows_of(20))))
        numbers = [number_of(row) for row in sample_rows(corpus, "embedding", count)]
        assert numbers == list(range(20))

    @pytest.mark.parametrize("name", ["a.jsonl", "a.csv", "a.tsv"])
    def test_long_text_files_are_read_around_some_offsets(self, name: str, tmp_path: Path) -> None:
        path = write(tmp_path / name, rows_of(300))
        found = sample_rows(Corpus(str(path)), "embedding", 30, SEEKING)
        numbers = [number_of(row) for row in found]
        assert numbers == sorted(set(numbers))
        assert len(numbers) > 25  # two offsets may be in one row
        assert numbers[0] == 0
        assert numbers[-1] > 280
        content = path.read_bytes()
        for row in found:
            offset = int(row.id.removeprefix(f"{name}@"))
            assert content[offset - 1 : offset] in (b"\n", b"")
            assert f"text {number_of(row)}".encode() in content[offset : offset + 30]

    @pytest.mark.parametrize(
        ("name", "content"),
        [
            ("a.csv", 'text,embedding\n5" wide,[1]\nb,[2]\n'),  # a quote inside a bare value
            ("a.csv", "text,embedding\n" + "a,[1]\rb,[2]\r"),
            ("a.csv", "text,embedding\na\nb,[2]\n"),  # a value is missing
            ("a.jsonl.gz", '{"text": "a", "embedding": [1]}\n'),
            ("a.json", '[{"text": "a", "embedding": [1]}]'),
        ],
    )
    def test_what_cannot_be_read_so_is_read_from_its_start(
        self, name: str, content: str, tmp_path: Path
    ) -> None:
        (tmp_path / name).write_bytes(packed(tmp_path / name, content.encode()))
        found = sample_rows(Corpus(str(tmp_path)), "embedding", 30, SEEKING)
        assert [row.id for row in found] == [f"{name}:{i}" for i in range(len(found))]
        assert len(found) == (2 if name == "a.csv" else 1)

    def test_a_file_of_one_long_line_has_its_row(self, tmp_path: Path) -> None:
        path = write(tmp_path / "a.jsonl", rows_of(1))
        found = sample_rows(Corpus(str(path)), "embedding", 30, SEEKING)
        assert [number_of(row) for row in found] == [0]

    def test_of_large_row_groups_fewer_are_read(self, tmp_path: Path) -> None:
        corpus = Corpus(str(write(tmp_path / "a.parquet", rows_of(300), rows_per_group=50)))
        groups = [
            {number_of(row) // 50 for row in sample_rows(corpus, "embedding", 30, limits)}
            for limits in (SEEKING, SampleLimits())
        ]
        assert [len(each) for each in groups] == [1, 6]

    def test_files_have_shares_by_their_sizes_and_a_small_one_passes_its_rest_on(
        self, tmp_path: Path
    ) -> None:
        write(tmp_path / "a.jsonl", rows_of(2))
        write(tmp_path / "b.parquet", rows_of(2))  # its bytes are mostly not rows
        write(tmp_path / "c.jsonl", rows_of(400))
        write(tmp_path / "d.csv", rows_of(200))
        found = sample_rows(Corpus(str(tmp_path)), "embedding", 60)
        names = [row.id.partition(":")[0] for row in found]
        assert len(found) == 60
        assert 2 * names.count("d.csv") < names.count("c.jsonl") < 4 * names.count("d.csv")
        assert 1 <= names.count("b.parquet") <= 2

    @pytest.mark.parametrize("content", ["", "\n\n", "[]"])
    def test_a_file_without_rows_gives_none(self, content: str, tmp_path: Path) -> None:
        path = tmp_path / ("a.json" if content == "[]" else "a.jsonl")
        path.write_text(content)
        assert sample_rows(Corpus(str(path)), "embedding", 5) == []


class TestValues:
    def test_texts_are_joined_and_not_stripped(self, tmp_path: Path) -> None:
        write_rows(tmp_path / "a.jsonl", [{"title": " A", "body": "b\n", "v": [1.0], "n": 7}])
        corpus = Corpus(str(tmp_path), ("title", "body"), "n")
        (row,) = sample_rows(corpus, "v", 5)
        assert row == SampledRow("7", " A b\n", [1.0])

    @pytest.mark.parametrize(
        ("text", "problem"),
        [
            (None, "blank text"),
            (" \n", "blank text"),
            (7, "text holds int"),
            ("x" * 1_000_001, "1000001 characters"),
        ],
    )
    def test_a_row_without_a_text_says_why(self, text: Any, problem: str, tmp_path: Path) -> None:
        write_rows(tmp_path / "a.jsonl", [{"text": text, "embedding": [1.0]}])
        (row,) = sample_rows(Corpus(str(tmp_path)), "embedding", 5)
        assert row.problem == problem

    def test_a_line_that_is_no_row_says_why(self, tmp_path: Path) -> None:
        (tmp_path / "a.jsonl").write_text('{"text": "a", "embedding": [1]}\nnull\n{"text"\n')
        found = sample_rows(Corpus(str(tmp_path)), "embedding", 5)
        assert [row.problem[:8] for row in found] == ["", "JSON, bu", "not JSON"]

    @pytest.mark.parametrize(
        ("column", "value"),
        [
            (pa.array([[1, 2]], pa.list_(pa.float16(), 2)), [1, 2]),
            (pa.array([[1, 2]], pa.large_list(pa.float64())), [1, 2]),
            (pa.array([[1, -2]], pa.list_(pa.int8())), [1, -2]),
            (pa.array([b"\x00\x00\x80?"]), b"\x00\x00\x80?"),
            (pa.array([b"\x00\x00\x80?"], pa.binary(4)), b"\x00\x00\x80?"),
            (pa.array([b"\xff"]).dictionary_encode(), b"\xff"),
            (pa.array(["[1, 2]"]).dictionary_encode(), "[1, 2]"),
            (
                pa.ExtensionArray.from_storage(
                    pa.fixed_shape_tensor(pa.float32(), [2]),
                    pa.array([[1, 2]], pa.list_(pa.float32(), 2)),
                ),
                [1, 2],
            ),
            (pa.array([None], pa.list_(pa.float32())), None),
        ],
        ids=lambda value: str(getattr(value, "type", "")),
    )
    def test_a_vector_of_parquet_is_as_it_is(
        self, column: pa.Array, value: Any, tmp_path: Path
    ) -> None:
        table = pa.table({"text": ["a"], "embedding": column})
        pq.write_table(table, tmp_path / "a.parquet")
        (row,) = sample_rows(Corpus(str(tmp_path)), "embedding", 5)
        assert row.vector == value


class TestColumns:
    @pytest.mark.parametrize("name", [f"a{ending}" for ending in FORMATS])
    @pytest.mark.parametrize(
        ("field", "text", "identity", "vector"),
        [
            ("text_columns", "body", None, "embedding"),
            ("id_column", "text", "key", "embedding"),
            ("vector_column", "text", None, "vector"),
        ],
    )
    def test_one_that_is_not_there_is_named(
        self, field: str, text: str, identity: str | None, vector: str, name: str, tmp_path: Path
    ) -> None:
        write(tmp_path / name, rows_of(3))
        with pytest.raises(
            InputError, match=r"which .* does not have; it has text, embedding"
        ) as e:
            sample_rows(Corpus(str(tmp_path), (text,), identity), vector, 5)
        assert e.value.field == field

    def test_one_that_is_there_twice_is_refused(self, tmp_path: Path) -> None:
        (tmp_path / "a.csv").write_text("text,embedding,embedding\na,[1],[2]\n")
        with pytest.raises(InputError, match=r"'embedding', which a\.csv has 2 times"):
            sample_rows(Corpus(str(tmp_path)), "embedding", 5)


class TestOwn:
    @pytest.mark.parametrize("dtype", ["int8", "binary"])
    def test_a_folder_of_shards_and_its_index_give_their_rows(
        self, dtype: Any, embedder: Embedder, tmp_path: Path
    ) -> None:
        given = texts(40)
        corpus = write_corpus(tmp_path / "in" / "a.jsonl", given)
        shards = embed(corpus, tmp_path / "out", embedder, Recipe(dtype=dtype))
        Index.build(shards, str(tmp_path / "index"))
        true = dict(
            zip([f"a-{i}" for i in range(40)], embedder.encode_document(given), strict=True)
        )
        texts_by_id = {f"a-{i}": text for i, text in enumerate(given)}
        for location in ("out", "index"):
            found = own_sample(str(tmp_path / location), 10)
            assert found is not None
            assert found.manifest.dtype == dtype
            assert len({row.id for row in found.rows}) == 10
            for row in found.rows:
                assert row.text == texts_by_id[row.id]
                vector, right = np.array(row.vector, np.float32), true[row.id]
                if dtype == "binary":
                    right = np.where(right > 0, 1, -1)
                cosine = vector @ right / np.linalg.norm(vector) / np.linalg.norm(right)
                assert cosine > 0.999
            assert own_sample(str(tmp_path / location), 10) == found

    def test_other_locations_are_none(self, tmp_path: Path) -> None:
        for name in ("manifest.json", "_manifest.json", "index.json"):
            (tmp_path / name).write_text('{"of": "another program"}')
        write(tmp_path / "a.jsonl", rows_of(2))
        for location in (tmp_path, tmp_path / "a.jsonl", tmp_path / "missing"):
            assert own_sample(str(location), 10) is None
