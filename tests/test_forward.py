"""The packed forward equals transformers' padded one; a forward with a known mistake does not."""

import random
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch._dynamo
from checkpoints import save_checkpoint, true_ids
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import Reference, dense_attention

from e5.checkpoint import Checkpoint
from e5.forward import forward
from e5.mistral import Mistral
from e5.packing import PackedBatch, Spans, TokenIds, pack
from e5.prompts import query_prompt
from e5.vectors import Vectors, cosine_scores
from e5.weights import load_model

CPU = torch.device("cpu")
UNSHARED = 1_000_000  # a min_shared that nothing reaches

IDS = st.integers(0, 31_999)  # `<s>` and `</s>` inside a text too: nothing may look for them
PREFIXES: list[TokenIds] = [(), tuple(range(500, 530)), (*range(500, 512), 9, 9), (2, 2, 2)]


@st.composite
def mixtures(draw: st.DrawFn) -> list[TokenIds]:
    """Texts of 2 to about 150 tokens in any order; some share a prefix, some are identical."""
    text = st.builds(
        lambda prefix, body, times: (1, *prefix, *(times * body), 2),
        st.sampled_from(PREFIXES),
        st.lists(IDS, max_size=12),
        st.integers(1, 10),
    )
    texts = draw(st.lists(text, min_size=1, max_size=8))
    again = draw(st.lists(st.sampled_from(texts), max_size=3))
    return draw(st.permutations(texts + again))


def run(model: Mistral, batch: PackedBatch) -> Vectors:
    vectors: Vectors = forward(model, batch).numpy()
    return vectors


def cosines(vectors: Vectors, truth: Vectors) -> Vectors:
    """Of each vector with its own truth."""
    return np.diag(cosine_scores(vectors, truth)) / np.float32(100)


def is_faithful(vectors: Vectors, truth: Vectors) -> bool:
    """The bound of float32: no element further off than 1e-4 of its vector's largest."""
    error = np.abs(vectors - truth).max(axis=1) / np.abs(truth).max(axis=1)
    return bool((error <= 1e-4).all())


def is_faithful_in_half_precision(vectors: Vectors, truth: Vectors) -> bool:
    """The bound of bfloat16 and float16."""
    return bool((cosines(vectors, truth) >= 0.9995).all())


@pytest.fixture(scope="module")
def model(checkpoint: Path) -> Mistral:
    """Three layers in float32."""
    return load_model(Checkpoint.find(checkpoint), device=CPU, dtype=torch.float32)


@pytest.fixture(scope="module")
def bf16_model(calm_checkpoint: Path) -> Mistral:
    """Three layers in bfloat16."""
    return load_model(Checkpoint.find(calm_checkpoint), device=CPU, dtype=torch.bfloat16)


