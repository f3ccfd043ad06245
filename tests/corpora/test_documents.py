"""A row is a document or a dead letter with a reason, whatever it holds."""

from dataclasses import replace
from datetime import date
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from e5.corpora.column_types import UntypedText
from e5.corpora.corpus import Corpus
from e5.corpora.documents import DeadLetter, Document, Unkept
from e5.errors import InputError
from e5.texts import MAX_CHARACTERS

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary(),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(), inner, max_size=2),
    max_leaves=4,
)
NAMES = st.sampled_from(["id", "text", "title", "year"])


@given(row=st.dictionaries(NAMES, VALUES), has_types=st.booleans())
def test_any_row_is_a_document_or_a_dead_letter(row: dict[str, Any], has_types: bool) -> None:
    item = Corpus("in", ("title", "text"), "id").document(row, "a.jsonl:7", has_types=has_types)
    if isinstance(item, Document):
        wanted = f"{row.get('title') or ''} {row.get('text') or ''}".strip()
        assert item == Document(str(row["id"]), wanted)
        assert len({*item.hashes()}) == 3 or item.id == item.text
    else:
        assert item.reason
    item.id.encode()


def test_several_columns_are_joined_as_the_model_s_authors_do() -> None:
    corpus = Corpus("in", ("title", "text"))
    for row, text in (
        ({"title": "Snow", "text": "Frozen water."}, "Snow Frozen water."),
        ({"text": "No title."}, "No title."),
        ({"title": "Only", "text": None}, "Only"),
    ):
        assert corpus.document(row, "a.jsonl:0") == Document("a.jsonl:0", text)


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ("not JSON (what)", "not JSON (what)"),
        ({"id": 1, "text": 7}, "text: holds int, not text"),
        ({"id": 2, "text": None}, "text: blank text"),
        ({"id": 3, "text": " \n"}, "text: blank text"),
        ({"id": 4}, "text: blank text"),
        ({"id": 5, "text": ["a"]}, "text: holds list, not text"),
        ({"id": 6, "text": "\ud800"}, "text: a lone surrogate"),
        ({"id": "\udfff", "text": "good"}, "id: holds invalid Unicode"),
        ({"id": float("nan"), "text": "good"}, "id: holds no id"),
        ({"id": True, "text": "good"}, "id: holds no id"),
        ({"id": "", "text": "good"}, "id: holds no id"),
        ({"text": "good"}, "id: holds no id"),
        ({"id": 8, "text": "x" * (MAX_CHARACTERS + 1)}, "text: 1000001 characters"),
    ],
)
def test_a_dead_letter_has_the_reason(row: Any, reason: str) -> None:
    item = Corpus("in", id_column="id").document(row, "a.jsonl:3")
    assert isinstance(item, DeadLetter)
    assert item.reason.startswith(reason)


class TestKept:
    def test_kept_values_are_in_the_order_of_their_columns(self) -> None:
        row = {"text": "snow", "year": 2024, "on": date(2024, 2, 29), "x": "\udcff"}
        item = Corpus("in", keep=("on", "year", "none", "x")).document(row, "a.jsonl:0")
        assert isinstance(item, Document)
        far = Unkept("text that is not valid Unicode")
        assert item.kept == (date(2024, 2, 29), 2024, None, far)
        assert item.hashes() == replace(item, kept=(*item.kept[:3], None)).hashes()

    @pytest.mark.parametrize("has_types", [False, True])
    def test_text_of_a_file_without_types_may_be_something_else(self, has_types: bool) -> None:
        row = {"text": "snow", "year": "2024"}
        item = Corpus("in", keep=("year",)).document(row, "a.csv:1", has_types=has_types)
        assert isinstance(item, Document)
        assert isinstance(item.kept[0], UntypedText) != has_types

    @pytest.mark.parametrize("value", [[1], {"a": 1}])
    def test_a_value_that_cannot_be_kept_is_refused_with_file_and_row(self, value: Any) -> None:
        with pytest.raises(InputError, match=r"^keep: received 'x', which holds a \w+ in a\.csv:9"):
            Corpus("in", keep=("x",)).document({"text": "snow", "x": value}, "a.csv:9")

    @pytest.mark.parametrize("column", ["id", "text", "embedding", "score"])
    def test_a_reserved_name_is_refused(self, column: str) -> None:
        with pytest.raises(InputError, match=rf"^keep: received '{column}'; rename it"):
            Corpus("in", keep=(column,))
        with pytest.raises(InputError, match=r"^keep: received a column twice"):
            Corpus("in", keep=("a", "a"))


@given(
    texts=st.tuples(st.text(), st.text()), names=st.tuples(st.text(), st.text()),
    kept=st.tuples(st.none() | st.integers() | st.text(), st.none() | st.integers() | st.text()),
)  # fmt: skip
def test_hashes_differ_exactly_where_documents_do(
    texts: tuple[str, str], names: tuple[str, str], kept: tuple[Any, Any]
) -> None:
    one, other = (
        Document(name, text, (value,)) for name, text, value in zip(names, texts, kept, strict=True)
    )
    same = [a == b for a, b in zip(one.hashes(), other.hashes(), strict=True)]
    assert same == [names[0] == names[1], one == other, texts[0] == texts[1]]
    assert replace(one).hashes() == one.hashes()
