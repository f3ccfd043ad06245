"""The unmodified model gives the packed engine's vectors, wherever its weights are."""

import functools
import json
import shutil
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from checkpoints import TEXTS, EditCheckpoint, load, save_checkpoint, true_ids
from fake_cards import FakeCards
from gateway_server import serve_gateway
from hypothesis import given
from hypothesis import strategies as st
from reference import assert_same

from e5.checkpoint import CONFIG, Checkpoint
from e5.device import choose_device
from e5.embedder import Embedder
from e5.errors import EngineError, NonFiniteError, OutOfMemoryError, SettingsError, WeightsError
from e5.mistral import Config
from e5.reference import ReferenceEngine, _forward_bytes, card_memory, load_reference
from e5.settings import Settings
from e5.tokenizer import TokenIds
from e5.vectors import Vectors, cosine_scores

pytestmark = pytest.mark.slow  # imports transformers and accelerate

MINI = Path(__file__).parent.parent / "weights/e5-mini"
WORDS = ["snow", "rain", "Snow is frozen water.", "🙂", "</s>", " ", "\n", "ein Gipfel", "x" * 50]
STRINGS = st.lists(st.sampled_from(WORDS), min_size=1, max_size=20).map(" ".join)


def least_cosine(these: Vectors, others: Vectors) -> float:
    cosines: Vectors = np.diag(cosine_scores(np.atleast_2d(these), np.atleast_2d(others)))
    return float(cosines.min()) / 100


load_unmodified: Callable[..., Embedder] = functools.partial(load, engine="transformers")


@pytest.fixture(scope="module")
def mini() -> Embedder:
    return load(MINI)


@pytest.fixture(scope="module")
def unmodified_mini() -> Embedder:
    return load_unmodified(MINI)


@pytest.fixture(scope="module")
def unmodified(checkpoint: Path) -> Embedder:
    return load_unmodified(checkpoint)


def engine_of(embedder: Embedder) -> ReferenceEngine:
    assert isinstance(embedder._engine, ReferenceEngine)
    return embedder._engine