class TestFidelity:
    """Whatever the mixture, the order, the neighbours and the sharing."""

    @given(texts=mixtures(), min_shared=st.sampled_from([1, 8, UNSHARED]))
    def test_float32_equals_the_reference(
        self, model: Mistral, reference: Reference, texts: list[TokenIds], min_shared: int
    ) -> None:
        vectors = run(model, pack(texts, min_shared=min_shared))
        assert vectors.dtype == np.float32
        assert is_faithful(vectors, reference(texts))

    @given(texts=mixtures())
    def test_sorted_texts_which_share_the_most_equal_the_reference(
        self, model: Mistral, reference: Reference, texts: list[TokenIds]
    ) -> None:
        texts = sorted(texts)
        assert is_faithful(run(model, pack(texts)), reference(texts))

    @pytest.mark.parametrize("num_layers", [1, 6])
    @pytest.mark.parametrize("min_shared", [8, UNSHARED])
    def test_any_number_of_layers_equals_the_reference(
        self, tmp_path: Path, num_layers: int, min_shared: int
    ) -> None:
        folder = save_checkpoint(tmp_path, num_layers=num_layers, seed=num_layers)
        model = load_model(Checkpoint.find(folder), device=CPU, dtype=torch.float32)
        vectors = run(model, pack(TEXTS, min_shared=min_shared))
        assert is_faithful(vectors, Reference(folder)(TEXTS))

    def test_a_long_text_beside_short_ones_equals_the_reference(
        self, model: Mistral, reference: Reference
    ) -> None:
        random = np.random.default_rng(0)
        texts = [(1, *random.integers(0, 32_000, n).tolist(), 2) for n in (0, 1, 600, 3)]
        assert is_faithful(run(model, pack(texts)), reference(texts))

    @pytest.mark.slow
    @settings(max_examples=30)
    @given(texts=mixtures(), min_shared=st.sampled_from([8, UNSHARED]))
    def test_bfloat16_is_as_near_as_promised(
        self,
        bf16_model: Mistral,
        calm_reference: Reference,
        texts: list[TokenIds],
        min_shared: int,
    ) -> None:
        vectors = run(bf16_model, pack(texts, min_shared=min_shared))
        assert vectors.dtype == np.float32
        assert is_faithful_in_half_precision(vectors, calm_reference(texts))

    @pytest.mark.gpu
    @pytest.mark.parametrize("min_shared", [8, UNSHARED])
    def test_float16_on_cuda_is_as_near_as_promised(
        self, calm_checkpoint: Path, calm_reference: Reference, min_shared: int
    ) -> None:
        cuda = torch.device("cuda")
        model = load_model(Checkpoint.find(calm_checkpoint), device=cuda, dtype=torch.float16)
        vectors = forward(model, pack(TEXTS, min_shared=min_shared).to(cuda)).cpu().numpy()
        assert is_faithful_in_half_precision(vectors, calm_reference(TEXTS))


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("c++") is None, reason="torch.compile needs a C++ compiler")
@pytest.mark.filterwarnings("ignore")  # the compiler's own
class TestCompiled:
    """Compiled programs give the same vectors, and are compiled once."""

    def test_one_program_for_each_half_of_a_layer_whatever_the_texts(
        self, bf16_model: Mistral, calm_reference: Reference
    ) -> None:
        torch._dynamo.reset()
        counted = torch._dynamo.utils.counters
        counted.clear()  # other files compile too
        draw = random.Random(3)
        # One text and many, of one token and of many, with and without a shared prefix.
        for lengths in ([1], [80], [1, 1], [80, 1, 40], [7] * 9, [*range(1, 80, 10)]):
            texts = [(1, *draw.choices(range(3, 32_000), k=length), 2) for length in lengths]
            for batch in (texts, [*texts, (*texts[0][:-1], 9, 2)]):
                vectors = forward(bf16_model, pack(batch, min_shared=2), compiled=True).numpy()
                assert is_faithful_in_half_precision(vectors, calm_reference(batch))
                assert counted["stats"]["unique_graphs"] == 2
        assert not counted["graph_break"]
        assert sum(counted["recompiles"].values()) == 0

    def test_float32_equals_the_reference(self, model: Mistral, reference: Reference) -> None:
        vectors = forward(model, pack(TEXTS), compiled=True).numpy()
        assert is_faithful(vectors, reference(TEXTS))


# Two queries of one task (a shared prefix of some twenty tokens), a text that holds the characters
# of a control token, a document and a short word.
STRINGS = [
    query_prompt("web_search_query", "how much protein should a female eat"),
    query_prompt("web_search_query", "what is a summit"),
    "An end token is written </s> in a text.",
    "As a general guideline, an average woman should eat 46 grams of protein a day. " * 3,
    "Paris",
]
TEXTS = [true_ids(text) for text in STRINGS]
FIRST, CONTROL, WORD = 0, 2, 4

Mutant = Callable[[Sequence[TokenIds]], PackedBatch]


def without_leading_space(text: TokenIds) -> TokenIds:
    """`Paris` for `▁Paris`: what a file without the Prepend normalizer gives."""
    return (1, 3916, 278, 2) if text == TEXTS[WORD] else text


def with_control_ids(text: TokenIds) -> TokenIds:
    """2 for the characters `</s>`: what the plain library gives."""
    before, after = STRINGS[CONTROL].split("</s>")
    inside = (*true_ids(before)[:-1], 2, *true_ids(after)[1:])
    return inside if text == TEXTS[CONTROL] else text


def padded_and_read_by_id(texts: Sequence[TokenIds]) -> PackedBatch:
    """Padded with `</s>`, as the checkpoint says, and read from the last `</s>`."""
    longest = max(map(len, texts))
    return pack([text + (2,) * (longest - len(text)) for text in texts])


def positions_not_restarted(texts: Sequence[TokenIds]) -> PackedBatch:
    """Rotary positions are relative, so this matters only beside a shared prefix."""
    batch = pack(texts)
    return replace(batch, position_ids=torch.arange(len(batch.input_ids)))


def all_texts_as_one(texts: Sequence[TokenIds]) -> PackedBatch:
    """Causal, but across the borders of the texts."""
    batch = pack(texts, min_shared=UNSHARED)
    total = len(batch.input_ids)
    return replace(batch, spans=Spans.of([total], [total]))


