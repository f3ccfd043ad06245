"""The public API: texts in, vectors out, in order, whatever the batch; errors name their text."""

import json
import logging
import random
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from checkpoints import save_checkpoint, save_tokenizer, true_ids
from conftest import EditCheckpoint
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import Reference
from safetensors.torch import load_file, save

from e5 import prompts
from e5.attention import attention
from e5.embedder import Embedder, fingerprint_of
from e5.engine import MAX_CUDA_BATCH_TOKENS, Engine
from e5.errors import EngineError, InputError, NonFiniteError, OutOfMemoryError, TokenizerError
from e5.model import forward
from e5.packing import PackedBatch, Spans
from e5.prompts import query_prompt
from e5.settings import Settings
from e5.vectors import Vectors
from e5.weights import Manifest, checkpoint_files, hash_files

TEXTS = [
    "Snow is frozen water.",
    "a",
    "A summit is the highest point of a mountain. " * 4,
    "Snow is frozen water.",
    "",
    "As a general guideline, women should eat 46 grams of protein a day.",
    "🙂",
    "a",
]
WORDS = ["snow", "rain", "sun", "</s>", "ist", "weiß", "46", "\n"]


def load(folder: Path, **options: int | str) -> Embedder:
    given = {"device": "cpu", "dtype": "float32"} | options
    return Embedder.load(Settings(weights=folder, **given))  # type: ignore[arg-type]


def assert_same(ours: Vectors, truth: Vectors) -> None:
    """To 1e-4 of each vector's own largest element."""
    assert ours.shape == truth.shape
    assert ours.dtype == np.float32
    scale = np.abs(truth).max(axis=-1, keepdims=True)
    assert (np.abs(ours - truth) <= 1e-4 * scale).all()


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
            st.lists(st.sampled_from(WORDS), max_size=30).map(" ".join), min_size=1, max_size=8
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