class TestFidelity:
    """Both engines give the same vectors, in any mixture of texts."""

    @given(
        queries=st.lists(STRINGS, max_size=4),
        documents=st.lists(STRINGS, max_size=4),
        task=st.sampled_from(["web_search_query", "sts_query", ""]),
    )
    def test_of_the_built_in_checkpoint(
        self,
        mini: Embedder,
        unmodified_mini: Embedder,
        queries: list[str],
        documents: list[str],
        task: str,
    ) -> None:
        texts = mini.tokenize(queries, documents, task=task)
        sequences = [text.token_ids for text in texts]
        ours, theirs = (each.compute(sequences) for each in (mini, unmodified_mini))
        assert not ours.faults
        assert not theirs.faults
        if sequences:
            assert least_cosine(theirs.vectors, ours.vectors) >= 0.999999

    def test_of_weights_in_which_every_mistake_shows(
        self, embedder: Embedder, unmodified: Embedder
    ) -> None:
        assert_same(unmodified.encode_query(TEXTS), embedder.encode_query(TEXTS))
        assert_same(unmodified.encode_document(TEXTS), embedder.encode_document(TEXTS))

    @pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
    def test_in_16_bits(self, calm_checkpoint: Path, dtype: str) -> None:
        unmodified = load_unmodified(calm_checkpoint, dtype=dtype)
        truth = load(calm_checkpoint).encode_document(TEXTS)
        assert least_cosine(unmodified.encode_document(TEXTS), truth) >= 0.999

    def test_with_masks_as_old_cards_need_them(
        self, unmodified: Embedder, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        expected = unmodified.encode_document(TEXTS)
        monkeypatch.setattr(unmodified._engine, "_whole_masks", True)
        assert_same(unmodified.encode_document(TEXTS), expected)

    @pytest.mark.slow
    def test_through_the_gateway(self, mini: Embedder) -> None:
        with serve_gateway(env={"E5_ENGINE": "transformers"}) as gateway:
            body = {"model": "e5-mini", "input": TEXTS}
            response = gateway.client.post("/v1/embeddings", json=body)
        vectors = np.array([item["embedding"] for item in response.json()["data"]], np.float32)
        assert least_cosine(vectors, mini.encode_document(TEXTS)) >= 0.999999


class TestBatches:
    """Batches are of like lengths, and have the token budget with their padding."""

    @given(
        lengths=st.lists(st.integers(2, 60), min_size=1, max_size=40),
        budget=st.integers(1, 200),
    )
    def test_each_text_is_in_one_and_none_is_too_large(
        self, unmodified: Embedder, lengths: list[int], budget: int
    ) -> None:
        engine = engine_of(unmodified)
        texts = {(1, *range(3, length + 1), position) for position, length in enumerate(lengths)}
        usual, engine.max_batch_tokens = engine.max_batch_tokens, budget
        try:
            batches = list(engine._divide(texts, True))
            alone = list(engine._divide(texts, False))
        finally:
            engine.max_batch_tokens = usual
        for parts in (batches, alone):
            assert sorted(text for batch in parts for text in batch) == sorted(texts)
        assert all(len(b) == 1 or len(b) * max(map(len, b)) <= budget for b in batches)
        assert all(len(batch) == 1 for batch in alone)
        # No two neighbours would fit together.
        for one, next_one in pairwise(batches):
            assert (len(one) + 1) * len(next_one[0]) > budget

    @pytest.mark.parametrize("max_batch_tokens", [1, 40])
    def test_a_tiny_budget_gives_the_same_vectors(
        self, checkpoint: Path, unmodified: Embedder, max_batch_tokens: int
    ) -> None:
        tiny = load_unmodified(checkpoint, max_batch_tokens=max_batch_tokens)
        assert tiny.max_batch_tokens == max_batch_tokens
        assert_same(tiny.encode_query(TEXTS), unmodified.encode_query(TEXTS))

    def test_no_texts_are_no_vectors(self, unmodified: Embedder) -> None:
        assert unmodified.encode_document([]).shape == (0, 64)

    def test_what_does_not_fit_in_memory_goes_on_in_halves(
        self, unmodified: Embedder, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        expected, engine = unmodified.encode_document(TEXTS), engine_of(unmodified)
        module = engine._module

        def small(input_ids: torch.Tensor, **rest: Any) -> Any:
            if input_ids.numel() > 45:  # the longest of TEXTS has 43 tokens
                raise torch.OutOfMemoryError("CUDA out of memory.")
            return module(input_ids=input_ids, **rest)

        monkeypatch.setattr(engine, "_module", small)
        assert_same(unmodified.encode_document(TEXTS), expected)
        with pytest.raises(OutOfMemoryError, match=r"^documents\[1\]: "):
            unmodified.encode_document(["snow", "snow " * 60])

    def test_a_text_that_gives_nan_leaves_the_others_alone(self, checkpoint: Path) -> None:
        poisoned = load_unmodified(checkpoint)
        texts: list[TokenIds] = [(1, 9, 9, 2), (1, 500, 2), (1, 7, 8, 9, 10, 2), (1, 500, 9, 9, 2)]
        expected = poisoned.compute(texts).vectors
        weight = engine_of(poisoned).model.embed_tokens.weight
        weight.data[500] = torch.nan
        computed = poisoned.compute(texts)
        assert {i: type(fault) for i, fault in computed.faults.items()} == {
            1: NonFiniteError,
            3: NonFiniteError,
        }
        assert_same(computed.vectors[[0, 2]], expected[[0, 2]])

    def test_padding_is_of_a_text_s_own_tokens(self, checkpoint: Path) -> None:
        engine = engine_of(load_unmodified(checkpoint))
        texts: list[TokenIds] = [(1, 9, 2), (1, 7, 8, 9, 10, 2)]
        expected = engine.compute(texts)
        others = torch.ones(32000, dtype=torch.bool)
        others[[1, 2, 7, 8, 9, 10]] = False
        engine.model.embed_tokens.weight.data[others] = torch.nan
        assert_same(engine.compute(texts), expected)

    def test_an_engine_that_mixes_texts_is_refused_at_loading(
        self, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def mixing(self: ReferenceEngine, texts: Any, _: bool) -> torch.Tensor:
            return right(self, texts).roll(1, dims=0)

        right = ReferenceEngine._vectors
        monkeypatch.setattr(ReferenceEngine, "_vectors", mixing)
        with pytest.raises(EngineError, match="a text's vector changes with the other texts"):
            load_unmodified(checkpoint)


class TestFingerprint:
    """The name tells the engines apart, and leaves that of our own as it was."""

    def test_it_changes_with_the_engine(self, mini: Embedder, unmodified_mini: Embedder) -> None:
        assert mini.name == "e5-mini@9bb9c967f643"
        assert unmodified_mini.name != mini.name
        assert unmodified_mini.name.startswith("e5-mini@")


class TestOnlyWhatWasVerified:
    """What else lies in the folder changes nothing."""

    def test_other_weights_and_settings_of_transformers(
        self, checkpoint: Path, tmp_path: Path, unmodified: Embedder
    ) -> None:
        folder = Path(shutil.copytree(checkpoint, tmp_path / "full"))
        (folder / "other.safetensors").write_bytes(b"damaged")
        (folder / "pytorch_model.bin").write_bytes(b"never unpickled")
        config = json.loads((folder / CONFIG).read_text())
        config |= {"transformers_weights": "other.safetensors", "return_dict": False}
        config |= {"attn_implementation": "kernels-community/flash-attn", "use_cache": True}
        (folder / CONFIG).write_text(json.dumps(config))
        found = load_unmodified(folder)
        assert_same(found.encode_document(TEXTS), unmodified.encode_document(TEXTS))

    @pytest.mark.parametrize(
        ("change", "named"),
        [
            (lambda t: t.pop("norm.weight"), "norm.weight is in none of the weight files"),
            (lambda t: t.update(more=t["norm.weight"].clone()), "more is not part of"),
            (lambda t: t.update({"norm.weight": torch.ones(7)}), "norm.weight has shape [7]"),
            (
                lambda t: t.update({"norm.weight": torch.ones(64).char()}),
                "norm.weight is torch.int8",
            ),
        ],
    )
    def test_damage_is_refused_as_the_packed_engine_does(
        self,
        checkpoint: Path,
        edit_checkpoint: EditCheckpoint,
        change: Callable[[dict[str, torch.Tensor]], None],
        named: str,
    ) -> None:
        folder = edit_checkpoint(checkpoint, change)
        said = []
        for run in (load, load_unmodified):
            with pytest.raises(WeightsError) as refusal:
                run(folder)
            said.append(str(refusal.value))
        assert named in said[0]
        assert said[0] == said[1]

    def test_names_with_a_prefix_are_read(
        self, checkpoint: Path, edit_checkpoint: EditCheckpoint, unmodified: Embedder
    ) -> None:
        def rename(tensors: dict[str, torch.Tensor]) -> None:
            for name in list(tensors):
                tensors[f"0.auto_model.{name}"] = tensors.pop(name)

        found = load_unmodified(edit_checkpoint(checkpoint, rename))
        assert_same(found.encode_document(TEXTS), unmodified.encode_document(TEXTS))


def settings_of(**options: Any) -> Settings:
    return Settings(engine="transformers", **options)


def placed(folder: Path, monkeypatch: pytest.MonkeyPatch, host_bytes: int) -> ReferenceEngine:
    """An engine with a host of so much memory, and a card that computes on the CPU."""
    from transformers import MistralModel

    right = MistralModel.from_pretrained

    def placing(*arguments: Any, **options: Any) -> Any:
        options |= {"device_map": "auto", "max_memory": {"cpu": host_bytes}}
        return right(*arguments, **options)

    monkeypatch.setattr(MistralModel, "from_pretrained", placing)
    return load_reference(
        Checkpoint.find(folder),
        Config.read(folder / CONFIG),
        settings_of(),
        device=torch.device("cpu"),
        dtype=torch.float32,
    )


class TestPlaces:
    """The model goes on cards, into host memory and on disk; the vectors are the same."""

    IDS = tuple(true_ids(text) for text in TEXTS)

    @pytest.mark.parametrize("host_bytes", [8_600_000, 0])
    def test_part_of_it_or_all_on_disk(
        self,
        checkpoint: Path,
        unmodified: Embedder,
        monkeypatch: pytest.MonkeyPatch,
        host_bytes: int,
    ) -> None:
        engine = placed(checkpoint, monkeypatch, host_bytes)
        model: Any = engine.model
        devices = set(model.hf_device_map.values())
        assert devices == ({"cpu", "disk"} if host_bytes else {"disk"})
        assert_same(engine.compute(self.IDS), unmodified.encode_document(TEXTS))

    @pytest.mark.parametrize(
        ("sizes", "options", "layers"),
        [
            ([8], {}, {0: 14, "cpu": 18}),
            ([12], {}, {0: 24, "cpu": 8}),
            ([16], {}, {0: 32}),
            ([12, 12], {}, {0: 15, 1: 17}),
            ([80], {"card_gb": 10}, {0: 19, "cpu": 13}),
            ([8], {"max_length": 512, "max_batch_tokens": 512}, {0: 16, "cpu": 16}),
        ],
    )
    def test_layers_of_the_7b_model_on_each_card(
        self,
        monkeypatch: pytest.MonkeyPatch,
        sizes: list[float],
        options: dict[str, Any],
        layers: dict[int | str, int],
    ) -> None:
        assert devices_of_7b(monkeypatch, sizes, options) == layers


class TestRefusals:
    """What cannot be done is refused in one sentence, before the weights are read."""

    def test_card_gb_needs_a_card(self, checkpoint: Path) -> None:
        with pytest.raises(SettingsError, match=r"^E5_CARD_GB: received 8, and the model runs on"):
            Embedder.load(settings_of(weights=checkpoint, device="cpu", card_gb=8))

    def test_a_card_without_room_for_a_layer(
        self, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        FakeCards(monkeypatch, [24])
        with pytest.raises(SettingsError, match=r"^E5_CARD_GB: received 0\.005, and no card has"):
            Embedder.load(settings_of(weights=checkpoint, card_gb=0.005))

    def test_a_compiled_model_on_several_devices(
        self, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        engine = placed(checkpoint, monkeypatch, 8_600_000)
        with pytest.raises(SettingsError, match=r"^E5_COMPILE: received 1 with a model that is"):
            ReferenceEngine(engine.model, compiled=True)

    def test_a_card_that_is_too_old_for_our_own_engine_is_taken(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        FakeCards(monkeypatch, [16], capability=(6, 1))
        with pytest.raises(SettingsError, match=r"6.1 .*; set E5_ENGINE=transformers, or use"):
            choose_device(None)
        assert choose_device(None, min_capability=(0, 0)).type == "cuda"
        model = SimpleNamespace(
            config=SimpleNamespace(hidden_size=64), device=torch.device("cuda", 0)
        )
        assert ReferenceEngine(model, max_batch_tokens=99)._whole_masks


@pytest.mark.gpu
class TestCuda:
    """On a card, in float16."""

    def test_both_engines_agree(self, calm_checkpoint: Path) -> None:
        ours, theirs = (
            Embedder.load(Settings(weights=calm_checkpoint, device="cuda", engine=engine))
            for engine in ("packed", "transformers")
        )
        for embed in ("encode_query", "encode_document"):
            vectors = [getattr(each, embed)(TEXTS) for each in (theirs, ours)]
            assert least_cosine(*vectors) >= 0.9995

    def test_layers_in_host_memory_give_the_same_vectors(self, tmp_path: Path) -> None:
        folder = save_checkpoint(tmp_path / "wide", hidden_size=1024, num_layers=16)
        settings = {"weights": folder, "device": "cuda", "dtype": "float32", "max_length": 512}
        settings |= {"max_batch_tokens": 512}
        whole = Embedder.load(settings_of(**settings))
        parted = Embedder.load(settings_of(**settings, card_gb=0.5))
        torch.cuda.set_per_process_memory_fraction(1.0)
        assert "cpu" in engine_of(parted).model.hf_device_map.values()  # type: ignore[operator]
        assert_same(parted.encode_query(TEXTS), whole.encode_query(TEXTS))


@pytest.mark.long  # the compiler takes half a minute
@pytest.mark.filterwarnings("ignore")  # its own
def test_a_compiled_forward_gives_the_same_vectors(tmp_path: Path) -> None:
    folder = save_checkpoint(tmp_path / "shallow", num_layers=1)
    compiled, plain = load_unmodified(folder, compile=True), load_unmodified(folder)
    for texts in (TEXTS, TEXTS[:1]):
        assert_same(compiled.encode_query(texts), plain.encode_query(texts))


@functools.cache
def model_of_7b() -> Any:
    """The model of transformers with the 7B model's shapes in float16, without values."""
    from transformers import MistralConfig, MistralModel

    with torch.device("meta"):
        return MistralModel(MistralConfig()).half()


def devices_of_7b(
    monkeypatch: pytest.MonkeyPatch, sizes: list[float], options: dict[str, Any]
) -> dict[int | str, int]:
    """The number of layers on each device, on cards of these gigabytes that hold nothing yet."""
    from transformers.integrations.accelerate import get_balanced_memory, infer_auto_device_map

    FakeCards(monkeypatch, sizes)
    settings = settings_of(**options)
    reserved = _forward_bytes(Config(), settings, torch.float16)
    memory = card_memory(torch.device("cuda"), settings.card_gb, reserved)
    memory["cpu"] = 10**12
    model, whole = model_of_7b(), {"MistralDecoderLayer"}
    memory = get_balanced_memory(model, memory, whole)
    devices = infer_auto_device_map(model, memory, whole)
    found = [device for name, device in devices.items() if name.startswith("layers.")]
    return {device: found.count(device) for device in found} or {devices[""]: 32}
