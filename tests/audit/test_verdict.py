"""The verdict as a whole: its name, share, cosines, margin, storage and what it cannot tell."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mistakes import combination, roles_to_audit, sample_of, texts_to_audit, vectors_under
from numpy.typing import NDArray

from e5.audit import AuditReport, EncoderSource, LocalSource, TextRole, audit
from e5.audit.hypotheses import HYPOTHESES, OTHER_INSTRUCTIONS, PADDING, RIGHT, Combination, label
from e5.embedder import Embedder
from e5.errors import InputError
from e5.vectors import Vectors

pytestmark = pytest.mark.slow

COUNT = 12
TEXTS, ROLES = texts_to_audit(COUNT), roles_to_audit(COUNT)


@pytest.fixture(scope="module")
def right(mini: LocalSource) -> Vectors:
    return vectors_under(mini, RIGHT, TEXTS, ROLES)


def report_on(
    mini: LocalSource,
    vectors: Vectors,
    roles: Sequence[TextRole] = ROLES,
    task: str = "web_search_query",
) -> AuditReport:
    return audit(sample_of(TEXTS, roles, vectors), mini, task=task)


def units(vectors: Vectors) -> Vectors:
    found: Vectors = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return found


class TestRight:
    def test_it_is_told_with_what_cannot_be_told_from_it(
        self, mini: LocalSource, right: Vectors
    ) -> None:
        report = report_on(mini, right)
        assert (report.verdict, report.exit_code, report.share) == ("right", 0, 1.0)
        assert report.cosine == report.cosine_right == pytest.approx(1, abs=1e-9)
        assert report.margin > 1e-4
        assert report.ndcg == 1.0
        assert report.advice == "Nothing need be done."
        assert [row.id for row in report.rows] == [str(i) for i in range(COUNT)]
        # The built-in checkpoint's tokenizer lowercases, and no text here is long.
        assert {"lowercased", "no_blank_after_query", "truncated 512"} <= set(report.alternatives)
        assert "no_eos" not in report.alternatives

    @pytest.mark.parametrize(
        ("store", "verdict", "storage"),
        [
            (units, "right", ["normalised"]),
            (lambda v: units(v).astype(np.float16), "right", ["float16", "normalised"]),
            (lambda v: v * 5, "right", ["scaled"]),
            (lambda v: v[:, :64], "right + dimensions 64", ["dimensions 64"]),
            (
                lambda v: np.packbits(v > 0, axis=1),
                "right + binary",
                ["binary"],
            ),
        ],
        ids=["normalised", "float16", "scaled", "dimensions", "binary"],
    )
    def test_it_may_be_stored_in_other_ways(
        self,
        mini: LocalSource,
        right: Vectors,
        store: Callable[[Vectors], Vectors],
        verdict: str,
        storage: list[str],
    ) -> None:
        report = report_on(mini, store(right))
        assert (report.verdict, report.storage, report.exit_code) == (verdict, storage, 0)
        assert {row.verdict for row in report.rows} == {verdict}

    def test_an_engine_that_rounds_is_right(self, mini: LocalSource, right: Vectors) -> None:
        noise = np.random.default_rng(0).normal(size=right.shape) * 0.01 * np.abs(right).mean()
        report = report_on(mini, right + noise.astype(np.float32))
        assert report.verdict == "right"
        assert 0.9999 < report.cosine < 0.99999

    def test_columns_may_be_wider_than_the_vectors(self, mini: LocalSource, right: Vectors) -> None:
        assert report_on(mini, np.pad(right, ((0, 0), (0, 64)))).verdict == "right"

    def test_texts_of_unknown_roles_may_be_either(self, mini: LocalSource, right: Vectors) -> None:
        report = report_on(mini, right, ["auto"] * COUNT)
        assert report.verdict == "right"

    def test_the_task_is_the_callers(self, mini: LocalSource) -> None:
        vectors = vectors_under(mini, RIGHT, TEXTS, ROLES, task="sts_query")
        assert report_on(mini, vectors, task="sts_query").verdict == "right"
        report = report_on(mini, vectors)
        assert report.verdict == "other_instruction sts_query"
        assert report.exit_code == 1


class TestWrong:
    def test_a_mixture_is_told_in_shares(self, mini: LocalSource, right: Vectors) -> None:
        wrong = vectors_under(mini, combination("no_bos"), TEXTS, ROLES)
        report = report_on(mini, np.where(np.arange(COUNT)[:, None] < 3, wrong, right))
        assert (report.verdict, report.share, report.exit_code) == ("no_bos", 0.25, 1)
        assert report.shares == {"right": 0.75, "no_bos": 0.25}
        assert report.cosine == pytest.approx(1, abs=1e-9)
        assert report.cosine_right < 0.999
        assert [row.verdict for row in report.rows] == ["no_bos"] * 3 + ["right"] * 9

    def test_only_what_a_mistake_changes_is_wrong(self, mini: LocalSource) -> None:
        report = report_on(mini, vectors_under(mini, combination("no_instruction"), TEXTS, ROLES))
        assert (report.verdict, report.share) == ("no_instruction", 0.5)
        assert {row.verdict for row in report.rows[1::2]} == {"right"}

    def test_it_says_how_much_it_matters(self, mini: LocalSource) -> None:
        report = report_on(mini, vectors_under(mini, combination("first_token"), TEXTS, ROLES))
        assert report.verdict == "first_token"
        assert report.ndcg is not None
        assert report.ndcg < 0.9

    def test_the_last_content_token_is_told_with_no_eos(self, mini: LocalSource) -> None:
        vectors = vectors_under(mini, combination("no_eos", "stripped"), TEXTS, ROLES)
        report = report_on(mini, vectors)
        assert report.verdict == "no_eos + stripped"
        assert "last_content_token + stripped" in report.alternatives

    def test_other_dimensions_are_told_with_it(self, mini: LocalSource) -> None:
        vectors = vectors_under(mini, combination("no_eos"), TEXTS, ROLES)
        report = report_on(mini, units(vectors[:, :96]))
        assert report.verdict == "no_eos + dimensions 96"
        assert report.storage == ["dimensions 96", "normalised"]

    @pytest.mark.parametrize("name", ["right", "no_eos"])
    def test_vectors_of_other_rows_are_told(self, mini: LocalSource, name: str) -> None:
        vectors = vectors_under(mini, combination(*{name} - {"right"}), TEXTS, ROLES)
        names = [*([name] if name != "right" else []), "shuffled"]
        assert report_on(mini, np.roll(vectors, 1, 0)).verdict == " + ".join(names)
        twice = report_on(mini, vectors[np.arange(COUNT) // 2 * 2])
        assert {row.verdict for row in twice.rows[1::2]} == {
            " + ".join([*names[:-1], "duplicated"])
        }
        assert {row.verdict for row in twice.rows[::2]} == {name}


class TestCannotTell:
    def test_another_model(self, mini: LocalSource) -> None:
        random = np.random.default_rng(0)
        for dimensions in (192, 384):
            report = report_on(mini, random.normal(size=(COUNT, dimensions)).astype(np.float32))
            assert (report.verdict, report.exit_code, report.share) == ("another_model", 1, 1.0)

    def test_this_model_turned_is_not_another(self, mini: LocalSource, right: Vectors) -> None:
        turn = np.linalg.qr(np.random.default_rng(0).normal(size=(192, 192)))[0]
        report = report_on(mini, right @ turn.astype(np.float32))
        assert (report.verdict, report.exit_code) == ("unknown", 2)

    @pytest.mark.long
    def test_a_change_that_is_no_hypothesis(self, mini: LocalSource) -> None:
        texts = [text.rstrip() + "!" for text in TEXTS]
        report = report_on(mini, vectors_under(mini, RIGHT, texts, ROLES))
        assert (report.verdict, report.exit_code) == ("unknown", 2)
        assert report.alternatives
        assert all(name in report.advice for name in report.alternatives)

    def test_vectors_that_are_none(self, mini: LocalSource, right: Vectors) -> None:
        for nothing in (0, np.nan, np.inf):
            report = report_on(mini, np.full_like(right, nothing))
            assert (report.verdict, report.exit_code, report.cosine) == ("unknown", 2, 0.0)
            assert report.advice.endswith("(they are zeros, or not finite).")

    def test_rows_that_are_none_are_told_beside_right_ones(
        self, mini: LocalSource, right: Vectors
    ) -> None:
        some = np.where(np.arange(COUNT)[:, None] < 2, np.nan, right)
        report = report_on(mini, some)
        assert [row.verdict for row in report.rows] == ["unknown"] * 2 + ["right"] * 10

    @pytest.mark.long
    def test_vectors_minus_their_mean_are_not_another_models(
        self, mini: LocalSource, right: Vectors
    ) -> None:
        report = report_on(mini, right - right.mean(0))
        assert (report.verdict, report.exit_code) == ("unknown", 2)

    def test_few_rows_are_judged_too(self, mini: LocalSource, right: Vectors) -> None:
        for count in (1, 2):
            sample = sample_of(TEXTS[:count], ROLES[:count], right[:count])
            assert audit(sample, mini).verdict == "right"


def test_a_task_that_cannot_be_one_is_refused(mini: LocalSource, right: Vectors) -> None:
    with pytest.raises(InputError, match="task: received a lone surrogate"):
        report_on(mini, right, task="\ud800")


class TestByAnEncoder:
    """A running service computes only what can be asked of it."""

    @pytest.mark.parametrize(
        ("names", "verdict"),
        [
            ((), "right"),
            (("no_instruction", "newlines_replaced"), "no_instruction + newlines_replaced"),
            (("no_eos",), "unknown"),
        ],
        ids=str,
    )
    def test_what_it_can_compute_is_named(
        self, mini: LocalSource, mini_embedder: Embedder, names: tuple[str, ...], verdict: str
    ) -> None:
        vectors = vectors_under(mini, combination(*names), TEXTS, ROLES)
        source = EncoderSource(mini_embedder)
        assert audit(sample_of(TEXTS, ROLES, vectors), source).verdict == verdict


EVERY = [
    each
    for each in [*HYPOTHESES, *PADDING, *OTHER_INSTRUCTIONS[::17]]
    if each.name != "adapter_missing"
]
STORES: dict[str, Callable[[Vectors], NDArray[Any]]] = {
    "float32": lambda v: v,
    "float16": lambda v: v.astype(np.float16),
    "int8": lambda v: np.rint(v / np.abs(v).max(1, keepdims=True) * 127),
    "the first 64": lambda v: v[:, :64],
    "bits": lambda v: np.packbits(v > 0, axis=1),
}


def joined(chosen: Sequence[int]) -> Combination:
    """A combination of these hypotheses; of two of one group the first."""
    return combination(*dict.fromkeys(EVERY[i].label for i in chosen))


CHEAP = [i for i, each in enumerate(EVERY) if each.packed]  # no unmodified model is needed
CASES = {
    "chosen": st.lists(st.integers(0, len(EVERY) - 1), max_size=3),
    "seed": st.integers(0, 1000),
    "store": st.sampled_from(list(STORES)),
    "roles": st.lists(
        st.sampled_from(["query", "document", "auto"]), min_size=COUNT, max_size=COUNT
    ),
}


@pytest.mark.slow
@settings(max_examples=6, derandomize=True)  # the long one looks for new cases
@given(**CASES | {"chosen": st.lists(st.sampled_from(CHEAP), max_size=3)})
def test_any_combination_is_named_or_cannot_be_told(
    mini: LocalSource, chosen: list[int], seed: int, store: str, roles: list[TextRole]
) -> None:
    check_combination(mini, chosen, seed, store, roles)


@pytest.mark.long
@settings(max_examples=100)
@given(**CASES)
def test_many_combinations_are_named_or_cannot_be_told(
    mini: LocalSource, chosen: list[int], seed: int, store: str, roles: list[TextRole]
) -> None:
    check_combination(mini, chosen, seed, store, roles)


def check_combination(
    mini: LocalSource, chosen: list[int], seed: int, store: str, roles: list[TextRole]
) -> None:
    truth, texts = joined(chosen), texts_to_audit(COUNT, seed=seed, long=seed % 2)
    vectors = vectors_under(mini, truth, texts, roles)
    report = audit(sample_of(texts, roles, STORES[store](vectors)), mini)
    for verdict in {row.verdict for row in report.rows} - {label(truth), "unknown"}:
        # Another name must stand for the same vectors of the rows that it is given to.
        names = [
            name
            for name in verdict.split(" + ")
            if name != "right" and name.split()[0] not in ("dimensions", "binary")
        ]
        named = vectors_under(mini, combination(*names), texts, roles)
        rows = [i for i, row in enumerate(report.rows) if row.verdict == verdict]
        difference = units(named[rows]) - units(vectors[rows])
        assert ((difference**2).sum(1) / 2 < 1e-4).all(), (label(truth), verdict)
