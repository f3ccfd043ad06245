"""Rows make a sample; what cannot be in it is named with the reason."""

from dataclasses import replace

import pytest

from e5.audit.gathered import UNSTEADY_ADVICE, Gathered, GatheredRow, LeftOut, judge, usable
from e5.audit.sample import Sample
from e5.audit.vector_source import EncoderSource
from e5.embedder import Embedder
from e5.errors import InputError


def row(name: str, vector: object, problem: str = "") -> GatheredRow:
    return GatheredRow(name, f"text {name}", "document", vector, problem)


def test_rows_without_text_or_vector_are_left_out_in_their_order() -> None:
    rows = [
        row("a", [1, 2]),
        row("b", None),
        row("c", None, "blank text"),
        row("d", "[3, 4]"),
        row("e", [5]),
    ]
    sample, left_out = usable(rows)
    assert sample.ids == ["a", "d"]
    assert sample.texts == ["text a", "text d"]
    assert sample.roles == ["document", "document"]
    assert sample.vectors.tolist() == [[1, 2], [3, 4]]
    assert left_out == [
        LeftOut("b", "no vector"),
        LeftOut("c", "blank text"),
        LeftOut("e", "a vector of 1 numbers, where others have 2"),
    ]


@pytest.mark.parametrize(
    ("rows", "received"),
    [
        ([], "no rows"),
        ([row("a", None)], "1 row without text or vector; of the first: no vector"),
        (
            [row("a", None, "blank text"), row("b", {})],
            "2 rows without text or vector; of the first: blank text",
        ),
    ],
)
def test_rows_of_which_none_is_usable_are_refused(rows: list[GatheredRow], received: str) -> None:
    with pytest.raises(InputError) as raised:
        usable(rows)
    assert raised.value.field == ("vectors" if any(not row.problem for row in rows) else "texts")
    assert raised.value.received == received


class TestJudge:
    TEXTS = ("Snow is frozen water.", "A heading\n\nand its text.", "Two\nlines.")

    @pytest.fixture
    def source(self, embedder: Embedder) -> EncoderSource:
        return EncoderSource.checked(embedder)

    @pytest.fixture
    def right(self, embedder: Embedder) -> Sample:
        vectors = embedder.encode_document(list(self.TEXTS))
        return Sample(list("abc"), list(self.TEXTS), vectors, ["document"] * 3)

    @pytest.fixture
    def wrong(self, embedder: Embedder, right: Sample) -> Sample:
        vectors = embedder.encode_document([text.replace("\n", " ") for text in self.TEXTS])
        return replace(right, vectors=vectors)

    def test_the_worse_of_two_verdicts_counts(
        self, source: EncoderSource, right: Sample, wrong: Sample
    ) -> None:
        assert judge(Gathered(right), source, progress=False).verdict == "right"
        for alone, batched in ((right, wrong), (wrong, right)):
            report = judge(Gathered(alone, batched=batched), source, progress=False)
            assert report.verdict == "newlines_replaced"
            assert "line breaks" in report.advice

    def test_right_vectors_that_differ_have_their_own_advice(
        self, source: EncoderSource, right: Sample
    ) -> None:
        report = judge(Gathered(right, batched=right), source, progress=False)
        assert report.verdict == "right"
        assert report.advice == UNSTEADY_ADVICE

    def test_the_task_is_the_caller_s_or_that_of_the_sample(
        self, source: EncoderSource, right: Sample, embedder: Embedder
    ) -> None:
        vectors = embedder.encode_query(list(self.TEXTS), task="SciFact")
        queries = replace(right, vectors=vectors, roles=["query"] * 3)
        gathered = Gathered(queries, task="SciFact")
        assert judge(gathered, source, progress=False).verdict == "right"
        found = judge(gathered, source, task="sts_query", progress=False)
        assert found.verdict.startswith("other_instruction")

    def test_a_blank_task_means_queries_without_a_prompt(
        self, source: EncoderSource, right: Sample, embedder: Embedder
    ) -> None:
        vectors = embedder.encode_query(list(self.TEXTS), task="")
        queries = replace(right, vectors=vectors, roles=["query"] * 3)
        assert judge(Gathered(queries), source, task="", progress=False).verdict == "right"
        assert judge(Gathered(queries), source, progress=False).verdict == "no_instruction"
