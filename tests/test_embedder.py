"""The public API: texts in, vectors out, in order, whatever the batch; errors name their text."""

import json
import random
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from checkpoints import TEXTS, EditCheckpoint, load, true_ids
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import Reference, assert_same

from e5.embedder import Embedder
from e5.errors import InputError, NonFiniteError, OutOfMemoryError
from e5.prompts import query_prompt
from e5.settings import Settings
from e5.tokenizer import TokenIds
from e5.vectors import Vectors

WORDS = ["snow", "rain", "sun", "</s>", "ist", "weiß", "46", "\n"]


@pytest.fixture(scope="module")
def short_embedder(checkpoint: Path) -> Embedder:
    """Keeps sixteen tokens of a text."""
    return load(checkpoint, max_length=16)


class TestVectors:
    """What comes out."""

    def test_documents_equal_the_reference(self, embedder: Embedder, reference: Reference) -> None:
        truth = reference([true_ids(text) for text in TEXTS])
        assert_same(embedder.encode_document(TEXTS), truth)

    @pytest.mark.parametrize("task", ["web_search_query", "sts_query", "Find twins", ""])
    def test_queries_equal_the_reference_under_their_prompt(
        self, embedder: Embedder, reference: Reference, task: str
    ) -> None:
        truth = reference([true_ids(query_prompt(task, text)) for text in TEXTS])
        assert_same(embedder.encode_query(TEXTS, task=task), truth)

    def test_the_default_task_is_web_search(self, embedder: Embedder) -> None:
        default = embedder.encode_query("what is snow")
        assert_same(default, embedder.encode_query("what is snow", task="web_search_query"))

    def test_one_string_gives_one_vector_and_a_list_gives_rows(self, embedder: Embedder) -> None:
        for encode in (embedder.encode_query, embedder.encode_document):
            assert encode("snow").shape == (64,)
            assert encode(["snow"]).shape == (1, 64)
            assert encode(("snow", "rain")).shape == (2, 64)
            assert encode([]).shape == (0, 64)
            assert encode("snow").dtype == encode(["snow"]).dtype == np.float32
            assert_same(encode("snow"), encode(["snow"])[0])

    def test_a_batch_equals_its_singles(self, embedder: Embedder) -> None:
        singles = np.stack([embedder.encode_document(text) for text in TEXTS])
        assert_same(embedder.encode_document(TEXTS), singles)

    def test_duplicates_get_the_same_bits(self, embedder: Embedder) -> None:
        vectors = embedder.encode_document(TEXTS)
        assert np.array_equal(vectors[0], vectors[3])
        assert np.array_equal(vectors[1], vectors[7])
        assert not np.array_equal(vectors[0], vectors[1])

    @settings(max_examples=20)
    @given(
        texts=st.lists(
            st.lists(st.sampled_from(WORDS), max_size=30).map(" ".join).filter(str.strip),
            min_size=1,
            max_size=8,
        )
    )
    def test_any_texts_in_any_order_equal_the_reference(
        self, embedder: Embedder, reference: Reference, texts: list[str]
    ) -> None:
        assert_same(embedder.encode_document(texts), reference([true_ids(text) for text in texts]))

    def test_bfloat16_is_as_near_as_promised(
        self, bf16_embedder: Embedder, calm_reference: Reference
    ) -> None:
        truth = calm_reference([true_ids(text) for text in TEXTS])
        scores = bf16_embedder.similarity(bf16_embedder.encode_document(TEXTS), truth)
        assert np.diag(scores).min() >= 99.95

    def test_the_callers_list_is_left_alone(self, embedder: Embedder) -> None:
        texts = list(TEXTS)
        embedder.encode_query(texts)
        assert texts == TEXTS


