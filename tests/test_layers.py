"""Streamed layers give the bits of layers that stay, and no memory is used before its time.

The card is a fake: `fake_streams` says what it proves. `test_layers_cuda` asks a real one.
"""

import json
import logging
import shutil
from collections.abc import Collection, Iterator, Sequence
from itertools import chain, combinations
from pathlib import Path
from typing import Any

import pytest
import torch
import torch._dynamo
from checkpoints import TEXTS, load
from fake_streams import FakeStreams, Stream
from safetensors.torch import save_file
from varlen_on_cpu import as_on_a_card

from e5.attention import attention
from e5.checkpoint import Checkpoint
from e5.engine import MAX_CUDA_BATCH_TOKENS
from e5.errors import SettingsError
from e5.forward import forward
from e5.layers import ALIGNMENT, StreamedLayers
from e5.lora import LoraAdapter
from e5.mistral import Config, Mistral
from e5.packing import pack
from e5.placement import MemoryNeeds
from e5.tokenizer import TokenIds
from e5.weights import load_model

CPU = torch.device("cpu")
NUM_LAYERS = 5
SPLITS = [*chain(*(combinations(range(NUM_LAYERS), n) for n in range(1, NUM_LAYERS + 1)))]
IDS: list[TokenIds] = sorted([(1, *range(9, 30), i, 2) for i in range(40, 44)] + [(1, 5, 2), (7,)])


def small_model(dtype: torch.dtype = torch.float32) -> Mistral:
    """A model on the CPU with always the same random weights."""
    random_numbers = torch.Generator().manual_seed(0)
    config = Config(
        vocab_size=300,
        hidden_size=32,
        intermediate_size=72,  # no multiple of the alignment
        num_hidden_layers=NUM_LAYERS,
        num_attention_heads=4,
        num_key_value_heads=2,
    )
    model = Mistral(config)
    weights = {
        name: torch.randn(weight.shape, generator=random_numbers) / weight.shape[-1] ** 0.5
        for name, weight in model.named_parameters()
    }
    converted = {name: w.to(dtype if w.ndim > 1 else torch.float32) for name, w in weights.items()}
    model.load_state_dict(converted, assign=True)
    return model.eval().requires_grad_(requires_grad=False)


def stream(model: Mistral, streamed: Collection[int]) -> StreamedLayers:
    layers = model.layers = StreamedLayers(model, streamed)
    return layers


@pytest.fixture
def card() -> Iterator[FakeStreams]:
    with FakeStreams().in_place_of_torchs() as card:
        yield card


@pytest.mark.parametrize("streamed", SPLITS, ids=str)
def test_every_split_gives_the_same_bits_and_has_no_races(
    card: FakeStreams, streamed: tuple[int, ...]
) -> None:
    model, whole = small_model(), small_model()
    layers = stream(model, streamed)
    for texts in (IDS, IDS[:1], IDS):  # what one forward leaves is there for the next
        with card.watching(layers):
            vectors = forward(model, pack(texts))
        assert torch.equal(vectors, forward(whole, pack(texts)))
    assert sum(map(len, card.accesses.values())) > 3 * len(streamed)
    assert card.races() == []


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_so_does_the_cuda_branch_in_16_bits(card: FakeStreams, dtype: torch.dtype) -> None:
    model, whole = small_model(dtype), small_model(dtype)
    layers = stream(model, (0, 2, 4))
    with as_on_a_card() as calls:
        with card.watching(layers):
            vectors = forward(model, pack(IDS))
        assert torch.equal(vectors, forward(whole, pack(IDS)))
    assert len(calls) == 2 * NUM_LAYERS
    assert card.races() == []


