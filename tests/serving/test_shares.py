"""A machine's cards and cores are shared out as asked, or a sentence says why they cannot be."""

import logging
from pathlib import Path

import pytest

from e5.errors import E5Error, WeightsError
from e5.serving.shares import divide_machine, must_load_one_by_one
from e5.settings import Settings


def card(number: str, threads: int) -> dict[str, str]:
    return {"E5_THREADS": str(threads), "CUDA_VISIBLE_DEVICES": number, "E5_DEVICE": "cuda"}


def core(threads: int) -> dict[str, str]:
    return {"E5_THREADS": str(threads)}


@pytest.mark.parametrize(
    ("asked", "settings", "cards", "cores", "engines", "num_fronts"),
    [
        (("all", None), {}, "3 5", 16, [card("3", 8), card("5", 8)], 4),
        (("1", None), {}, "3 5", 16, [card("3", 16)], 2),
        ((None, "3"), {}, "3 5", 16, [card("3", 8), card("5", 8)], 3),
        (("all", None), {}, "0 1 2 3", 6, [card(str(i), 1) for i in range(4)], 6),
        (("2", None), {}, "", 8, [core(4)] * 2, 4),
        (("2", "1"), {}, "", 2, [core(1)] * 2, 1),
        (("2", None), {}, "", 2, [core(1)] * 2, 2),
        (("4", None), {}, "", 2, [core(1)] * 4, 2),
        ((None, "2"), {}, "", 8, [core(8)], 2),
        (("2", None), {"device": "cpu"}, "0 1", 8, [core(4)] * 2, 4),
        (("2", None), {"threads": 3}, "", 8, [core(3)] * 2, 4),
        (("2", None), {"device": "cuda"}, "0 1", 4, [card("0", 2), card("1", 2)], 4),
        (("1", "256"), {}, "", 1, [core(1)], 256),
    ],
)
def test_each_engine_has_a_card_or_its_share_of_the_cores(
    asked: tuple[str | None, str | None],
    settings: dict[str, object],
    cards: str,
    cores: int,
    engines: list[dict[str, str]],
    num_fronts: int,
) -> None:
    shares = divide_machine(
        *asked,
        Settings(**settings),  # type: ignore[arg-type]
        cards=cards.split,
        cores=cores,
        environ={},
    )
    assert shares.engines == engines
    assert shares.num_fronts == num_fronts


@pytest.mark.parametrize(("limit", "threads"), [("1", "1"), ("3,2", "3"), ("9", "4"), ("x", "4")])
def test_a_limit_of_threads_that_the_environment_sets_is_kept(limit: str, threads: str) -> None:
    shares = divide_machine(
        "2", None, Settings(), cards=list, cores=8, environ={"OMP_NUM_THREADS": limit}
    )
    assert shares.engines == [{"E5_THREADS": threads}] * 2


@pytest.mark.parametrize(
    ("asked", "settings", "cards", "sentence"),
    [
        (("3", None), {}, "0 1", "engines: received 3, which are more engines than there are cards "
         "(2); use at most 2, or all."),
        (("all", None), {}, "", "engines: received all, and no card can be used here; use a number "
         "such as 2, with E5_DEVICE=cpu, for engines on the cores."),
        (("all", None), {"device": "cpu"}, "0 1", "engines: received all, and no card can be used"),
        (("2", None), {"device": "cuda"}, "", "engines: received 2, and no card can be used here"),
        (("2", None), {"device": "cuda:1"}, "0 1", "E5_DEVICE: received 'cuda:1', which one engine "
         "alone can use; use cuda, and choose cards by CUDA_VISIBLE_DEVICES."),
        *(((text, None), {}, "0", f"engines: received \"{text}\"; use all, or a whole number from "
           "1 to 256.") for text in ("0", "-1", "two", "1.5", "257", "", "ALL", "9" * 20)),
        *((("1", text), {}, "0", f"fronts: received \"{text}\"; use a whole number from 1 to 256.")
          for text in ("0", "all", "")),
    ],
)  # fmt: skip
def test_a_division_that_is_not_possible_is_refused_in_one_sentence(
    asked: tuple[str | None, str | None], settings: dict[str, object], cards: str, sentence: str
) -> None:
    with pytest.raises(E5Error) as refusal:
        divide_machine(*asked, Settings(**settings), cards=cards.split, cores=8)  # type: ignore[arg-type]
    assert str(refusal.value).startswith(sentence)


@pytest.mark.parametrize(
    ("num_engines", "free", "one_by_one"),
    [(2, 400, False), (2, 399, True), (1, 10, False), (3, 599, True), (2, float("inf"), False)],
)
def test_engines_load_one_by_one_where_memory_asks_for_it_and_the_log_says_so(
    num_engines: int,
    free: float,
    one_by_one: bool,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    files = {"model.safetensors": 150, "config.json": 20, "tokenizer.json": 30, "other": 999}
    for name, size in files.items():
        (tmp_path / name).write_bytes(bytes(size))
    with caplog.at_level(logging.WARNING):
        assert must_load_one_by_one(tmp_path, num_engines, free=lambda: free) == one_by_one
    assert ("the engines load one after the other" in caplog.text) == one_by_one


def test_a_folder_without_weights_is_refused_before_anything_is_started(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="there is no such weights folder"):
        must_load_one_by_one(tmp_path / "nowhere", 1)