class TestAfterTheModel:
    """Dimensions, normalisation and scores."""

    def test_normalize_divides_by_the_norm(self, embedder: Embedder) -> None:
        raw = embedder.encode_document(TEXTS)
        unit = embedder.encode_document(TEXTS, normalize=True)
        assert_same(unit, raw / np.linalg.norm(raw, axis=1, keepdims=True))
        assert not np.allclose(np.linalg.norm(raw, axis=1), 1)

    def test_dimensions_are_cut_before_normalising(self, embedder: Embedder) -> None:
        raw = embedder.encode_query(TEXTS)
        assert_same(embedder.encode_query(TEXTS, dimensions=10), raw[:, :10])
        short = embedder.encode_query(TEXTS, dimensions=10, normalize=True)
        assert short.shape == (len(TEXTS), 10)
        assert_same(short, raw[:, :10] / np.linalg.norm(raw[:, :10], axis=1, keepdims=True))

    @pytest.mark.parametrize("dimensions", [1, 64])
    def test_the_ends_of_the_range_of_dimensions_are_allowed(
        self, embedder: Embedder, dimensions: int
    ) -> None:
        assert embedder.encode_document("snow", dimensions=dimensions).shape == (dimensions,)

    @pytest.mark.parametrize("dimensions", [0, -1, 65])
    def test_other_dimensions_are_refused_with_the_range(
        self, embedder: Embedder, dimensions: int
    ) -> None:
        for encode in (embedder.encode_query, embedder.encode_document):
            with pytest.raises(
                InputError, match=rf"^dimensions: received {dimensions}; use 1 to 64"
            ):
                encode("snow", dimensions=dimensions)

    def test_similarity_is_cosine_times_100(self, embedder: Embedder) -> None:
        queries, documents = embedder.encode_query(TEXTS[:2]), embedder.encode_document(TEXTS)
        scores = embedder.similarity(queries, documents)
        expected = [[100 * q @ d / np.sqrt((q @ q) * (d @ d)) for d in documents] for q in queries]
        assert scores.dtype == np.float32
        np.testing.assert_allclose(scores, expected, atol=1e-3)

    def test_rounding_never_takes_a_score_out_of_its_range(self, embedder: Embedder) -> None:
        vectors = np.random.default_rng(0).normal(size=(300, 64)).astype(np.float32)
        assert embedder.similarity(vectors, vectors).max() == 100
        assert embedder.similarity(vectors, -vectors).min() == -100

    def test_similarity_takes_single_vectors_as_well(self, embedder: Embedder) -> None:
        query, document = embedder.encode_query("snow"), embedder.encode_document(["snow", "rain"])
        assert embedder.similarity(query, document).shape == (1, 2)
        assert embedder.similarity(query, query).item() == pytest.approx(100, abs=1e-3)


class TestTasks:
    """Which side carries the prompt."""

    def test_documents_of_retrieval_are_bare(self, embedder: Embedder) -> None:
        bare = embedder.encode_document("snow")
        assert np.array_equal(embedder.encode_document("snow", task="web_search_query"), bare)
        assert np.array_equal(embedder.encode_document("snow", task="Find twins"), bare)
        assert np.array_equal(embedder.encode_query("snow", task=""), bare)

    @pytest.mark.parametrize("task", ["sts_query", "Banking77Classification", "bitext_query"])
    def test_documents_of_symmetric_tasks_carry_the_prompt(
        self, embedder: Embedder, task: str
    ) -> None:
        query, document = (
            embedder.encode_query("snow", task=task),
            embedder.encode_document("snow", task=task),
        )
        assert np.array_equal(query, document)
        assert not np.allclose(document, embedder.encode_document("snow"))

    def test_an_instruction_can_be_declared_symmetric(self, embedder: Embedder) -> None:
        document = embedder.encode_document("snow", task="Find twins", symmetric=True)
        assert np.array_equal(document, embedder.encode_query("snow", task="Find twins"))


