"""What is fetched and what is written is read into plain records."""

from pathlib import Path

from training import sources
from training.sources import Pair
from training.texts import LeakDetector


def test_no_text_of_the_evaluation_is_written_to_be_trained_on() -> None:
    leaks = LeakDetector()
    found = [
        text
        for pair in sources.written()
        for text in (pair.query, *pair.passages)
        if leaks.found_in(text)
    ]
    assert found == []


def test_debian_s_descriptions_are_read_one_of_those_that_read_alike(tmp_path: Path) -> None:
    (tmp_path / "lists").mkdir()
    described = "Package: {}\nDescription-md5: 0\nDescription-en: {}\n {}\n .\n And more of it.\n"
    body = "A long text about what it does\n and for whom it was made."
    records = [
        described.format("a", "tool for all seasons", body),
        described.format("b", "tool for all seasons", "The same title and another text behind it."),
        described.format("c", "short", body),
    ]
    (tmp_path / "lists" / "x_i18n_Translation-en").write_text("\n".join(records))
    text = "A long text about what it does and for whom it was made. And more of it."
    assert sources.descriptions(tmp_path) == [Pair("tool for all seasons", (text,), "debian")]


def test_wordnet_is_read_as_words_definition_and_examples(tmp_path: Path) -> None:
    wordnet = tmp_path / "packages/usr/share/wordnet"
    wordnet.mkdir(parents=True)
    for part in ("noun", "verb", "adj", "adv"):
        (wordnet / f"data.{part}").write_text("  1 This software and database\n")
    (wordnet / "data.noun").write_text(
        "  1 licence\n02084071 05 n 02 dog 0 domestic_dog 0 001 @ 02083346 n 0000"
        ' | a member of the genus Canis; many breeds; "the dog barked"; "a wet dog"  \n'
    )
    assert list(sources.definitions(tmp_path)) == [
        (
            "dog, domestic dog",
            "a member of the genus Canis; many breeds",
            ["the dog barked", "a wet dog"],
        )
    ]


def test_help_pages_are_read_without_their_markup(tmp_path: Path) -> None:
    pages = tmp_path / "packages/usr/share/help/C/help"
    pages.mkdir(parents=True)
    (pages / "a.page").write_text(
        "<page><title>Click &amp; drag</title>"
        "<p>Use the <gui>left</gui>\n button of it.</p><p>No.</p></page>"
    )
    assert list(sources.help_pages(tmp_path)) == [("Click & drag", ["Use the left button of it."])]


def test_a_snapshot_is_named_by_what_it_holds_not_by_where_it_came_from() -> None:
    head = (
        "-----BEGIN PGP SIGNED MESSAGE-----\nHash: SHA256\n\nOrigin: Debian\n"
        "Label: Debian-Security\nSuite: oldstable-security\nCodename: bookworm-security\n"
        "Date: Sat, 21 Nov 2026 00:53:02 UTC\nValid-Until: Sat, 28 Nov 2026 00:53:02 UTC\n"
    )
    assert sources.release(head) == (
        "Debian-Security bookworm-security",
        "Sat, 21 Nov 2026 00:53:02 UTC",
    )