def shared_prefix_shifted(texts: Sequence[TokenIds]) -> PackedBatch:
    """The second query reads its first keys one token too late."""
    batch = pack(texts)
    assert batch.key_index is not None
    key_index = batch.key_index.clone()
    start = len(texts[0])
    key_index[start : start + 10] += 1
    return replace(batch, key_index=key_index)


def shared_prefix_forgotten(texts: Sequence[TokenIds]) -> PackedBatch:
    """The second query sees only the tokens computed for it."""
    batch = pack(texts)
    rows = batch.spans.query_lengths
    ones = [1] * len(texts)
    return replace(
        batch, key_index=None, spans=Spans.of(rows, rows), last_spans=Spans.of(ones, rows)
    )


def with_last_index(change: Callable[[torch.Tensor], torch.Tensor]) -> Mutant:
    def mutant(texts: Sequence[TokenIds]) -> PackedBatch:
        batch = pack(texts)
        return replace(batch, last_index=change(batch.last_index))

    return mutant


MUTANTS: dict[str, Mutant] = {
    "no end token": lambda texts: pack([text[:-1] for text in texts]),
    "two end tokens": lambda texts: pack([(*text, 2) for text in texts]),
    "no begin token": lambda texts: pack([text[1:] for text in texts]),
    "two begin tokens": lambda texts: pack([(1, *text) for text in texts]),
    "no leading space": lambda texts: pack([without_leading_space(text) for text in texts]),
    "control ids from text": lambda texts: pack([with_control_ids(text) for text in texts]),
    "padding read by id": padded_and_read_by_id,
    "positions not restarted": positions_not_restarted,
    "positions all zero": lambda texts: replace(
        pack(texts), position_ids=torch.zeros_like(pack(texts).position_ids)
    ),
    "the row before the last": with_last_index(lambda index: index - 1),
    "the neighbour's row": with_last_index(lambda index: index.roll(1)),
    "attention across texts": all_texts_as_one,
    "shared prefix shifted": shared_prefix_shifted,
    "shared prefix forgotten": shared_prefix_forgotten,
}


class TestMutants:
    """The bounds above have teeth: each known mistake falls far outside of them."""

    def test_the_inputs_share_a_prefix(self) -> None:
        batch = pack(TEXTS)
        assert batch.key_index is not None
        assert sum(batch.spans.key_lengths) - sum(batch.spans.query_lengths) >= 10

    def test_without_a_mistake_the_bounds_hold(self, model: Mistral, reference: Reference) -> None:
        vectors, truth = run(model, pack(TEXTS)), reference(TEXTS)
        assert is_faithful(vectors, truth)
        assert is_faithful_in_half_precision(vectors, truth)

    @pytest.mark.parametrize("mutant", MUTANTS.values(), ids=MUTANTS)
    def test_a_mistake_is_caught(
        self, model: Mistral, reference: Reference, mutant: Mutant
    ) -> None:
        vectors, truth = run(model, mutant(TEXTS)), reference(TEXTS)
        assert not is_faithful(vectors, truth)
        assert not is_faithful_in_half_precision(vectors, truth)
        assert cosines(vectors, truth).min() < 0.99

    @pytest.mark.parametrize(
        "mutant", ["no end token", "two end tokens", "no begin token", "the row before the last"]
    )
    def test_a_mistake_in_every_text_is_caught_in_every_text(
        self, model: Mistral, reference: Reference, mutant: str
    ) -> None:
        assert cosines(run(model, MUTANTS[mutant](TEXTS)), reference(TEXTS)).max() < 0.9995

    def test_a_forgotten_causal_mask_is_caught(
        self, model: Mistral, reference: Reference, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def not_causal(
            query: torch.Tensor,
            key: torch.Tensor,
            value: torch.Tensor,
            spans: Spans,
            key_index: torch.Tensor | None,
        ) -> torch.Tensor:
            return dense_attention(query, key, value, spans, key_index, causal=False)

        monkeypatch.setattr("e5.forward.attention", not_causal)
        vectors = run(model, pack(TEXTS, min_shared=UNSHARED))
        assert cosines(vectors, reference(TEXTS)).max() < 0.99

    def test_half_precision_catches_a_missing_end_token(
        self, bf16_model: Mistral, calm_reference: Reference
    ) -> None:
        vectors = run(bf16_model, MUTANTS["no end token"](TEXTS))
        assert cosines(vectors, calm_reference(TEXTS)).max() < 0.99