class TestTruncation:
    """A long text is truncated where that is allowed, and an error where it is not."""

    def test_a_long_text_is_cut_before_its_end_token(
        self, short_embedder: Embedder, reference: Reference
    ) -> None:
        truth = reference([true_ids(text, max_length=16) for text in TEXTS])
        assert_same(short_embedder.encode_document(TEXTS), truth)

    def test_without_leave_to_cut_a_long_text_is_an_error_with_its_counts(
        self, short_embedder: Embedder
    ) -> None:
        num_tokens = len(true_ids(TEXTS[2]))
        with pytest.raises(InputError) as caught:
            short_embedder.encode_document(TEXTS, truncate=False)
        assert caught.value.field == "documents[2]"
        assert str(num_tokens) in caught.value.received
        assert "16 tokens" in caught.value.remedy

    def test_the_prompt_counts_too(self, short_embedder: Embedder) -> None:
        assert short_embedder.encode_document("snow", truncate=False).shape == (64,)
        with pytest.raises(InputError, match=r"^queries\[0\]: "):
            short_embedder.encode_query("snow", truncate=False)

    def test_a_text_of_just_the_limit_is_not_cut(self, short_embedder: Embedder) -> None:
        text = "snow " * 13 + "snow"
        assert len(true_ids(text)) == 16
        short_embedder.encode_document(text, truncate=False)
        with pytest.raises(InputError):
            short_embedder.encode_document(text + " snow", truncate=False)

    @pytest.mark.slow
    @pytest.mark.parametrize(
        ("entries", "max_length"),
        [
            ({"sliding_window": 128}, 128),
            ({"max_position_embeddings": 64}, 64),
            ({"sliding_window": None}, 4096),
            ({"sliding_window": 8192}, 4096),
        ],
    )
    def test_no_text_is_longer_than_the_models_own_limits(
        self, checkpoint: Path, tmp_path: Path, entries: dict[str, int | None], max_length: int
    ) -> None:
        folder = Path(shutil.copytree(checkpoint, tmp_path / "limited"))
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(config | entries))
        assert load(folder).max_length == max_length
        assert load(folder, max_length=32).max_length == 32


class TestRefusals:
    """An error names the text and says what to send."""

    @pytest.mark.parametrize("wrong", ["", " \n", "x" * 1_000_001])
    def test_what_a_request_may_not_hold_python_may_not_either(
        self, embedder: Embedder, wrong: str
    ) -> None:
        with pytest.raises(InputError, match=r"^documents\[1\]: received .*; send"):
            embedder.encode_document(["snow", wrong])

    @pytest.mark.parametrize("wrong", [7, None, b"snow", ["snow"], np.float32(1)])
    def test_what_is_no_string_is_refused_with_its_index(
        self, embedder: Embedder, wrong: object
    ) -> None:
        texts: list[str] = ["snow", wrong, "rain"]  # type: ignore[list-item]
        with pytest.raises(InputError, match=r"^queries\[1\]: received .*; send a string\.$"):
            embedder.encode_query(texts)
        with pytest.raises(InputError, match=r"^documents\[1\]: received .*; send a string\.$"):
            embedder.encode_document(texts)

    @pytest.mark.parametrize("text", ["\ud800", "sn\udfffow", "snow\ud83d"])
    def test_a_lone_surrogate_is_refused_with_its_index(
        self, embedder: Embedder, text: str
    ) -> None:
        with pytest.raises(InputError, match=r"^queries\[2\]: received a lone surrogate"):
            embedder.encode_query(["snow", "rain", text])
        with pytest.raises(
            InputError, match=r"^documents\[0\]: received a lone surrogate"
        ) as caught:
            embedder.encode_document(text)
        position = next(i for i, character in enumerate(text) if "\ud800" <= character <= "\udfff")
        assert f"character {position}" in caught.value.received

    @pytest.mark.parametrize("value", [float("inf"), float("nan")])
    def test_a_vector_that_is_not_finite_is_never_an_answer(
        self, checkpoint: Path, edit_checkpoint: EditCheckpoint, value: float
    ) -> None:
        _, token, _ = true_ids("music")

        def poison(tensors: dict[str, torch.Tensor]) -> None:
            tensors["embed_tokens.weight"][token] = value

        poisoned = load(edit_checkpoint(checkpoint, poison))
        texts = ["snow", "the rain", "zoo", "good music here", "a", "music"]
        with pytest.raises(NonFiniteError, match=r"^documents\[3\]: .*NaN or infinity") as caught:
            poisoned.encode_document(texts)
        assert caught.value.position == 3
        healthy = [text for text in texts if "music" not in text]
        assert np.isfinite(poisoned.encode_document(healthy)).all()


@pytest.fixture(scope="module")
def on_cuda(calm_checkpoint: Path) -> Embedder:
    return Embedder.load(Settings(weights=calm_checkpoint, device="cuda"))