class TestBudget:
    """The budget changes memory and speed, never a vector."""

    @pytest.mark.parametrize("max_batch_tokens", [1, 8, 40])
    def test_a_tiny_budget_gives_the_same_vectors(
        self, checkpoint: Path, embedder: Embedder, max_batch_tokens: int
    ) -> None:
        tiny = load(checkpoint, max_batch_tokens=max_batch_tokens)
        assert tiny.engine.max_batch_tokens == max_batch_tokens
        assert_same(tiny.encode_document(TEXTS), embedder.encode_document(TEXTS))
        assert_same(tiny.encode_query(TEXTS), embedder.encode_query(TEXTS))

    def test_forwards_keep_the_budget_and_a_text_over_it_goes_alone(
        self, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        tiny = load(checkpoint, max_batch_tokens=20)
        forwards: list[tuple[int, int]] = []  # tokens and texts of each

        def observed(model: torch.nn.Module, batch: PackedBatch) -> torch.Tensor:
            forwards.append((len(batch.input_ids), len(batch.last_index)))
            return forward(model, batch)  # type: ignore[arg-type]

        monkeypatch.setattr("e5.engine.forward", observed)
        tiny.encode_document(TEXTS)
        assert sum(texts for _, texts in forwards) == len(set(TEXTS))  # duplicates once
        assert [texts for tokens, texts in forwards if tokens > 20] == [1, 1]  # 43 and 21 tokens
        assert max(texts for _, texts in forwards) > 1


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
        cut = embedder.encode_query(TEXTS, dimensions=10, normalize=True)
        assert cut.shape == (len(TEXTS), 10)
        assert_same(cut, raw[:, :10] / np.linalg.norm(raw[:, :10], axis=1, keepdims=True))

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
    """Cut where allowed, an error where not, never silent."""

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
        assert load(folder).tokenizer.max_length == max_length
        assert load(folder, max_length=32).tokenizer.max_length == 32


class TestRefusals:
    """An error names the text and says what to send."""

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
        place = next(i for i, character in enumerate(text) if "\ud800" <= character <= "\udfff")
        assert f"character {place}" in caught.value.received

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

    def test_weights_that_are_not_finite_are_refused_at_loading(
        self, checkpoint: Path, edit_checkpoint: EditCheckpoint
    ) -> None:
        def damage(tensors: dict[str, torch.Tensor]) -> None:
            tensors["layers.1.mlp.up_proj.weight"][5, 5] = float("nan")

        with pytest.raises(EngineError, match=r"self-check: .*NaN or infinity"):
            load(edit_checkpoint(checkpoint, damage))

    def test_a_kernel_that_mixes_texts_is_refused_at_loading(
        self, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def mixing(
            query: torch.Tensor,
            key: torch.Tensor,
            value: torch.Tensor,
            spans: Spans,
            key_index: torch.Tensor | None,
        ) -> torch.Tensor:
            return attention(query, key, value.roll(1, dims=0), spans, key_index)

        monkeypatch.setattr("e5.model.attention", mixing)
        with pytest.raises(EngineError, match="self-check: a text's vector changes with its batch"):
            load(checkpoint)

    @pytest.mark.parametrize("mask", ["none", "aligned to the first key"])
    def test_a_kernel_with_a_wrong_mask_is_refused_at_loading(
        self, checkpoint: Path, mask: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def wrong(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
            q, k, v = (x.transpose(0, 1)[None] for x in (query, key, value))
            causal = mask != "none" and len(query) > 1
            output = F.scaled_dot_product_attention(q, k, v, is_causal=causal, enable_gqa=True)
            return output[0].transpose(0, 1)

        monkeypatch.setattr("e5.attention._one_text", wrong)
        with pytest.raises(EngineError, match="self-check: a text's vector changes with its batch"):
            load(checkpoint)


@pytest.mark.gpu
class TestCuda:
    """All of it on a GPU, in float16."""

    @pytest.fixture(scope="class")
    def on_cuda(self, calm_checkpoint: Path) -> Embedder:
        return Embedder.load(Settings(weights=calm_checkpoint, device="cuda"))

    @pytest.fixture(scope="class")
    def prompts(self) -> list[str]:
        """Queries of one task among documents of many lengths, some twice."""
        draw = random.Random(0)
        texts = [" ".join(draw.choices(WORDS, k=draw.randint(0, 300))) for _ in range(60)]
        queries = [query_prompt("web_search_query", text[:60]) for text in texts]
        return draw.sample([*texts, *queries, *texts[:9]], 129)

    def test_texts_in_any_order_equal_the_reference(
        self, on_cuda: Embedder, calm_reference: Reference, prompts: list[str]
    ) -> None:
        truth = calm_reference([true_ids(text) for text in prompts])
        for step in (1, -1):
            scores = on_cuda.similarity(on_cuda.encode_document(prompts[::step]), truth[::step])
            assert np.diag(scores).min() >= 99.95

    def test_the_budget_is_measured_from_free_memory(self, on_cuda: Embedder) -> None:
        assert on_cuda.engine.max_batch_tokens == MAX_CUDA_BATCH_TOKENS  # the model is tiny

    def test_out_of_memory_goes_on_in_halves_with_the_same_vectors(
        self, on_cuda: Embedder, caplog: pytest.LogCaptureFixture
    ) -> None:
        draw = random.Random(1)
        texts = [(1, *draw.choices(range(3, 32_000), k=250), 2) for _ in range(2000)]
        expected = on_cuda.embed(texts)
        large = Engine(on_cuda.engine.model, max_batch_tokens=2**20)
        torch.cuda.empty_cache()
        _, total = torch.cuda.mem_get_info()
        room = torch.cuda.memory_reserved() + 256 * 2**20
        torch.cuda.set_per_process_memory_fraction(room / total)
        try:
            with caplog.at_level(logging.WARNING):
                vectors = large.compute(texts)
        finally:
            torch.cuda.set_per_process_memory_fraction(1.0)
        assert "going on in two halves" in caplog.text
        assert np.diag(on_cuda.similarity(vectors, expected)).min() >= 99.95


class TestOutOfMemory:
    """A forward that does not fit goes on in halves, and says so."""

    @pytest.fixture(autouse=True)
    def _small_memory(self, embedder: Embedder, monkeypatch: pytest.MonkeyPatch) -> None:
        """Memory for `LIMIT` tokens: a CPU has no such error of its own."""

        def limited(model: torch.nn.Module, batch: PackedBatch) -> torch.Tensor:
            if len(batch.input_ids) > self.LIMIT:
                raise torch.OutOfMemoryError("CUDA out of memory.")
            return forward(model, batch)  # type: ignore[arg-type]

        self.expected = embedder.encode_document(TEXTS)
        monkeypatch.setattr("e5.engine.forward", limited)

    LIMIT = 45  # the longest of TEXTS fits, all together do not

    def test_it_goes_on_in_halves_with_the_same_vectors(
        self, embedder: Embedder, caplog: pytest.LogCaptureFixture
    ) -> None:
        lengths = sorted(len(true_ids(text)) for text in set(TEXTS))
        assert lengths[-1] <= self.LIMIT < sum(lengths)
        with caplog.at_level(logging.WARNING):
            vectors = embedder.encode_document(TEXTS)
        assert_same(vectors, self.expected)
        assert "out of GPU memory with 6 texts: going on in two halves" in caplog.messages

    def test_what_fits_is_not_split(
        self, embedder: Embedder, caplog: pytest.LogCaptureFixture
    ) -> None:
        with caplog.at_level(logging.WARNING):
            assert_same(embedder.encode_document(TEXTS[:2]), self.expected[:2])
        assert not caplog.messages

    def test_a_text_that_does_not_fit_alone_is_an_error(self, embedder: Embedder) -> None:
        long = "snow " * 60
        num_tokens = len(true_ids(long))
        message = rf"^documents\[8\]: a text of {num_tokens} tokens does not fit"
        with pytest.raises(OutOfMemoryError, match=message) as caught:
            embedder.encode_document([*TEXTS, long])
        assert caught.value.num_tokens == num_tokens
        assert_same(embedder.encode_document(TEXTS), self.expected)  # and the engine goes on


class TestFingerprint:
    """The name changes with everything that shapes a vector, and with nothing else."""

    def test_it_changes_with_weights_tokenizer_dtype_and_length(
        self, checkpoint: Path, edit_checkpoint: EditCheckpoint, tmp_path: Path, embedder: Embedder
    ) -> None:
        def one_weight(tensors: dict[str, torch.Tensor]) -> None:
            tensors["norm.weight"][0] += 1e-3

        other_tokenizer = Path(shutil.copytree(checkpoint, tmp_path / checkpoint.name))
        save_tokenizer(other_tokenizer, "transformers4")
        names = [
            embedder.name,
            load(edit_checkpoint(checkpoint, one_weight)).name,
            load(other_tokenizer).name,
            load(checkpoint, dtype="bfloat16").name,
            load(checkpoint, max_length=100).name,
        ]
        assert len(set(names)) == len(names)

    def test_it_does_not_change_with_the_budget_or_the_place(
        self, checkpoint: Path, tmp_path: Path, embedder: Embedder
    ) -> None:
        assert load(checkpoint, max_batch_tokens=17, max_queue_tokens=3).name == embedder.name
        elsewhere = load(Path(shutil.copytree(checkpoint, tmp_path / "elsewhere")))
        folder, fingerprint = elsewhere.name.split("@")
        assert folder == "elsewhere"
        assert f"{checkpoint.name}@{fingerprint}" == embedder.name

    def test_it_is_twelve_hex_digits_and_always_the_same(self) -> None:
        digests = {"a": "0", "b": "1"}
        first = fingerprint_of(digests, dtype=torch.float16, max_length=512)
        turned = fingerprint_of({"b": "1", "a": "0"}, dtype=torch.float16, max_length=512)
        assert first == turned
        assert len(first) == 12
        int(first, 16)

    def test_each_ingredient_counts(self, monkeypatch: pytest.MonkeyPatch) -> None:
        digests, f16 = {"model.safetensors": "0"}, torch.float16
        fingerprints = [
            fingerprint_of(digests, dtype=f16, max_length=512),
            fingerprint_of({"model.safetensors": "1"}, dtype=f16, max_length=512),
            fingerprint_of({"renamed.safetensors": "0"}, dtype=f16, max_length=512),
            fingerprint_of(digests, dtype=torch.bfloat16, max_length=512),
            fingerprint_of(digests, dtype=f16, max_length=511),
        ]
        with monkeypatch.context() as patch:
            patch.setattr(prompts, "TEMPLATE", "Instruct: {task}\nQuery:{query}")
            fingerprints.append(fingerprint_of(digests, dtype=f16, max_length=512))
        with monkeypatch.context() as patch:
            patch.setattr("e5.embedder.RULE", "another rule")
            fingerprints.append(fingerprint_of(digests, dtype=f16, max_length=512))
        assert len(set(fingerprints)) == len(fingerprints)
        assert fingerprint_of(digests, dtype=f16, max_length=512) == fingerprints[0]


class TestTokenizerAtLoading:
    """A checkpoint whose token ids are wrong is not served."""

    @pytest.fixture
    def folder(self, checkpoint: Path, tmp_path: Path) -> Path:
        """A copy to damage."""
        return Path(shutil.copytree(checkpoint, tmp_path / "damaged"))

    def test_a_damaged_tokenizer_is_refused(self, folder: Path) -> None:
        content = json.loads((folder / "tokenizer.json").read_text())
        vocab = content["model"]["vocab"]
        vocab["▁Paris"], vocab["▁London"] = vocab["▁London"], vocab["▁Paris"]
        (folder / "tokenizer.json").write_text(json.dumps(content))
        with pytest.raises(TokenizerError, match="'The capital of France is Paris'"):
            load(folder)

    def test_a_tokenizer_that_misses_the_manifests_ids_is_refused(self, folder: Path) -> None:
        files = hash_files(folder, checkpoint_files(folder))
        Manifest("a test", files, {"snow": true_ids("snow")}).write(folder)
        load(folder)
        Manifest("a test", files, {"snow": true_ids("rain")}).write(folder)
        with pytest.raises(TokenizerError, match="the tokenizer turns 'snow' into"):
            load(folder)


def test_any_style_of_saved_tokenizer_gives_the_same_vectors(
    tmp_path: Path, embedder: Embedder
) -> None:
    folder = save_checkpoint(tmp_path / "small", style="transformers5")
    assert_same(load(folder).encode_query(TEXTS), embedder.encode_query(TEXTS))


def test_a_tokenizer_that_gives_ids_the_model_does_not_know_is_refused(
    checkpoint: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(checkpoint, tmp_path / "short")
    config = json.loads((folder / "config.json").read_text()) | {"vocab_size": 31_000}
    (folder / "config.json").write_text(json.dumps(config))
    tensors = load_file(folder / "model.safetensors")
    tensors["embed_tokens.weight"] = tensors["embed_tokens.weight"][:31_000].clone()
    (folder / "model.safetensors").write_bytes(save(tensors))
    with pytest.raises(TokenizerError, match="gives ids up to 31999, the model knows 31000"):
        load(folder)


def test_the_checkpoint_s_own_activation_is_used(checkpoint: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(checkpoint, tmp_path / "gelu")
    config = json.loads((folder / "config.json").read_text()) | {"hidden_act": "gelu"}
    (folder / "config.json").write_text(json.dumps(config))
    ours = load(folder).encode_document(TEXTS)
    assert_same(ours, Reference(folder)([true_ids(text) for text in TEXTS]))


def test_vectors_of_different_widths_are_not_compared(embedder: Embedder) -> None:
    query = embedder.encode_query("snow", dimensions=8)
    with pytest.raises(InputError, match=r"^documents: received vectors of shape"):
        embedder.similarity(query, embedder.encode_document(["ice"]))
