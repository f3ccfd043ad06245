"""What the subcommands share: errors in the caller's names, locations, files of lines."""

import doctest
import io
import sys
from pathlib import Path

import pytest

import e5.cli.options
from e5.cli.options import (
    HOME,
    absolute,
    caller_errors,
    command_parser,
    read_lines,
    read_text,
)
from e5.errors import E5Error, InputError


def test_an_error_of_the_package_names_the_option() -> None:
    names = {"text_columns": "--text-column"}
    with pytest.raises(InputError, match=r"^--text-column: received 7; "), caller_errors(names):
        raise InputError("text_columns", "7", "use another")
    with pytest.raises(InputError, match=r"^PORT: "), caller_errors({}):
        raise InputError("PORT", "7", "use another")


def test_only_the_named_errors_become_sentences() -> None:
    with pytest.raises(E5Error, match=r"^no such model$"), caller_errors({}, ValueError):
        raise ValueError("no such model")
    with pytest.raises(KeyError), caller_errors({}, ValueError):
        raise KeyError("a defect of the program")


def test_options_are_not_abbreviated(capsys: pytest.CaptureFixture[str]) -> None:
    parser = command_parser("search", "Search.")
    parser.add_argument("--url")
    with pytest.raises(SystemExit):
        parser.parse_args(["--ur", "a"])
    assert "e5 search: error: unrecognized arguments: --ur a" in capsys.readouterr().err


def test_a_path_is_made_absolute_and_a_uri_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert absolute("in/a.csv") == f"{tmp_path}/in/a.csv"
    assert absolute("/in/a.csv") == "/in/a.csv"
    assert doctest.testmod(e5.cli.options, raise_on_error=True).attempted > 0


def test_a_file_of_lines_has_at_least_one(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    with pytest.raises(InputError, match=r"^--keys: received .*cannot be read \(No such file"):
        read_lines(file, "--keys", "key")
    for blank in (b"", b"\n \r\n\x0c\n", b"\xef\xbb\xbf", b"\xff\xfe", "\ufeff\n".encode("utf-32")):
        file.write_bytes(blank)
        with pytest.raises(InputError, match=r"which holds no key; write one key a line\.$"):
            read_lines(file, "--keys", "key")


LINES = {1: "a\x0cb\x0b\x85\u2028\u2029\x1c\x1d\x1e", 2: " b\tñ 雪 ", 5: "c🙂"}


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("last", ["", "\n", "\r\n\r\n", " \n"])
def test_lines_end_at_line_ends_and_keep_all_else(
    encoding: str, end: str, last: str, tmp_path: Path
) -> None:
    text = end.join([LINES[1], LINES[2], "", " \u3000", LINES[5]]) + last
    (tmp_path / "file").write_bytes(text.encode(encoding))
    found = read_lines(tmp_path / "file", "--queries", "query")
    assert found == LINES | ({5: "c🙂 "} if last == " \n" else {})


def test_byte_order_marks_of_either_order_and_of_joined_files_are_no_text(tmp_path: Path) -> None:
    file = tmp_path / "file"
    for mark, encoding in ((b"\xff\xfe", "utf-16-le"), (b"\xfe\xff", "utf-16-be")):
        file.write_bytes(mark + "ä\nb".encode(encoding))
        assert read_lines(file, "--queries", "query") == {1: "ä", 2: "b"}
    file.write_bytes(2 * "ä\r\n".encode("utf-8-sig"))
    assert read_lines(file, "--queries", "query") == {1: "ä", 2: "ä"}


@pytest.mark.parametrize(
    ("content", "line", "encoding"),
    [
        (b"one\r\ntwo\r\nM\xfcnchen\r\n", 3, "UTF-8"),
        (b"\xef\xbb\xbfone\rtwo \xed\xa0\x80", 2, "UTF-8"),  # a surrogate
        ("one\ntwo".encode("utf-16-le"), 1, "UTF-8"),  # without its mark
        ("\ufeffone\ntwo\nx".encode("utf-16-le") + b"\x00\xd8", 3, "UTF-16"),
        ("\ufeffone\ntwo".encode("utf-16-be")[:-1], 2, "UTF-16"),
        (b"one\n\ntw\x00o", 3, "UTF-8"),
    ],
)
def test_what_is_no_text_is_named_with_its_line(
    content: bytes, line: int, encoding: str, tmp_path: Path
) -> None:
    (tmp_path / "file").write_bytes(content)
    sentence = rf"^--keys: received .*/file, of which line {line} is not {encoding} text; save it"
    with pytest.raises(InputError, match=sentence):
        read_lines(tmp_path / "file", "--keys", "key")


def test_a_hyphen_is_the_standard_input(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO("\ufeffä\r\nb".encode())))
    assert read_lines(Path("-"), "--queries", "query") == {1: "ä", 2: "b"}


def test_a_whole_text_keeps_its_line_ends(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes("\ufeffone\r\ntwo\n".encode())
    assert read_text(tmp_path / "file", "-i query") == "one\r\ntwo\n"


def test_the_predictor_lies_beside_the_package() -> None:
    assert (HOME / "predict.py").is_file()