@pytest.fixture(scope="module")
def prompts() -> list[str]:
    """Queries of one task among documents of many lengths, some twice."""
    draw = random.Random(0)
    texts = [" ".join(draw.choices(WORDS, k=draw.randint(1, 300))) for _ in range(60)]
    queries = [query_prompt("web_search_query", text[:60]) for text in texts]
    return draw.sample([*texts, *queries, *texts[:9]], 129)


@pytest.mark.gpu
class TestCuda:
    """All of it on a GPU, in float16."""

    def test_texts_in_any_order_equal_the_reference(
        self, on_cuda: Embedder, calm_reference: Reference, prompts: list[str]
    ) -> None:
        truth = calm_reference([true_ids(text) for text in prompts])
        for step in (1, -1):
            scores = on_cuda.similarity(on_cuda.encode_document(prompts[::step]), truth[::step])
            assert np.diag(scores).min() >= 99.95


@pytest.fixture(scope="module")
def poisoned(checkpoint: Path, edit_checkpoint: EditCheckpoint) -> Embedder:
    """Knows no finite vector for "music"."""
    _, token, _ = true_ids("music")

    def poison(tensors: dict[str, torch.Tensor]) -> None:
        tensors["embed_tokens.weight"][token] = float("nan")

    return load(edit_checkpoint(checkpoint, poison))


class TestFaults:
    """A text without a vector costs no other text its own."""

    @settings(max_examples=20)
    @given(kinds=st.lists(st.sampled_from(["good", "endless", "poisoned"]), max_size=12))
    def test_whatever_else_is_computed(
        self, poisoned: Embedder, embedder: Embedder, kinds: list[str]
    ) -> None:
        texts = {"good": "snow is", "endless": "snow " * 70, "poisoned": "good music"}
        expected = {"endless": OutOfMemoryError, "poisoned": NonFiniteError}
        sequences = [  # they share the prompt, and so might a NaN
            true_ids(query_prompt("sts_query", f"{texts[kind]} {i}"))
            for i, kind in enumerate(kinds)
        ]
        with pytest.MonkeyPatch.context() as patch:
            compute = poisoned._engine.compute

            def small_memory(sequences: list[TokenIds], *, share_prefixes: bool) -> Vectors:
                if any(len(token_ids) > 60 for token_ids in sequences):
                    raise OutOfMemoryError(90)
                return compute(sequences, share_prefixes=share_prefixes)

            patch.setattr(poisoned._engine, "compute", small_memory)
            computed = poisoned.compute(sequences)
        faulty = {i: expected[kind] for i, kind in enumerate(kinds) if kind != "good"}
        assert {i: type(fault) for i, fault in computed.faults.items()} == faulty
        for i, fault in computed.faults.items():
            assert fault.position == i
            assert str(fault).startswith(f"text {i}: ")
        good = [i for i, kind in enumerate(kinds) if kind == "good"]
        truth = embedder.compute([sequences[i] for i in good]).vectors
        assert_same(computed.vectors[good], truth)

    def test_the_first_one_is_raised_under_the_callers_name_of_it(self, poisoned: Embedder) -> None:
        with pytest.raises(NonFiniteError, match=r"^queries\[2\]: received a text whose vector"):
            poisoned.encode_query(["snow", "rain", "music", "good music"])


def test_vectors_of_different_widths_are_not_compared(embedder: Embedder) -> None:
    query = embedder.encode_query("snow", dimensions=8)
    with pytest.raises(InputError, match=r"^documents: received vectors of shape"):
        embedder.similarity(query, embedder.encode_document(["ice"]))


@pytest.mark.parametrize("option", ["normalize", "truncate", "symmetric"])
@pytest.mark.parametrize("value", [{"a": 1}, ["x"], "no", 1, None])
def test_an_option_that_is_neither_true_nor_false_is_refused(
    option: str, value: Any, embedder: Embedder
) -> None:
    with pytest.raises(InputError, match=rf"^{option}: received .*; send true or false\.$"):
        embedder.encode_document(["snow"], **{option: value})
    if option != "symmetric":
        with pytest.raises(InputError, match=rf"^{option}: received"):
            embedder.encode_query(["snow"], **{option: value})
