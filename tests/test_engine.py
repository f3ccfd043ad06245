"""The engine: budget, memory and its check of itself never change a vector, or refuse to serve."""

import logging
import random
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from checkpoints import TEXTS, load, true_ids
from fake_cards import FakeCards
from reference import assert_same

from e5.embedder import Embedder
from e5.engine import MAX_CUDA_BATCH_TOKENS, Engine
from e5.errors import OutOfMemoryError, SettingsError
from e5.forward import forward
from e5.packing import PackedBatch
from e5.settings import Settings
from e5.tokenizer import TokenIds
from e5.vectors import cosine_scores


class TestBudget:
    """The budget changes memory and speed, never a vector."""

    @pytest.mark.parametrize("max_batch_tokens", [1, 8, 40])
    def test_a_tiny_budget_gives_the_same_vectors(
        self, checkpoint: Path, embedder: Embedder, max_batch_tokens: int
    ) -> None:
        tiny = load(checkpoint, max_batch_tokens=max_batch_tokens)
        assert tiny.max_batch_tokens == max_batch_tokens
        assert_same(tiny.encode_document(TEXTS), embedder.encode_document(TEXTS))
        assert_same(tiny.encode_query(TEXTS), embedder.encode_query(TEXTS))

    def test_forwards_keep_the_budget_and_a_text_over_it_goes_alone(
        self, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        tiny = load(checkpoint, max_batch_tokens=20)
        forwards: list[tuple[int, int]] = []  # tokens and texts of each

        def observed(model: torch.nn.Module, batch: PackedBatch, *, compiled: bool) -> torch.Tensor:
            forwards.append((len(batch.input_ids), len(batch.last_index)))
            return forward(model, batch, compiled=compiled)  # type: ignore[arg-type]

        monkeypatch.setattr("e5.engine.forward", observed)
        tiny.encode_document(TEXTS)
        assert sum(texts for _, texts in forwards) == len(set(TEXTS))  # duplicates once
        assert [texts for tokens, texts in forwards if tokens > 20] == [1, 1]  # 43 and 21 tokens
        assert max(texts for _, texts in forwards) > 1


def test_where_torch_cannot_compile_a_sentence_says_so(
    embedder: Embedder, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken() -> None:
        raise RuntimeError("no compiler\nanywhere")

    monkeypatch.setattr("e5.forward._compiled", broken)
    with pytest.raises(SettingsError, match=r"^E5_COMPILE: .*\(no compiler anywhere\)"):
        Engine(embedder._engine.model, compiled=True)


class TestOutOfMemory:
    """A forward that does not fit goes on in halves, and says so."""

    @pytest.fixture(autouse=True)
    def _small_memory(self, embedder: Embedder, monkeypatch: pytest.MonkeyPatch) -> None:
        """Memory for `LIMIT` tokens: a CPU has no such error of its own."""

        def limited(model: torch.nn.Module, batch: PackedBatch, *, compiled: bool) -> torch.Tensor:
            if len(batch.input_ids) > self.LIMIT:
                raise torch.OutOfMemoryError("CUDA out of memory.")
            return forward(model, batch, compiled=compiled)  # type: ignore[arg-type]

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
        assert "out of the card's memory with 6 texts: halving the batch" in caplog.messages

    def test_what_fits_is_not_split(
        self, embedder: Embedder, caplog: pytest.LogCaptureFixture
    ) -> None:
        with caplog.at_level(logging.WARNING):
            assert_same(embedder.encode_document(TEXTS[:2]), self.expected[:2])
        assert not caplog.messages

    def test_a_text_that_does_not_fit_alone_is_an_error(self, embedder: Embedder) -> None:
        long = "snow " * 60
        num_tokens = len(true_ids(long))
        message = rf"^documents\[8\]: received a text of {num_tokens} tokens, which does not fit"
        with pytest.raises(OutOfMemoryError, match=message):
            embedder.encode_document([*TEXTS, long])
        assert_same(embedder.encode_document(TEXTS), self.expected)  # and the engine goes on


class Card(Engine):
    """An engine whose forwards take this many bytes a token of a fake card, and compute nothing."""

    fixed = squared = 0  # bytes of each forward, and of each pair of tokens

    def __init__(self, cards: FakeCards, bytes_a_token: float) -> None:
        self.cards, self.bytes_a_token = cards, bytes_a_token
        self.forwards: list[int] = []
        self.clock, self.tokens_per_second, self.copy_seconds = 0.0, 1e4, 0.0

    def _vectors(self, texts: Sequence[TokenIds], _: bool) -> torch.Tensor:
        tokens = sum(map(len, texts))
        self.forwards.append(tokens)
        self.clock += max(self.copy_seconds, tokens / self.tokens_per_second)
        self.cards.take(self.fixed + int(tokens * self.bytes_a_token) + tokens**2 * self.squared)
        return torch.zeros(len(texts), 8)

    def measured(self) -> int:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("e5.engine.time", SimpleNamespace(perf_counter=lambda: self.clock))
            card = torch.device("cuda", 0)
            return self._measure_batch_tokens(card, copy_seconds=self.copy_seconds)


class TestMeasuring:
    """What a card has left decides the token budget, and a card that is almost full loads too."""

    WEIGHTS, A_TOKEN = 14_220_000_000, 112_000  # the 7B model's in float16

    def card(self, monkeypatch: pytest.MonkeyPatch, gigabytes: float, taken: int = 0) -> Card:
        cards = FakeCards(monkeypatch, [gigabytes])
        cards.weights[0] = self.WEIGHTS + taken
        return Card(cards, self.A_TOKEN)

    @pytest.mark.parametrize("gigabytes", [15.6, 24, 48, 80])
    def test_from_16_gigabytes_on_a_card_has_the_whole_budget(
        self, monkeypatch: pytest.MonkeyPatch, gigabytes: float
    ) -> None:
        card = self.card(monkeypatch, gigabytes)
        assert card.measured() == MAX_CUDA_BATCH_TOKENS
        assert card.forwards == [256, 256, 512, 1024, 2048, 4096]

    @pytest.mark.parametrize("free", [30e6, 60e6, 100e6, 250e6, 430e6, 800e6])
    def test_one_with_little_left_gets_half_of_it(
        self, monkeypatch: pytest.MonkeyPatch, free: float
    ) -> None:
        card = self.card(monkeypatch, 15.6)
        card.cards.weights[0] += int(card.cards.free(0) - free)
        assert card.measured() == pytest.approx(free / 2 / self.A_TOKEN, rel=0.02)
        assert max(card.forwards) * self.A_TOKEN <= free  # no probe fails

    def test_memory_that_grows_faster_than_the_text_is_noticed_in_time(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        card = self.card(monkeypatch, 15.6)
        card.squared, free = 500, card.cards.free(0)
        tokens = card.measured()
        assert 256 < tokens < MAX_CUDA_BATCH_TOKENS
        assert tokens * (self.A_TOKEN + 500 * tokens) <= free / 2

    def test_what_the_first_forward_takes_for_good_is_not_counted(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        card = self.card(monkeypatch, 15.6)
        card.cards.weights[0] += int(card.cards.free(0) - 100_000_000)
        usual = card._vectors

        def first(texts: Sequence[TokenIds], share_prefixes: bool) -> torch.Tensor:
            if not card.forwards:
                card.cards.weights[0] += 32_000_000  # cuBLAS's workspace
            return usual(texts, share_prefixes)

        monkeypatch.setattr(card, "_vectors", first)
        assert card.measured() == pytest.approx(68_000_000 / 2 / self.A_TOKEN, rel=0.02)

    def test_what_every_forward_takes_is_set_aside(self, monkeypatch: pytest.MonkeyPatch) -> None:
        card = self.card(monkeypatch, 15.6)
        card.fixed = 436_000_000  # a layer that is copied to the card
        card.cards.weights[0] += card.cards.free(0) - 1_100_000_000
        expected = (1_100_000_000 - card.fixed) / 2 / self.A_TOKEN
        assert card.measured() == pytest.approx(expected, rel=0.02)

    def test_of_a_card_that_is_shared_by_a_limit_the_limit_counts(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        card = self.card(monkeypatch, 80)
        allowed = self.WEIGHTS + 100_000_000
        card.cards.fractions[0] = allowed / card.cards.totals[0]
        assert card.measured() == pytest.approx(50_000_000 / self.A_TOKEN, rel=0.02)

    def test_the_fullest_of_several_cards_decides(self, monkeypatch: pytest.MonkeyPatch) -> None:
        cards = FakeCards(monkeypatch, [24, 24])
        cards.weights[1] = cards.free(1) - 200_000_000

        class Both(Card):
            def _vectors(self, texts: Sequence[TokenIds], _: bool) -> torch.Tensor:
                for number in range(2):
                    cards.take(int(sum(map(len, texts)) * self.bytes_a_token), number)
                return torch.zeros(len(texts), 8)

        devices = [torch.device("cuda", number) for number in range(2)]
        found = Both(cards, self.A_TOKEN)._measure_batch_tokens(*devices)
        assert found == pytest.approx(100_000_000 / self.A_TOKEN, rel=0.02)

    @pytest.mark.parametrize(
        ("name", "tokens_per_second", "copy_seconds", "budget"),
        [
            ("3060, 10 layers streamed", 1_490, 0.175, 4096),
            ("4070, all layers streamed", 3_400, 0.56, 4096),
            ("A40, all layers streamed", 8_040, 0.56, 5628),  # a quarter more than hides the copy
            ("H100, all layers streamed", 50_000, 0.28, 17_500),
        ],
    )
    def test_it_grows_where_that_hides_the_copying_of_streamed_layers(
        self,
        monkeypatch: pytest.MonkeyPatch,
        name: str,
        tokens_per_second: float,
        copy_seconds: float,
        budget: int,
    ) -> None:
        card = self.card(monkeypatch, 80)
        card.tokens_per_second, card.copy_seconds = tokens_per_second, copy_seconds
        assert card.measured() == pytest.approx(budget, abs=1), name
        assert max(card.forwards) <= 2 * budget

    def test_but_not_beyond_half_of_the_memory(self, monkeypatch: pytest.MonkeyPatch) -> None:
        card = self.card(monkeypatch, 15.6)
        card.tokens_per_second, card.copy_seconds = 50_000, 0.28
        card.cards.weights[0] += int(card.cards.free(0) - 1e9)
        assert card.measured() == pytest.approx(1e9 / 2 / self.A_TOKEN, rel=0.02)
        assert max(card.forwards) == 8192  # which the memory holds

    def test_a_card_without_room_for_a_forward_is_refused_with_the_ways_out(
        self, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def full(*_: object, **__: object) -> None:
            raise torch.OutOfMemoryError("CUDA out of memory.")

        monkeypatch.setattr("e5.embedder.load_model", full)
        with pytest.raises(
            SettingsError,
            match=r"^E5_ENGINE: received 'packed', for which cpu has too .* E5_ENGINE=transformers",
        ):
            load(checkpoint)


@pytest.fixture(scope="module")
def engine(calm_checkpoint: Path) -> Engine:
    return Embedder.load(Settings(weights=calm_checkpoint, device="cuda"))._engine


@pytest.mark.gpu
class TestCuda:
    """On a GPU, in float16."""

    @pytest.mark.filterwarnings("ignore")  # the compiler's own
    def test_a_compiled_forward_gives_the_same_vectors(self, engine: Engine) -> None:
        draw = random.Random(2)
        texts = [(1, *draw.choices(range(3, 32_000), k=k), 2) for k in range(1, 400, 7)]
        compiled = Engine(engine.model, compiled=True)
        for some in (texts, texts[:2], texts[2:3]):  # without a graph, and with graphs
            found = cosine_scores(compiled.compute(some), engine.compute(some))
            assert np.diag(found).min() >= 99.95

    def test_the_budget_is_measured_from_free_memory(self, engine: Engine) -> None:
        assert engine.max_batch_tokens == MAX_CUDA_BATCH_TOKENS  # the model is tiny

    def test_out_of_memory_goes_on_in_halves_with_the_same_vectors(
        self, engine: Engine, caplog: pytest.LogCaptureFixture
    ) -> None:
        draw = random.Random(1)
        texts = [(1, *draw.choices(range(3, 32_000), k=250), 2) for _ in range(2000)]
        expected = engine.compute(texts)
        large = Engine(engine.model, max_batch_tokens=2**20)
        torch.cuda.empty_cache()
        _, total = torch.cuda.mem_get_info()
        room = torch.cuda.memory_reserved() + 256 * 2**20
        torch.cuda.set_per_process_memory_fraction(room / total)
        try:
            with caplog.at_level(logging.WARNING):
                vectors = large.compute(texts)
        finally:
            torch.cuda.set_per_process_memory_fraction(1.0)
        assert "halving the batch" in caplog.text
        assert np.diag(cosine_scores(vectors, expected)).min() >= 99.95
