"""The offsets at which rows begin are those that a parser finds, or none are given."""

import csv
import io
import json
import random
from collections.abc import Sequence

import pytest

from e5.corpora.row_starts import csv_row_starts, line_starts

MOST = 2**26


def opened(content: bytes) -> io.BufferedReader:
    return io.BufferedReader(io.BytesIO(content))


def written(rows: Sequence[Sequence[str]], delimiter: str = ",", end: str = "\n") -> bytes:
    text = io.StringIO(newline="")
    csv.writer(text, delimiter=delimiter, lineterminator=end).writerows(rows)
    return text.getvalue().encode()


def starts_of_rows(rows: Sequence[Sequence[str]], **options: str) -> list[int]:
    """The true ones, of all rows."""
    sizes = [len(written([row], **options)) for row in rows]
    return [sum(sizes[:i]) for i in range(len(rows))]


def next_start(starts: Sequence[int], offset: int) -> list[int]:
    return [start for start in starts if start > offset][:1]


class TestLines:
    content = b"a\nbb\n\ncccc\n"

    @pytest.mark.parametrize(
        ("offset", "start"), [(0, [0]), (1, [2]), (2, [5]), (4, [5]), (5, [6]), (6, []), (11, [])]
    )
    def test_the_next_line_begins_behind_the_next_end(self, offset: int, start: list[int]) -> None:
        assert line_starts(opened(self.content), [offset], MOST) == start

    def test_each_is_given_once(self) -> None:
        assert line_starts(opened(self.content), [0, 1, 1, 2, 3], MOST) == [0, 2, 5]

    def test_a_line_that_is_too_long_gives_none(self) -> None:
        assert line_starts(opened(b"x" * 90 + b"\ny\n"), [1], 10) == []


class TestCsv:
    @pytest.mark.parametrize("delimiter", [",", "\t", "|", "^"])
    @pytest.mark.parametrize("end", ["\n", "\r\n"])
    def test_every_offset_gives_the_next_row(self, delimiter: str, end: str) -> None:
        draw = random.Random(0)
        words = ["snow", 'a "quote"', "two\nlines", "x,y|z\tw^v", "", '"', "é😀", "\r\n", '""\n"']
        rows = [[draw.choice(words) + draw.choice(words), json.dumps([i, 0.5])] for i in range(40)]
        content = written(rows, delimiter, end)
        starts = starts_of_rows(rows, delimiter=delimiter, end=end)
        options = {"width": 2, "delimiter": delimiter, "max_bytes": MOST}
        for offset in range(len(content)):
            found = csv_row_starts(opened(content), [offset], **options)  # type: ignore[arg-type]
            assert found == next_start(starts, offset), offset

    def test_offsets_in_one_row_give_one_row(self) -> None:
        content = written([["a", "b"], ["c\nd", "e"], ["f", "g"]])
        found = csv_row_starts(
            opened(content), range(len(content)), width=2, delimiter=",", max_bytes=MOST
        )
        assert found == starts_of_rows([["a", "b"], ["c\nd", "e"], ["f", "g"]])[1:]

    def test_rows_that_are_longer_than_a_window_are_found(self) -> None:
        rows = [["a" * 70_000 + "\n", "1"], ["b" * 300_000, "2"], ["c", "3" * 70_000]]
        content, starts = written(rows), starts_of_rows(rows)
        for offset in (0, 69_999, starts[1], starts[2] - 1):
            found = csv_row_starts(
                opened(content), [offset], width=2, delimiter=",", max_bytes=MOST
            )
            assert found == next_start(starts, offset)

    @pytest.mark.parametrize(
        "content",
        [
            b'a,b\n5" wide,c\nd,e\n',  # a quote inside a bare value
            b"a,b\nc\nd,e\n",  # a value is missing
            b"a,b\nc,d,e\n",  # one too many
            b"a,b\nc,d\re,f\n",  # a carriage return inside a bare value
            b'a,b\n"c"d,e\n',  # something behind a quote
            b'a,b\n"c,d\n',  # a quote that is never closed
        ],
    )
    def test_what_is_written_otherwise_gives_none(self, content: bytes) -> None:
        found = csv_row_starts(opened(content), [1], width=2, delimiter=",", max_bytes=MOST)
        assert found is None

    def test_a_row_that_is_too_long_gives_none(self) -> None:
        content = written([["a", "b"], ["c" * 300_000, "d"]])
        options = {"width": 2, "delimiter": ",", "max_bytes": 100_000}
        assert csv_row_starts(opened(content), [1], **options) is None  # type: ignore[arg-type]
