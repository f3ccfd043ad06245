"""Every `E5_*` variable is read, or refused with a sentence that says what to do."""

import dataclasses
from typing import Any

import pytest

from e5.errors import E5Error, SettingsError
from e5.settings import Settings

NO_SUCH_SETTING = "a setting that does not exist"


def test_unset_variables_keep_their_defaults() -> None:
    assert Settings.from_env({}) == Settings()
    assert Settings.from_env({"PATH": "/bin", "E5": "x", "e5_device": "x"}) == Settings()


def test_every_setting_is_read_with_its_type() -> None:
    environ = {
        "E5_WEIGHTS": "weights/e5-mini",
        "E5_ADAPTER": "adapters/law",
        "E5_DEVICE": "cuda:1",
        "E5_ENGINE": "transformers",
        "E5_CARD_GB": "7.5",
        "E5_QUANTIZE": "nf4",
        "E5_DTYPE": "bfloat16",
        "E5_THREADS": "3",
        "E5_COMPILE": "1",
        "E5_MAX_LENGTH": "512",
        "E5_MAX_BATCH_TOKENS": "2048",
        "E5_MAX_QUEUE_TOKENS": "9",
        "E5_DRAIN_SECONDS": "2.5",
        "E5_CACHE_MB": "64",
    }
    assert set(environ) == {f"E5_{field.name.upper()}" for field in dataclasses.fields(Settings)}
    assert Settings.from_env(environ) == Settings(
        weights="weights/e5-mini",
        adapter="adapters/law",
        device="cuda:1",
        engine="transformers",
        card_gb=7.5,
        quantize="nf4",
        dtype="bfloat16",
        threads=3,
        compile=True,
        max_length=512,
        max_batch_tokens=2048,
        max_queue_tokens=9,
        drain_seconds=2.5,
        cache_mb=64,
    )
    assert Settings(cache_mb=64).cache_bytes == 64_000_000


