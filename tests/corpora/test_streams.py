"""The stream of a file is its text in UTF-8, however it is written, from any offset on."""

import codecs
import gzip
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import fs

from e5.corpora.streams import FormatError, open_stream

ENCODINGS = [
    "utf-8",
    "utf-8-sig",
    "utf-16",
    "utf-16-le",
    "utf-32",
    "latin-1",
    "cp1252",
    "shift_jis",
]
COMPRESS: dict[str, Callable[[bytes], bytes]] = {
    "": lambda content: content,
    ".gz": gzip.compress,
    ".zst": lambda content: pa.compress(content, codec="zstd", asbytes=True),
}


def read(path: Path, encoding: str = "utf-8", offset: int = 0) -> bytes:
    opened, _ = open_stream(lambda: open_bytes(path), path.name, encoding)
    with opened:
        opened.seek(offset)
        return opened.read()


def open_bytes(path: Path) -> Any:
    return fs.LocalFileSystem().open_input_file(str(path))


@given(text=st.text(st.characters(exclude_categories=["Cs"]), max_size=99), data=st.data())
@pytest.mark.parametrize("ending", COMPRESS)
def test_any_text_in_any_encoding_and_compression_is_read(
    ending: str, text: str, data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    able = []
    for encoding in ENCODINGS:
        try:
            if text.encode(encoding).decode(encoding) == text and text[:1] != "\ufeff":
                able.append(encoding)
        except UnicodeError:
            pass
    if text[:1] == "\0" and "utf-16" in able:
        able.remove("utf-16")  # looks like UTF-32: see the test below
    encoding = data.draw(st.sampled_from(able or ["utf-8"]))
    path = tmp_path_factory.mktemp("in") / f"a.csv{ending}"
    path.write_bytes(COMPRESS[ending](text.encode(encoding)))
    mark = codecs.BOM_UTF8 if encoding == "utf-8-sig" else b""  # its reader skips it
    whole = mark + text.encode()
    offset = data.draw(st.integers(0, len(whole)))
    if text.encode("latin-1", "replace")[:2] in (b"\xff\xfe", b"\xfe\xff") and encoding != "utf-8":
        return  # cannot be told from another encoding
    assert read(path, encoding, offset) == whole[offset:]


@given(rest=st.text(st.characters(exclude_categories=["Cs"]), max_size=99))
def test_utf_16_that_begins_with_nul_is_refused_as_the_utf_32_that_it_looks_like(
    rest: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("in") / "a.csv"
    path.write_bytes(codecs.BOM_UTF16_LE + f"\0{rest}".encode("utf-16-le"))
    with pytest.raises(FormatError, match="mark of utf-32, and is read as utf-16"):
        read(path, "utf-16")


@pytest.mark.parametrize("ending", COMPRESS)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_reading_can_seek_forward_and_back(ending: str, encoding: str, tmp_path: Path) -> None:
    text = "".join(f"line {i} \N{SNOWMAN}\n" for i in range(100_000))
    path = tmp_path / f"a.jsonl{ending}"
    path.write_bytes(COMPRESS[ending](text.encode(encoding)))
    whole = text.encode()
    opened, seeks = open_stream(lambda: open_bytes(path), path.name, encoding)
    with opened:
        assert seeks == (ending == "" and encoding == "utf-8")
        for offset in (5, 1_500_000, 700_000, 0, len(whole), 12):
            opened.seek(offset)
            assert opened.read(50) == whole[offset : offset + 50]


@pytest.mark.parametrize("ending", [".gz", ".zst"])
def test_several_compressed_parts_are_one_file_and_half_a_file_is_an_error(
    ending: str, tmp_path: Path
) -> None:
    path = tmp_path / f"a.jsonl{ending}"
    part = COMPRESS[ending](b"one\n" * 10_000)
    path.write_bytes(part + COMPRESS[ending](b"two\n"))
    assert read(path) == b"one\n" * 10_000 + b"two\n"
    for length in (5, len(part) // 2, len(part) - 1):
        path.write_bytes(part[:length])
        with pytest.raises(OSError, match=r"(?i)truncated|decompress|zlib"):
            read(path)


@pytest.mark.parametrize(
    ("content", "encoding", "named"),
    [
        ("text".encode("utf-16"), "utf-8", "utf-16"),
        ("text".encode("utf-32"), "utf-8", "utf-32"),
        ("text".encode("utf-8-sig"), "latin-1", "utf-8"),
        ("text".encode("utf-16"), "cp1252", "utf-16"),
    ],
)
def test_the_byte_order_mark_of_another_encoding_is_refused_with_the_remedy(
    content: bytes, encoding: str, named: str, tmp_path: Path
) -> None:
    (tmp_path / "a.csv").write_bytes(content)
    with pytest.raises(FormatError, match=f"mark of {named}, and is read as") as refused:
        read(tmp_path / "a.csv", encoding)
    assert refused.value.remedy == f"read it with --encoding {named}, or save it as {encoding}"


@pytest.mark.parametrize(
    ("content", "encoding"),
    [(b"\x81 caf\xe9", "cp1252"), (b"a\x00b", "utf-16-le"), (b"\xff", "ascii")],
)
def test_bytes_that_are_invalid_in_the_encoding_never_become_other_characters(
    content: bytes, encoding: str, tmp_path: Path
) -> None:
    (tmp_path / "a.csv").write_bytes(content)
    with pytest.raises(FormatError, match="it is not in the encoding"):
        read(tmp_path / "a.csv", encoding)
