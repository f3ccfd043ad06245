"""Streamed layers on a card, at the 7B model's shapes: the same bits, and copies beside kernels."""

import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from checkpoints import TEXTS

from benchmarks.random_weights import SEVEN_BILLION, random_mistral
from e5.checkpoint import Checkpoint
from e5.embedder import Embedder
from e5.engine import Engine
from e5.forward import forward
from e5.layers import StreamedLayers
from e5.mistral import Mistral
from e5.packing import TokenIds, pack
from e5.placement import MemoryNeeds, spread
from e5.settings import Settings
from e5.vectors import cosine_scores
from e5.weights import load_model

pytestmark = pytest.mark.gpu
CPU, CUDA = torch.device("cpu"), torch.device("cuda")


def seven_billion() -> Mistral:
    """The 7B model's shapes with random weights, on the card."""
    return random_mistral(SEVEN_BILLION, CUDA, torch.float16)


def draw_texts(tokens: int) -> list[TokenIds]:
    draw = random.Random(tokens)
    return [tuple(draw.choices(range(3, 32_000), k=512)) for _ in range(tokens // 512)]


@pytest.fixture
def limited() -> Iterator[Callable[[float], None]]:
    """A function that limits the memory of this process to so many gigabytes."""
    _, total = torch.cuda.mem_get_info()

    def limit(gigabytes: float) -> None:
        torch.cuda.empty_cache()
        if gigabytes * 1e9 > total:
            pytest.skip("the card is smaller")
        torch.cuda.set_per_process_memory_fraction(gigabytes * 1e9 / total)

    yield limit
    torch.cuda.set_per_process_memory_fraction(1.0)


@pytest.mark.parametrize("gigabytes", [8, 12, 16])
def test_a_small_card_gives_the_bits_of_a_large_one(
    limited: Callable[[float], None], gigabytes: int
) -> None:
    model = seven_billion()
    batches = [[draw_texts(512)[0][:30]], draw_texts(2048)]
    expected = [forward(model, pack(texts).to(CUDA)).cpu() for texts in batches]
    needs = MemoryNeeds.of(model.config, torch.float16, max_length=4096, batch_tokens=4096)
    stay = needs.layers_that_stay(gigabytes * 1e9)
    assert (stay < 32) == (gigabytes < 15)
    if stay < 32:
        model.layers = StreamedLayers(model, spread(32 - stay, 32))
    limited(gigabytes)
    for _ in range(3):
        for texts, vectors in zip(batches, expected, strict=True):
            assert torch.equal(forward(model, pack(texts).to(CUDA)).cpu(), vectors)
    engine = Engine(model)
    assert engine.max_batch_tokens >= 2048
    assert torch.cuda.memory_reserved() <= gigabytes * 1e9


def test_layers_are_copied_while_others_are_computed() -> None:
    model = seven_billion()
    batch = pack(draw_texts(4096)).to(CUDA)

    def seconds() -> float:
        times = []
        for _ in range(4):
            torch.cuda.synchronize()
            started = time.perf_counter()
            forward(model, batch)
            torch.cuda.synchronize()
            times.append(time.perf_counter() - started)
        return min(times)

    computing = seconds()
    layers = model.layers = StreamedLayers(model, spread(16, 32))
    assert seconds() < 0.9 * (computing + layers.copy_seconds)


def test_an_embedder_streams_and_passes_its_self_check(
    calm_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = Settings(weights=calm_checkpoint, device="cuda")
    whole = Embedder.load(settings)
    monkeypatch.setattr("e5.embedder.choose_streamed_layers", lambda *_: [0, 2])
    embedder = Embedder.load(settings)
    assert embedder.name == whole.name
    vectors, truth = embedder.encode_query(TEXTS), whole.encode_query(TEXTS)
    assert np.diag(cosine_scores(vectors, truth)).min() >= 99.95  # whole has CUDA graphs
    ids = [(1, *range(9, 30), i, 2) for i in range(40, 60)]
    plain = Engine(whole._engine.model, graphs=False)
    assert (embedder._engine.compute(ids) == plain.compute(ids)).all()


def test_what_is_pinned_is_known_to_torch_and_unpinned_at_the_end(calm_checkpoint: Path) -> None:
    checkpoint = Checkpoint.find(calm_checkpoint)
    for _ in range(2):  # memory that is still pinned could not be pinned again
        model = load_model(checkpoint, device=CUDA, dtype=torch.float16, streamed=(0, 2))
        assert isinstance(model.layers, StreamedLayers)
        pinned = list(model.layers._pinned.values())
        assert [memory.is_pinned() for memory in pinned] == [True, True]
        assert {weight.device for weight in model.layers[2].parameters()} == {CPU}
        del model
        assert not any(memory.is_pinned() for memory in pinned)