class TestWhatTheProofFinds:
    """The fake card finds each wait that is left out, so it can fail."""

    @pytest.mark.parametrize("left_out", ["copied", "computed", "start"])
    def test_a_wait_that_is_left_out_is_a_race(
        self, card: FakeStreams, left_out: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        model = small_model()
        layers = stream(model, (0, 2, 3))
        wait_event = Stream.wait_event

        def some_waits(waiting: Stream, event: Any) -> None:
            if all(event is not getattr(each, left_out) for each in layers._card_buffers):
                wait_event(waiting, event)

        if left_out == "start":
            monkeypatch.setattr(Stream, "wait_stream", lambda *_: None)
        else:
            monkeypatch.setattr(Stream, "wait_event", some_waits)
        with card.watching(layers):
            interrupted(model, at=2)
            forward(model, pack(IDS))
        assert card.races()


def interrupted(model: Mistral, at: int) -> None:
    """A forward that fails in a layer."""
    numbers = iter(range(NUM_LAYERS))

    def failing(*arguments: Any) -> torch.Tensor:
        if next(numbers) == at:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return attention(*arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("e5.forward.attention", failing)
        with pytest.raises(torch.OutOfMemoryError):
            forward(model, pack(IDS))


@pytest.mark.parametrize("at", range(NUM_LAYERS))
@pytest.mark.parametrize("streamed", [(0, 2, 3), (1, 4), (2,), (0, 1, 2, 3, 4)], ids=str)
def test_a_forward_that_fails_leaves_the_next_one_right(
    card: FakeStreams, streamed: tuple[int, ...], at: int
) -> None:
    model, expected = small_model(), forward(small_model(), pack(IDS))
    layers = stream(model, streamed)
    with card.watching(layers):
        interrupted(model, at)
        assert torch.equal(forward(model, pack(IDS)), expected)
    assert card.races() == []


def test_so_does_one_whose_frames_are_kept_and_go_later(card: FakeStreams) -> None:
    model, expected = small_model(), forward(small_model(), pack(IDS))
    layers = stream(model, (0, 2, 3))
    with card.watching(layers):
        kept = iter(layers)  # as by an error with its traceback
        next(kept).input_layernorm.weight.add(1)
        assert torch.equal(forward(model, pack(IDS)), expected)
        del kept
        assert torch.equal(forward(model, pack(IDS)), expected)
    assert card.races() == []


@pytest.mark.slow
@pytest.mark.parametrize("num_layers", range(1, NUM_LAYERS + 1))
def test_so_does_a_forward_of_the_first_layers(card: FakeStreams, num_layers: int) -> None:
    model, whole = small_model(), small_model()
    layers = stream(model, (0, 2, 4))
    with card.watching(layers):
        for count in (num_layers, None):
            vectors = forward(model, pack(IDS), num_layers=count)
            assert torch.equal(vectors, forward(whole, pack(IDS), num_layers=count))
    assert card.races() == []
    shallow = Mistral(whole.config.model_copy(update={"num_hidden_layers": num_layers}))
    tensors = {name: whole.state_dict()[name] for name in shallow.state_dict()}
    shallow.load_state_dict(tensors, assign=True)
    assert torch.equal(
        forward(whole, pack(IDS), num_layers=num_layers), forward(shallow, pack(IDS))
    )


class TestMemory:
    """What lies where, and for how long."""

    @pytest.mark.usefixtures("card")
    def test_the_weights_are_those_that_were_loaded_each_aligned(self) -> None:
        model, whole = small_model(torch.bfloat16), small_model(torch.bfloat16)
        layers = stream(model, (1, 3))
        assert all(torch.equal(w, whole.state_dict()[n]) for n, w in model.state_dict().items())
        on_card = [buffer.layer for buffer in layers._card_buffers]
        for layer in (layers[1], layers[3], *on_card):
            starts = [w.storage_offset() * w.itemsize for w in layer.parameters()]
            assert all(start % ALIGNMENT == 0 for start in starts)
            assert not any(weight.requires_grad for weight in layer.parameters())
        types = {(name, w.dtype, w.shape) for name, w in layers[0].named_parameters()}
        for each in on_card:
            assert {(name, w.dtype, w.shape) for name, w in each.named_parameters()} == types

    def test_no_more_is_pinned_than_the_layers_need(self, card: FakeStreams) -> None:
        layers = stream(small_model(), (1, 3))
        weights = sum(weight.nbytes for weight in layers[1].parameters())
        for nbytes in card.pinned.values():
            assert weights <= nbytes <= weights + 9 * ALIGNMENT
        assert len(card.pinned) == 2
        assert layers.nbytes == sum(card.pinned.values())
        assert layers.copy_seconds > 0

    def test_it_is_unpinned_when_the_layers_go(self, card: FakeStreams) -> None:
        model = small_model()
        stream(model, (1, 3))
        assert card.pinned
        del model
        assert card.pinned == {}

    def test_where_it_cannot_be_pinned_a_sentence_says_so(self, card: FakeStreams) -> None:
        card.fails_to_pin = True
        with pytest.raises(SettingsError) as error:
            stream(small_model(), (1, 3))
        assert str(error.value) == (
            "E5_CARD_GB: received a card that cannot keep all layers, and 0 MB of host memory "
            "cannot be pinned (out of memory); "
            "free host memory, or let the container lock it (ulimit -l unlimited)."
        )


@pytest.mark.usefixtures("card")
def test_only_streamed_layers_are_loaded_into_host_memory(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = load_model(Checkpoint.find(checkpoint), device=CPU, dtype=torch.float32)
    moved: list[tuple[torch.Tensor, torch.device]] = []
    to: Any = torch.Tensor.to

    def observed(tensor: torch.Tensor, *arguments: Any, **options: Any) -> torch.Tensor:
        if options == {"copy": True}:
            moved.append((tensor, arguments[0]))
        result: torch.Tensor = to(tensor, *arguments, **options)
        return result

    monkeypatch.setattr(torch.Tensor, "to", observed)
    card = torch.device("cpu", 0)  # is the CPU, under another name
    load_model(Checkpoint.find(checkpoint), device=card, dtype=torch.float32, streamed=(1,))
    for name, weight in whole.named_parameters():
        (target,) = [device for tensor, device in moved if torch.equal(tensor, weight)]
        assert target == (CPU if name.startswith("layers.1.") else card), name


@pytest.mark.usefixtures("card")
def test_an_adapter_is_merged_into_streamed_layers_too(checkpoint: Path, tmp_path: Path) -> None:
    config = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": ["down_proj"]}
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    layer = "base_model.model.layers.{}.mlp.down_proj.lora_{}.weight"
    save_file(
        {
            layer.format(number, factor): torch.randn(shape)
            for number in range(3)
            for factor, shape in (("A", (2, 128)), ("B", (64, 2)))
        },
        tmp_path / "adapter_model.safetensors",
    )
    texts = pack([(1, *range(20, 60), 2), (1, 7, 2)])
    found = []
    for streamed, adapted in (((), False), ((), True), ((0, 2), True), ((0, 1, 2), True)):
        adapter = LoraAdapter.read(tmp_path) if adapted else None
        model = load_model(
            Checkpoint.find(checkpoint),
            device=CPU,
            dtype=torch.float32,
            adapter=adapter,
            streamed=streamed,
        )
        found.append(forward(model, texts))
    plain, merged, *others = found
    assert not torch.allclose(plain, merged)
    assert all(torch.equal(other, merged) for other in others)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.usefixtures("card")
def test_an_embedder_has_the_same_name_and_the_same_bits(
    calm_checkpoint: Path,
    dtype: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    whole = load(calm_checkpoint, dtype=dtype, max_length=300)
    asked: list[Any] = []

    def chosen(*arguments: Any) -> Sequence[int]:
        asked.append(arguments)
        return [0, 2]

    monkeypatch.setattr("e5.embedder.choose_streamed_layers", chosen)
    with caplog.at_level(logging.INFO):  # and the self-check passes
        embedder = load(calm_checkpoint, dtype=dtype, max_length=300, card_gb=7.5)
    config = embedder._engine.model.config
    kind = getattr(torch, dtype)
    needs = MemoryNeeds.of(config, kind, max_length=300, batch_tokens=MAX_CUDA_BATCH_TOKENS)
    assert asked == [(needs, CPU, 7.5)]
    assert isinstance(embedder._engine.model.layers, StreamedLayers)
    assert embedder.name == whole.name
    assert (embedder.encode_query(TEXTS) == whole.encode_query(TEXTS)).all()
    assert (embedder.encode_document(TEXTS) == whole.encode_document(TEXTS)).all()
    (line,) = [line for line in caplog.messages if "are copied to it" in line]
    assert line.startswith(
        "1 of 3 layers stay on cpu, the others are copied to it for each forward"
    )
    assert "a lone query takes 0." in line
    assert "2048 tokens" in line


def test_a_limit_for_a_card_is_refused_on_a_cpu(checkpoint: Path) -> None:
    with pytest.raises(SettingsError, match=r"^E5_CARD_GB: received 8, and the model runs on"):
        load(checkpoint, card_gb=8)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("c++") is None, reason="torch.compile needs a C++ compiler")
@pytest.mark.filterwarnings("ignore")  # the compiler's own
@pytest.mark.usefixtures("card")
def test_compiled_programs_give_the_same_bits_and_are_those_of_all_layers() -> None:
    torch._dynamo.reset()
    counted = torch._dynamo.utils.counters
    counted.clear()
    whole = small_model(torch.bfloat16)
    expected = {len(some): forward(whole, pack(some), compiled=True) for some in (IDS, IDS[:1])}
    programs = counted["stats"]["unique_graphs"]
    for streamed in ((0, 2, 4), (1,), range(NUM_LAYERS)):
        model = small_model(torch.bfloat16)
        stream(model, streamed)
        for some in (IDS, IDS[:1]):
            assert torch.equal(forward(model, pack(some), compiled=True), expected[len(some)])
    assert counted["stats"]["unique_graphs"] == programs
    assert sum(counted["recompiles"].values()) == 0
