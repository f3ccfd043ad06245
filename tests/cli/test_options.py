"""What the subcommands share: errors in the caller's names, locations, files of lines."""

import doctest
from pathlib import Path

import pytest

import e5.cli.options
from e5.cli.options import HOME, absolute, caller_errors, command_parser, read_lines
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
    with pytest.raises(InputError, match=r"^--keys: received .*cannot be read.*one key a line\.$"):
        read_lines(file, "--keys", "key")
    file.write_bytes(b"\xff\xfe")
    with pytest.raises(InputError, match=r"\(UnicodeDecodeError\)"):
        read_lines(file, "--keys", "key")
    file.write_text("\n \n")
    with pytest.raises(InputError, match=r"which holds no key; write one key a line\.$"):
        read_lines(file, "--keys", "key")
    file.write_text("a\n\n b\n")
    assert read_lines(file, "--keys", "key") == ["a", " b"]


def test_the_predictor_lies_beside_the_package() -> None:
    assert (HOME / "predict.py").is_file()
