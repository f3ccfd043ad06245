"""A folder is listed to its end, each file by one path, whatever its links and names are."""

import os
from pathlib import Path

import pytest
from processes import needs_linux
from pyarrow import fs

from e5.corpora.listing import files_below, is_hidden


def listed(folder: Path) -> tuple[list[str], list[str]]:
    found, remarks = files_below(fs.LocalFileSystem(), str(folder))
    assert all(info.is_file and info.path.endswith(path) for path, info in found.items())
    return sorted(found), remarks


def touch(*paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("text")


LOOPS = (
    "paths are left out, because they lead around a loop of links, or where a shorter path leads: "
)


@pytest.mark.parametrize(
    ("links", "remark"),
    [
        ({"latest": "."}, ["1 " + LOOPS + "latest"]),
        ({"x/up": ".."}, ["1 " + LOOPS + "x/up"]),
        ({"x/up": "..", "latest": "."}, ["2 " + LOOPS + "latest, x/up"]),
        ({"x/y": "../y", "y/x": "../x"}, ["2 " + LOOPS + "x/y, y/x"]),
        ({"itself": "itself"}, ["1 " + LOOPS + "itself"]),
        ({"one": "two", "two": "one"}, ["2 " + LOOPS + "one, two"]),
        ({"itself.jsonl": "itself.jsonl"}, ["1 " + LOOPS + "itself.jsonl"]),
        ({f"l{i}": "." for i in range(9)}, ["9 " + LOOPS + "l0, l1, l2, l3, l4, ..."]),
        ({".hidden": "."}, []),
        ({"dangling.jsonl": "nowhere"}, []),
    ],
    ids=lambda case: ",".join(case) if isinstance(case, dict) else "",
)
def test_a_loop_of_links_is_left_out_and_named_once(
    links: dict[str, str], remark: list[str], tmp_path: Path
) -> None:
    touch(tmp_path / "x/a.jsonl", tmp_path / "y/b.jsonl", tmp_path / "c.jsonl")
    for name, target in links.items():
        (tmp_path / name).symlink_to(target)
    assert listed(tmp_path) == (["c.jsonl", "x/a.jsonl", "y/b.jsonl"], remark)


def test_a_loop_from_far_below_ends(tmp_path: Path) -> None:
    deep = tmp_path.joinpath(*["deeper"] * 40)
    touch(deep / "a.jsonl")
    (deep / "top").symlink_to(tmp_path)
    (deep / "absolute").symlink_to(deep.parent)
    paths, remarks = listed(tmp_path)
    assert paths == [f"{'deeper/' * 40}a.jsonl"]
    assert remarks[0].startswith("2 " + LOOPS)


def test_paths_that_meet_again_and_again_are_walked_once(tmp_path: Path) -> None:
    for i in range(30):  # 2^29 paths lead to the last file
        touch(tmp_path / f"away/{i}/{i}.jsonl")
        for name in ("x", "y"):
            (tmp_path / f"away/{i}/{name}").symlink_to(f"../{i + 1}")
    (tmp_path / "in").mkdir()
    (tmp_path / "in/first").symlink_to("../away/0")
    paths, _ = listed(tmp_path / "in")
    assert paths == sorted(f"first/{'x/' * i}{i}.jsonl" for i in range(30))


def test_links_out_of_the_folder_are_followed(tmp_path: Path) -> None:
    touch(tmp_path / "in/a.jsonl", tmp_path / "away/b.jsonl", tmp_path / "blobs/5f3a")
    (tmp_path / "in/away").symlink_to("../away")
    (tmp_path / "in/c.jsonl").symlink_to("../blobs/5f3a")
    (tmp_path / "away/back").symlink_to("../in")
    paths, remarks = listed(tmp_path / "in")
    assert paths == ["a.jsonl", "away/b.jsonl", "c.jsonl"]
    assert remarks == ["1 " + LOOPS + "away/back"]


def test_the_shortest_path_counts_but_a_hidden_one_last(tmp_path: Path) -> None:
    touch(tmp_path / "deep/er/a.jsonl", tmp_path / "data/b.jsonl", tmp_path / "_only/c.jsonl")
    (tmp_path / "l").symlink_to("deep/er")
    (tmp_path / ".d").symlink_to("data")
    assert listed(tmp_path)[0] == ["_only/c.jsonl", "data/b.jsonl", "l/a.jsonl"]


@needs_linux
def test_names_that_are_not_utf_8_are_named_and_cost_nobody_else_anything(tmp_path: Path) -> None:
    touch(tmp_path / "good.jsonl")
    root = os.fsencode(tmp_path)
    os.mkdir(root + b"/fold\xe9r")
    for name in (b"caf\xe9.jsonl", b"\xc3\xa9\xff.txt", b".hidden\xff", b"fold\xe9r/in.jsonl"):
        with open(root + b"/" + name, "w"):
            pass
    names = "caf\\xe9.jsonl, fold\\xe9r, \N{LATIN SMALL LETTER E WITH ACUTE}\\xff.txt"
    expected = [f"3 names are left out, because they are not UTF-8; rename them: {names}"]
    assert listed(tmp_path) == (["good.jsonl"], expected)


def test_other_strange_names_are_names(tmp_path: Path) -> None:
    names = ["new\nline.jsonl", "\x1b[31mred\x7f.jsonl", "-dash.jsonl", "--help", "x" * 255, "a b"]
    names += ["%20?#*\\'\".jsonl", "a:b://c", "\u202e.jsonl", "e\u0301", "sub\nfolder/-x/a\t.jsonl"]
    touch(*(tmp_path / name for name in names))
    os.mkfifo(tmp_path / "fifo.jsonl")  # which is no file, and would be waited for
    assert listed(tmp_path) == (sorted(os.path.normpath(name) for name in names), [])


def test_a_name_is_hidden_by_itself_or_by_a_folder() -> None:
    assert all(map(is_hidden, [".a", "_a", "x/.a", "x/_y/a", ".x/a"]))
    assert not any(map(is_hidden, ["a", "a.b", "a_b", "x/a.b", "x_y/a"]))
