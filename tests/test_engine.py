"""The engine: budget, memory and its check of itself never change a vector, or refuse to serve."""

import logging
import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from checkpoints import TEXTS, load, true_ids
from reference import assert_same

from e5.embedder import Embedder
from e5.engine import MAX_CUDA_BATCH_TOKENS, Engine
from e5.errors import OutOfMemoryError, SettingsError
from e5.forward import forward
from e5.packing import PackedBatch, TokenIds
from e5.settings import Settings
from e5.vectors import Vectors, cosine_scores


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
        assert "out of GPU memory with 6 texts: halving the batch" in caplog.messages

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


class SimulatedCard(Engine):
    """An engine whose card has this much memory, and this speed."""

    def __init__(
        self, free: float, *, tokens_per_second: float = 1e4, copy_seconds: float = 0.0
    ) -> None:
        """`free` gigabytes are free for forwards, and a token takes 100 kB."""
        self.model = SimpleNamespace(device=torch.device("cuda"))  # type: ignore[assignment]
        self.free, self.tokens_per_second = int(free * 1e9), tokens_per_second
        self._copy_seconds = copy_seconds
        self.clock, self.peak = 0.0, 0
        self.forwards: list[int] = []  # their tokens

    BYTES_PER_TOKEN = 10**5

    def _forward(self, texts: Sequence[TokenIds], _: int = 8) -> Iterator[Vectors]:
        tokens = sum(map(len, texts))
        if self.BYTES_PER_TOKEN * tokens > self.free:
            raise OutOfMemoryError(tokens)
        self.forwards.append(tokens)
        self.peak = self.BYTES_PER_TOKEN * tokens
        self.clock += max(self._copy_seconds, tokens / self.tokens_per_second)
        yield np.empty((len(texts), 1), np.float32)

    def measured(self, *, limit: float = 1.0) -> int:
        """The budget, where the process may take only a part of the card's 100 GB."""
        functions = {
            "reset_peak_memory_stats": lambda _: None,
            "memory_allocated": lambda _: 0,
            "memory_reserved": lambda _: 0,
            "max_memory_allocated": lambda _: self.peak,
            "mem_get_info": lambda _: (self.free, int(100e9)),
            "get_per_process_memory_fraction": lambda _: limit,
            "empty_cache": lambda: None,
        }
        with pytest.MonkeyPatch.context() as patch:
            for name, function in functions.items():
                patch.setattr(f"torch.cuda.{name}", function)
            patch.setattr("e5.engine.time", SimpleNamespace(perf_counter=lambda: self.clock))
            return self._measure_batch_tokens()


class TestMeasuredBudget:
    """It fills half of the free memory, and grows only to hide copies."""

    @pytest.mark.parametrize(
        ("free", "budget"), [(80, 4096), (0.82, 4096), (0.43, 2150), (0.2, 1000), (0.03, 150)]
    )
    def test_half_of_the_free_memory_is_used(self, free: float, budget: int) -> None:
        assert SimulatedCard(free).measured() == budget

    def test_no_forward_is_tried_that_the_memory_may_not_hold(self) -> None:
        card = SimulatedCard(0.2)
        card.measured()
        assert card.forwards == [256, 512]
        card = SimulatedCard(80)
        card.measured()
        assert card.forwards == [256, 512, 1024, 2048, 4096]

    def test_a_limit_of_the_process_counts_as_the_memory(self) -> None:
        assert (
            SimulatedCard(
                80,
            ).measured(limit=0.002)
            == 1000
        )

    @pytest.mark.parametrize(
        ("name", "tokens_per_second", "copy_seconds", "budget"),
        [
            ("3060", 1_490, 0.175, 4096),
            ("3060, all layers streamed", 1_490, 0.56, 4096),
            ("4070, all layers streamed", 3_400, 0.56, 4096),
            ("A40, all layers streamed", 8_040, 0.56, 5628),  # a quarter more than hides the copy
            ("H100, all layers streamed", 50_000, 0.28, 17_500),
        ],
    )
    def test_it_grows_where_that_hides_the_copies(
        self, name: str, tokens_per_second: float, copy_seconds: float, budget: int
    ) -> None:
        card = SimulatedCard(80, tokens_per_second=tokens_per_second, copy_seconds=copy_seconds)
        assert card.measured() == pytest.approx(budget, abs=1), name
        assert max(card.forwards) <= 2 * budget

    def test_but_not_beyond_half_of_the_memory(self) -> None:
        card = SimulatedCard(1.0, tokens_per_second=50_000, copy_seconds=0.28)
        assert card.measured() == 5000
        assert max(card.forwards) == 4096


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
