"""As many layers stay on a card as it has room for, and too little memory is one sentence."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.cuda._utils import _get_device_index as numbered

from e5.errors import SettingsError
from e5.layers import BUFFERS
from e5.mistral import Config
from e5.placement import CUDA_BYTES, MemoryNeeds, choose_streamed_layers, spread

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
FP16 = torch.float16
SEVEN_BILLION = MemoryNeeds.of(Config(), FP16, max_length=4096, batch_tokens=4096)
OF_CUDA = 0.65  # GiB that CUDA takes of a card


class TestNeeds:
    """What the 7B model needs of a card, against what was measured or is known of cards."""

    def test_the_weights_are_counted_exactly(self) -> None:
        rest = 4096 * 32_000 * 2 + 4096 * 4
        assert SEVEN_BILLION.layer == 436_240_384  # 436 MB
        weights = 32 * SEVEN_BILLION.layer + rest
        norms = 65 * 4096  # in float32; the checkpoint has 7,110,660,096 parameters
        assert weights == 2 * 7_110_660_096 + 2 * norms
        in_float32 = MemoryNeeds.of(Config(), torch.float32, max_length=4096, batch_tokens=4096)
        assert (
            in_float32.layer == 2 * SEVEN_BILLION.layer - 2 * 4096 * 4
        )  # norms are float32 in both

    def test_a_forward_gets_more_than_was_measured(self) -> None:
        """It took 109.5 KiB a token on an H100."""
        weights = 32 * SEVEN_BILLION.layer + 4096 * 32_000 * 2 + 4096 * 4
        assert SEVEN_BILLION.whole - weights > 4096 * 109.5 * 2**10

    @pytest.mark.parametrize(
        ("card", "usable", "stay"),
        [
            ("RTX 4060, 8 GB", 7.7, 13),
            ("RTX 3060 or 4070, 12 GB", 11.5, 22),
            ("RTX 4080, A4000, 4060 Ti, 2000 Ada, 16 GB", 15.6, 32),
            ("one of these beside a desktop of 1 GiB", 14.6, 32),
            ("one of these with less than 0.43 GiB left", 14.3, 29),
            ("T4, 16 GB of which ECC takes some", 14.6, 32),
            ("RTX 3090, 4090, 24 GB", 23.5, 32),
            ("A40, L40S, 48 GB", 44.4, 32),
            ("A100, H100, 80 GB", 79.1, 32),
            ("the least that works", 2.32, 0),
            ("RTX 3050 for laptops, 4 GB", 3.8, 3),
        ],
    )
    def test_cards_keep_these_layers(self, card: str, usable: float, stay: int) -> None:
        assert SEVEN_BILLION.layers_that_stay((usable - OF_CUDA) * 2**30) == stay, card

    @given(free=st.floats(0, 100e9), tokens=st.sampled_from([100, 512, 4096, 16_000]))
    def test_what_stays_has_room_and_one_more_layer_has_not(self, free: float, tokens: int) -> None:
        needs = MemoryNeeds.of(Config(), FP16, max_length=tokens, batch_tokens=tokens)
        stay = needs.layers_that_stay(free)
        if stay == 32:
            assert needs.whole <= free
            return
        # The buffers of streamed layers take the room of two, so that three at least are streamed.
        assert stay <= 32 - BUFFERS - 1
        if free >= needs.least:
            assert needs.least + stay * needs.layer <= free
            one_more = needs.least + (stay + 1) * needs.layer
            assert free < (needs.whole if stay == 29 else one_more)
        else:
            assert stay < 0

    @pytest.mark.parametrize("num_layers", [1, 2, 3])
    def test_a_model_of_few_layers_streams_all_or_none(self, num_layers: int) -> None:
        config = Config(num_hidden_layers=num_layers)
        needs = MemoryNeeds.of(config, FP16, max_length=100, batch_tokens=100)
        assert needs.layers_that_stay(needs.whole) == num_layers
        assert needs.layers_that_stay(needs.whole - 1) == (0 if needs.least < needs.whole else -1)
        assert needs.layers_that_stay(needs.least - 1) == (num_layers if num_layers == 1 else -1)

    def test_short_texts_and_small_forwards_leave_room_for_layers(self) -> None:
        short = MemoryNeeds.of(Config(), FP16, max_length=512, batch_tokens=512)
        assert short.whole < SEVEN_BILLION.whole
        assert short.least < SEVEN_BILLION.least
        long = MemoryNeeds.of(Config(), FP16, max_length=4096, batch_tokens=512)
        assert long.least == SEVEN_BILLION.least  # the longest text is a forward too


@given(num_layers=st.integers(1, 100), data=st.data())
def test_streamed_layers_are_spread_evenly(num_layers: int, data: st.DataObject) -> None:
    count = data.draw(st.integers(0, num_layers))
    numbers = spread(count, num_layers)
    assert len(set(numbers)) == count
    assert all(0 <= number < num_layers for number in numbers)
    if count:
        around = [*numbers, numbers[0] + num_layers]  # forward after forward
        gaps = {after - before for before, after in zip(numbers, around[1:], strict=True)}
        assert gaps <= {num_layers // count, math.ceil(num_layers / count)}


@pytest.mark.slow
class TestChoice:
    """What is free counts, within the limit that is set. The test machine has no card."""

    @pytest.fixture(autouse=True)
    def fractions(self, monkeypatch: pytest.MonkeyPatch) -> list[float]:
        """A card of 12 GiB with 10.85 GiB free, and 200 GB of host memory; what limits were set."""
        set_fractions: list[float] = []
        memory = int(10.85 * 2**30) + CUDA_BYTES, 12 * 2**30
        monkeypatch.setattr("torch.cuda.mem_get_info", lambda _: memory)
        monkeypatch.setattr("torch.cuda.memory_reserved", lambda _: 0)

        def get_fraction(device: torch.device) -> float:
            assert numbered(device) == 0
            return 1.0

        def set_fraction(fraction: float, device: torch.device) -> None:
            assert numbered(device) == 0
            set_fractions.append(fraction)

        monkeypatch.setattr("torch.cuda.get_per_process_memory_fraction", get_fraction)
        monkeypatch.setattr("torch.cuda.set_per_process_memory_fraction", set_fraction)
        monkeypatch.setattr("e5.placement.available_host_bytes", lambda: 200e9)
        return set_fractions

    def test_by_default_it_is_what_is_free(self, fractions: list[float]) -> None:
        assert choose_streamed_layers(SEVEN_BILLION, CUDA, None) == spread(10, 32)
        assert fractions == []

    @pytest.mark.parametrize(
        ("card_gb", "streamed"), [(2, 32), (5, 25), (8.5, 17), (11.6, 10), (12.8, 10), (1e300, 10)]
    )
    def test_a_limit_is_kept_and_gives_no_more_than_is_free(
        self, fractions: list[float], card_gb: float, streamed: int
    ) -> None:
        assert len(choose_streamed_layers(SEVEN_BILLION, CUDA, card_gb)) == streamed
        assert fractions == [pytest.approx(min(1, card_gb * 1e9 / (12 * 2**30)))]

    def test_what_another_model_has_taken_is_not_given_again(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("torch.cuda.memory_reserved", lambda _: int(3e9))
        assert len(choose_streamed_layers(SEVEN_BILLION, CUDA, 8)) == 32 - 7
        assert SEVEN_BILLION.layers_that_stay(5e9) == 7

    def test_a_limit_that_torch_was_given_counts_too(
        self, fractions: list[float], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(
            "torch.cuda.get_per_process_memory_fraction", lambda _: 8e9 / (12 * 2**30)
        )
        assert len(choose_streamed_layers(SEVEN_BILLION, CUDA, None)) == 32 - 14
        assert len(choose_streamed_layers(SEVEN_BILLION, CUDA, 5)) == 25
        assert fractions == [5e9 / (12 * 2**30)]

    def test_a_model_that_fits_is_not_streamed(self) -> None:
        small = MemoryNeeds.of(Config(hidden_size=1024), FP16, max_length=4096, batch_tokens=4096)
        assert choose_streamed_layers(small, CUDA, None) == []

    @pytest.mark.parametrize(("card_gb", "has"), [(1.5, 1.5), (0.001, 0.0)])
    def test_a_limit_that_is_too_low_is_refused(
        self, card_gb: float, has: float, fractions: list[float]
    ) -> None:
        with pytest.raises(SettingsError) as error:
            choose_streamed_layers(SEVEN_BILLION, CUDA, card_gb)
        assert str(error.value) == (
            f"E5_CARD_GB: received {card_gb:g}, and of the 1.8 GB of a card that are needed {has} "
            "are left; free or allow more, or lower E5_MAX_BATCH_TOKENS and E5_MAX_LENGTH."
        )
        assert fractions == []

    def test_so_is_a_card_that_is_full(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("torch.cuda.mem_get_info", lambda _: (2**30, 12 * 2**30))
        with pytest.raises(SettingsError, match=r"no value, and of the 1\.8 GB .* 0\.8 are left"):
            choose_streamed_layers(SEVEN_BILLION, CUDA, None)

    def test_too_little_host_memory_is_refused(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("e5.placement.available_host_bytes", lambda: 4.5e9)
        with pytest.raises(SettingsError) as error:
            choose_streamed_layers(SEVEN_BILLION, CUDA, None)
        assert str(error.value) == (
            "E5_CARD_GB: received no value, and of the 4.8 GB of host memory that 10 layers "
            "without room on the card need 4.5 are left; "
            "allow more of the card, or give the host or the container more memory."
        )
        small = MemoryNeeds.of(Config(hidden_size=1024), FP16, max_length=4096, batch_tokens=4096)
        assert choose_streamed_layers(small, CUDA, None) == []  # which needs none of the host

    def test_nothing_is_streamed_to_a_cpu_and_a_limit_is_refused(self) -> None:
        assert choose_streamed_layers(SEVEN_BILLION, CPU, None) == []
        with pytest.raises(SettingsError) as error:
            choose_streamed_layers(SEVEN_BILLION, CPU, 8)
        assert str(error.value) == (
            "E5_CARD_GB: received 8, and the model runs on the CPU; unset E5_CARD_GB."
        )