def test_the_process_environment_is_read_when_asked_and_not_before(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("E5_MAX_LENGTH", "77")
    assert Settings.from_env().max_length == 77
    assert Settings().max_length == 4096


@pytest.mark.parametrize("name", [field.name for field in dataclasses.fields(Settings)])
@pytest.mark.parametrize("empty", ["", "  "])
def test_an_empty_variable_means_the_default(name: str, empty: str) -> None:
    assert Settings.from_env({f"E5_{name.upper()}": empty}) == Settings()


def test_spaces_around_a_value_do_not_matter() -> None:
    environ = {"E5_DEVICE": " cpu ", "E5_MAX_LENGTH": " 12\n"}
    assert Settings.from_env(environ) == Settings(device="cpu", max_length=12)


@pytest.mark.parametrize("variable", ["E5_MAX_LENGHT", "E5_", "E5_WEIGHT", "E5_max_length"])
def test_a_misspelt_variable_is_refused_and_the_right_ones_are_named(variable: str) -> None:
    with pytest.raises(
        SettingsError, match=f"^{variable}: received {NO_SUCH_SETTING}; use .*E5_MAX_LENGTH"
    ):
        Settings.from_env({variable: "512"})


@pytest.mark.parametrize(
    "variable", ["E5_MAX_LENGTH", "E5_MAX_BATCH_TOKENS", "E5_MAX_QUEUE_TOKENS", "E5_CACHE_MB"]
)
@pytest.mark.parametrize("text", ["many", "1.5", "1e3", "0x10", "4k"])
def test_what_is_no_whole_number_is_refused(variable: str, text: str) -> None:
    with pytest.raises(SettingsError, match=rf"^{variable}: received '{text}'; use a whole number"):
        Settings.from_env({variable: text})


@pytest.mark.parametrize(
    ("variable", "text", "minimum"),
    [
        ("E5_MAX_LENGTH", "2", 3),  # `<s>`, one token, `</s>`
        ("E5_MAX_LENGTH", "-1", 3),
        ("E5_MAX_BATCH_TOKENS", "0", 1),
        ("E5_MAX_QUEUE_TOKENS", "0", 1),
        ("E5_CACHE_MB", "-1", 0),
    ],
)
def test_a_number_too_small_is_refused(variable: str, text: str, minimum: int) -> None:
    with pytest.raises(
        SettingsError, match=rf"^{variable}: received {text}; use a whole number from {minimum} on"
    ):
        Settings.from_env({variable: text})
    assert (Settings.from_env({variable: str(minimum)}) == Settings()) == (minimum == 0)


@pytest.mark.parametrize("text", ["8", "0.5", "1e1", " 24.0 ", "1000"])
def test_gigabytes_need_not_be_whole(text: str) -> None:
    assert Settings.from_env({"E5_CARD_GB": text}).card_gb == float(text)


@pytest.mark.parametrize("dtype", ["fp16", "float64", "Float16", "torch.float16", "auto"])
def test_an_unknown_dtype_is_refused(dtype: str) -> None:
    with pytest.raises(SettingsError, match=rf"^E5_DTYPE: received '{dtype}'; use one of float16,"):
        Settings.from_env({"E5_DTYPE": dtype})
    with pytest.raises(E5Error):
        Settings(dtype=dtype)


@pytest.mark.parametrize(
    ("variable", "text", "choices"),
    [
        ("E5_ENGINE", "vllm", "packed, transformers"),
        ("E5_ENGINE", "Packed", "packed, transformers"),
        ("E5_QUANTIZE", "int4", "int8, nf4"),
        ("E5_QUANTIZE", "0", "int8, nf4"),
    ],
)
def test_a_choice_that_does_not_exist_is_refused(variable: str, text: str, choices: str) -> None:
    with pytest.raises(
        SettingsError, match=rf"^{variable}: received '{text}'; use one of {choices}\.$"
    ):
        Settings.from_env({"E5_ENGINE": "transformers", variable: text})


@pytest.mark.parametrize(
    "text", ["0", "-8", "nan", "inf", "8 GB", "8GB", "8,5", "eight", "8192", "8e9", "1e400"]
)
def test_gigabytes_are_a_number_above_0(text: str) -> None:
    for engine in ("packed", "transformers"):
        with pytest.raises(
            SettingsError, match=r"^E5_CARD_GB: received .*; use a number of gigabytes above 0"
        ):
            Settings.from_env({"E5_ENGINE": engine, "E5_CARD_GB": text})


@pytest.mark.parametrize("text", ["0", "0.25", "15", "1e2", " 3600 "])
def test_seconds_of_draining_need_not_be_whole(text: str) -> None:
    assert Settings.from_env({"E5_DRAIN_SECONDS": text}).drain_seconds == float(text)


@pytest.mark.parametrize("text", ["-1", "3601", "nan", "inf", "15s", "1 m", "PT15S", "none"])
def test_other_seconds_of_draining_are_refused(text: str) -> None:
    sentence = r"^E5_DRAIN_SECONDS: received .*; use seconds from 0 to 3600\.$"
    with pytest.raises(SettingsError, match=sentence):
        Settings.from_env({"E5_DRAIN_SECONDS": text})


@pytest.mark.parametrize("engine", ["", "packed"])
def test_what_only_the_other_engine_does_is_refused_with_its_name(engine: str) -> None:
    with pytest.raises(
        SettingsError, match=r"^E5_QUANTIZE: .* E5_ENGINE=packed; set E5_ENGINE=transformers, or"
    ):
        Settings.from_env({"E5_QUANTIZE": "nf4", "E5_ENGINE": engine})


def test_settings_cannot_be_changed_or_given_by_position() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        Settings().max_length = 5  # type: ignore[misc]
    with pytest.raises(TypeError):
        Settings("weights/e5-mini")  # type: ignore[call-arg]


@pytest.mark.parametrize(
    "variable",
    [
        *("E5_SERVICE_HOST", "E5_MISTRAL_PORT", "E5_SERVICE_PORT_HTTP", "E5_PORT_80_TCP"),
        "E5_TORCH_INDEX",
    ],
)
def test_variables_of_kubernetes_and_of_the_installation_do_not_matter(variable: str) -> None:
    assert Settings.from_env({variable: "tcp://10.0.0.1:80"}) == Settings()


@pytest.mark.parametrize(
    "given",
    [
        {"max_length": "512"},
        {"max_length": 5.5},
        {"cache_mb": True},
        {"weights": None},
        {"engine": None},
        {"card_gb": "8"},
        {"card_gb": True},
        {"card_gb": 10**400},
        {"drain_seconds": "1"},
        {"drain_seconds": True},
        {"drain_seconds": None},
        {"quantize": 8, "engine": "transformers"},
    ],
)
def test_a_value_of_the_wrong_type_is_refused(given: dict[str, Any]) -> None:
    name = next(iter(given))
    with pytest.raises(SettingsError, match=f"^E5_{name.upper()}: received .*; use "):
        Settings(**given)


@pytest.mark.parametrize(("text", "flag"), [("0", False), ("TRUE", True), ("false", False)])
def test_a_flag_is_0_or_1(text: str, flag: bool) -> None:
    assert Settings.from_env({"E5_COMPILE": text}).compile is flag


@pytest.mark.parametrize("text", ["yes", "2", "on"])
def test_another_flag_is_refused(text: str) -> None:
    with pytest.raises(SettingsError, match=rf"^E5_COMPILE: received .{text}.; use 0 or 1"):
        Settings.from_env({"E5_COMPILE": text})


def test_a_number_is_no_flag_in_python() -> None:
    with pytest.raises(SettingsError, match=r"^E5_COMPILE: received 1; .* in Python, False or Tr"):
        Settings(compile=1)  # type: ignore[arg-type]
