"""Documents that a worker died on are remembered, and no others are blamed."""

from pathlib import Path

from e5.corpora.journal import ATTEMPTS, Journal
from e5.corpora.plan import Unit


def test_a_journal_suspects_a_document_only_if_it_was_alone(tmp_path: Path) -> None:
    unit = Unit("part-000000.parquet")
    (tmp_path / ATTEMPTS).mkdir()
    for attempt in (1, 2):
        assert Journal.begin(str(tmp_path), unit).attempts == attempt
    journal = Journal.begin(str(tmp_path), unit)
    journal.note(4)
    journal.note(5)
    journal = Journal.begin(str(tmp_path), unit)
    assert journal.deaths == {"5": 1}
    journal.note(5)
    journal = Journal.begin(str(tmp_path), unit)
    assert (journal.attempts, journal.deaths) == (5, {"5": 2})
    journal.note(7)  # with a driver that is killed
    Journal.forget_attempts(str(tmp_path))
    journal = Journal.begin(str(tmp_path), unit)
    assert (journal.attempts, journal.deaths) == (1, {"5": 2})
    journal.remove()
    (tmp_path / ATTEMPTS / f"{unit.name}.json").write_text('{"attem')  # a full disk
    (tmp_path / ATTEMPTS / "notes.txt").write_text("somebody's own")
    Journal.forget_attempts(str(tmp_path))
    assert [path.name for path in (tmp_path / ATTEMPTS).iterdir()] == ["notes.txt"]
    assert Journal.begin(str(tmp_path), unit).attempts == 1
