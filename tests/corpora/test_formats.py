"""Files as they are found: each format gives the rows that were written, from any row on."""

import csv
import io
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from corpus_tools import packed, write_rows
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import fs

from e5.corpora.documents import Unkept
from e5.corpora.filesystem import READ_ERRORS
from e5.corpora.formats import FORMATS, Reader, ReadPosition, TextFormat, holds_text, open_reader
from e5.corpora.streams import FormatError
from e5.errors import InputError

VALUES = st.text(st.characters(exclude_categories=["Cs"]), max_size=30) | st.sampled_from(
    ['say "no"', "two\nlines", "a\r\nb", "old\rmac", "a,b;c\td", "line\u2028separator", "\x85\x0c",
     "a\\", '\\"', "\ufeff"]
)  # fmt: skip


@contextmanager
def opened(
    path: Path, text_format: TextFormat | None = None, columns: Sequence[str] | None = None
) -> Iterator[Reader]:
    with open_reader(fs.LocalFileSystem(), str(path), text_format, columns) as reader:
        yield reader


def read(
    path: Path, columns: Sequence[str] = ("text",), text_format: TextFormat | None = None
) -> list[Any]:
    with opened(path, text_format, columns) as reader:
        return [row for _, row in reader.rows()]


@settings(max_examples=15)
@given(texts=st.lists(VALUES, min_size=1, max_size=20), data=st.data())
@pytest.mark.parametrize("ending", FORMATS)
def test_rows_come_back_as_they_were_written_from_any_row_on(
    ending: str,
    texts: list[str],
    data: st.DataObject,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    path = tmp_path_factory.mktemp("in") / f"part{ending}"
    rows = [{"id": f"row {i}", "text": text} for i, text in enumerate(texts)]
    write_rows(path, rows)
    with opened(path) as reader:
        assert reader.columns() == ["id", "text"]
        assert all(map(holds_text, reader.types.values()))
        assert reader.has_types == (not ending.startswith((".csv", ".tsv")))
        found = list(reader.rows())
        assert [row for _, row in found] == rows
        for _ in range(3):
            first = data.draw(st.integers(0, len(rows) - 1))
            tail = list(reader.rows(ReadPosition(first, found[first][0])))
            assert tail == found[first:]


@given(texts=st.lists(VALUES, min_size=1, max_size=9), data=st.data())
def test_csv_may_have_another_delimiter_escape_and_encoding(
    texts: list[str], data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    texts = [text for text in texts if "\\" not in text] or ["x"]
    encoding = data.draw(st.sampled_from(["utf-8", "utf-16", "utf-32"]))
    delimiter = data.draw(st.sampled_from([",", ";", "|", "\t"]))
    path = tmp_path_factory.mktemp("in") / "a.csv"
    text = io.StringIO(newline="")
    escaped = data.draw(st.booleans())
    how: Any = {"doublequote": False, "escapechar": "\\"} if escaped else {}
    csv.writer(text, delimiter=delimiter, quoting=csv.QUOTE_ALL, **how).writerows(
        [["text"], *([value] for value in texts)]
    )
    path.write_bytes(text.getvalue().encode(encoding))
    text_format = TextFormat(delimiter, "\\" if escaped else None, encoding)
    assert read(path, text_format=text_format) == [{"text": value} for value in texts]


def test_bytes_that_are_no_utf_8_cost_only_their_own_row(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(b"\xef\xbb\xbftext\ngood\nbad \xff\ngood\n")
    first, second, third = read(tmp_path / "a.csv")
    assert first == third == {"text": "good"}
    with pytest.raises(UnicodeEncodeError):  # a lone surrogate, which is refused later
        second["text"].encode()
    (tmp_path / "a.jsonl").write_bytes(b'{"text": "good"}\n{"text": "\xff"}\n{"text": "good"}\n')
    first, second, third = read(tmp_path / "a.jsonl")
    assert first == third == {"text": "good"}
    assert second == {"text": "\udcff"}


def test_rows_of_csv_with_too_many_values_are_dead_letters(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("id,text\n1,Hello, world\n2\n3,three,,\n")
    assert read(tmp_path / "a.csv") == [
        "3 values for 2 columns",
        {"id": "2"},
        {"id": "3", "text": "three"},
    ]


@pytest.mark.parametrize("rest", ["", "\n", "\n2,good\n3,good\n"])
def test_a_quote_that_is_never_closed_swallows_no_rows(rest: str, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(f'id,text\n0,"a\nb"\n1,"unclosed{rest}')
    with pytest.raises(csv.Error, match="a quote is opened and never closed"):
        read(tmp_path / "a.csv")
    (tmp_path / "a.csv").write_text(f'id,text\n0,"a\nb"\n1,"closed{rest}"')
    assert len(read(tmp_path / "a.csv")) == 2


def test_blank_lines_are_no_rows_but_keep_the_numbers_right(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('\n{"text": "one"}\n \n{"text": "two"}')
    assert read(tmp_path / "a.jsonl") == [None, {"text": "one"}, None, {"text": "two"}]
    (tmp_path / "a.csv").write_text("\n\ntext\none\n\ntwo\n")
    assert read(tmp_path / "a.csv") == [{"text": "one"}, None, {"text": "two"}]


def test_a_field_may_be_larger_than_the_csv_module_s_own_limit(tmp_path: Path) -> None:
    write_rows(tmp_path / "a.csv", [{"text": "x" * 200_000}, {"text": "neighbour"}])
    assert [len(row["text"]) for row in read(tmp_path / "a.csv")] == [200_000, 9]


@pytest.mark.parametrize("name", ["a.jsonl", "a.json"])
def test_a_column_that_only_some_rows_of_json_have_is_there(name: str, tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [{"text": "one"}] * 500 + [{"text": "two", "title": "The"}]
    write_rows(tmp_path / name, rows)
    with opened(tmp_path / name) as reader:
        assert reader.columns() == ["text", "title"]


@pytest.mark.parametrize("name", ["a.jsonl.gz", "a.csv.zst", "a.json.gz", "a.json", "a.parquet"])
def test_half_a_file_is_an_error(name: str, tmp_path: Path) -> None:
    write_rows(tmp_path / name, [{"text": f"row {i}"} for i in range(1000)])
    whole = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(READ_ERRORS):
        read(tmp_path / name)


class TestJsonArrays:
    @pytest.mark.parametrize("content", ['{"text": "a"}', '{"text": "a"}\n{"text": "b"}\n', "7"])
    def test_a_file_without_an_array_is_refused(self, content: str, tmp_path: Path) -> None:
        (tmp_path / "a.json").write_text(content)
        with pytest.raises(FormatError, match="it holds no JSON array") as refused:
            read(tmp_path / "a.json")
        assert refused.value.remedy.endswith("name the file .jsonl")

    def test_elements_that_are_no_objects_cost_only_themselves(self, tmp_path: Path) -> None:
        (tmp_path / "a.json").write_text(
            '\ufeff \n[{"text": "a", "n": 1.5}, 7, null, {"text": "b"}]'
        )
        assert read(tmp_path / "a.json") == [
            {"text": "a", "n": 1.5},
            "JSON, but not an object: 7",
            "JSON, but not an object: null",
            {"text": "b"},
        ]
        (tmp_path / "a.json").write_text(" ")
        assert read(tmp_path / "a.json") == []


class TestParquet:
    @pytest.mark.parametrize("column", [[7], [["a", "list"]], [{"a": 1}], [True]])
    def test_columns_that_cannot_hold_text_are_named(
        self, column: list[Any], tmp_path: Path
    ) -> None:
        pq.write_table(pa.table({"text": pa.array(column)}), tmp_path / "a.parquet")
        with opened(tmp_path / "a.parquet") as reader:
            assert not holds_text(reader.types["text"])

    @pytest.mark.parametrize(
        "kind",
        [pa.string(), pa.large_string(), pa.string_view(), pa.binary(), pa.large_binary(),
         pa.binary_view(), pa.dictionary(pa.int32(), pa.string()),
         pa.dictionary(pa.int32(), pa.binary())],
        ids=str,
    )  # fmt: skip
    def test_every_kind_of_text_is_text(self, kind: pa.DataType, tmp_path: Path) -> None:
        inner = kind.value_type if pa.types.is_dictionary(kind) else kind
        texts = ["snow", None, "\N{SNOWMAN}", "snow"]
        column = pa.array(texts, pa.string()).cast(
            pa.binary() if "binary" in str(inner) else pa.string()
        )
        is_dictionary = pa.types.is_dictionary(kind)
        column = column.dictionary_encode() if is_dictionary else column.cast(kind)
        pq.write_table(pa.table({"text": column}), tmp_path / "a.parquet")
        with opened(tmp_path / "a.parquet") as reader:
            assert holds_text(reader.types["text"])
        assert [row["text"] for row in read(tmp_path / "a.parquet")] == texts

    @pytest.mark.parametrize("kind", [pa.string(), pa.binary()])
    def test_text_that_is_no_utf_8_costs_only_its_own_row(
        self, kind: pa.DataType, tmp_path: Path
    ) -> None:
        texts = pa.array([b"good", b"bad \xff", b"fine"]).view(kind)
        pq.write_table(pa.table({"text": texts}), tmp_path / "a.parquet")
        first, second, third = read(tmp_path / "a.parquet")
        assert (first, third) == ({"text": "good"}, {"text": "fine"})
        assert second == {"text": Unkept("bytes that are not UTF-8")}

    @pytest.mark.parametrize("rows_per_group", [7, 9000])
    def test_times_of_96_bits_come_back_however_far_they_are(
        self, rows_per_group: int, tmp_path: Path
    ) -> None:
        far = [datetime(9999, 12, 31, 23, 59, 59, 999999), datetime(1, 1, 1), None]
        near = [datetime(1969, 12, 31, 23, 59, 59, 999999), datetime(1816, 3, 29, 5, 56, 8, 66277)]
        times = pa.array([*far, *near] * 210, pa.timestamp("us"))
        table, path = pa.table({"text": ["a"] * len(times), "t": times}), tmp_path / "a.parquet"
        pq.write_table(
            table, path, use_deprecated_int96_timestamps=True, row_group_size=rows_per_group
        )
        with opened(path, columns=("text", "t")) as reader:
            for first in (0, 3, 1030):
                rows: list[Any] = [row for _, row in reader.rows(ReadPosition(first))]
                assert [row["t"] for row in rows] == times.to_pylist()[first:]

    def test_times_of_96_bits_have_their_nanoseconds(self, tmp_path: Path) -> None:
        times = pa.array([10**18 + 1, -1, None], pa.timestamp("ns"))
        path = tmp_path / "a.parquet"
        pq.write_table(pa.table({"t": times}), path, use_deprecated_int96_timestamps=True)
        assert [row["t"] for row in read(path, ("t",))] == [
            "2001-09-09T01:46:40.000000001",
            "1969-12-31T23:59:59.999999999",
            None,
        ]


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"delimiter": ""}, "delimiter"), ({"delimiter": "ab"}, "delimiter"),
        ({"delimiter": "\n"}, "delimiter"), ({"escape": '"'}, "escape"),
        ({"encoding": "utf-17"}, "encoding"), ({"encoding": "base64"}, "encoding"),
        ({"encoding": "a\0b"}, "encoding"),
    ],
)  # fmt: skip
def test_a_format_that_cannot_be_read_is_refused(options: dict[str, Any], field: str) -> None:
    with pytest.raises(InputError, match=rf"^{field}: received "):
        TextFormat(**options)


def test_a_byte_order_mark_is_no_part_of_the_first_row(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(b'\xef\xbb\xbf"id","text"\r\n1,"one\r\ntwo"\r\n')
    assert read(tmp_path / "a.csv") == [{"id": "1", "text": "one\r\ntwo"}]
    for name in ("a.jsonl", "b.ndjson.gz"):
        content = b"\xef\xbb\xbf" + json.dumps({"text": "one"}).encode()
        (tmp_path / name).write_bytes(packed(tmp_path / name, content))
        assert read(tmp_path / name) == [{"text": "one"}]


@pytest.mark.parametrize("ending", ["", ".gz"])
def test_a_line_without_end_is_no_row_and_not_kept_in_memory(ending: str, tmp_path: Path) -> None:
    text_format = TextFormat(max_line_bytes=1000)
    long = '{"text": "%s"}' % ("x" * 5000)
    lines = ['{"text": "one"}', long, '{"text": "two"}', '{"text": "%s"}' % ("y" * 987)]
    path = tmp_path / f"a.jsonl{ending}"
    path.write_bytes(packed(path, "\n".join([*lines, ""]).encode()))
    with opened(path, text_format) as reader:
        found = list(reader.rows())
    assert [row for _, row in found] == [
        {"text": "one"},
        "a line of more than 1000 bytes",
        {"text": "two"},
        {"text": "y" * 987},
    ]
    assert [offset for offset, _ in found] == [0, 16, 16 + len(long) + 1, 32 + len(long) + 1]
    path = tmp_path / f"a.csv{ending}"
    path.write_bytes(packed(path, ("text\n" + "x" * 5000).encode()))
    with pytest.raises(csv.Error, match="a line of more than"):
        read(path, text_format=text_format)
