"""Texts are split, numbered and put together again by plain lists; no service runs.

The truth are the lists themselves. A service is a function from inputs to an answer.
"""

import asyncio
import doctest
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from e5.client import AsyncClient
from e5.client import batch as batch_module
from e5.client.batch import (
    REQUEST_CHARACTERS,
    REQUEST_TEXTS,
    Options,
    split,
)
from e5.client.prediction import RemoteAnswer
from e5.errors import E5Error, InputError, NonFiniteError, RequestTooLargeError, ServiceError

Inputs = Mapping[str, Any]
DEFAULTS = Options(task="", symmetric=False, normalize=False, dimensions=None, truncate=True)


def echo(inputs: Inputs) -> RemoteAnswer:
    """`[number, 1, 0, 0]` for each text, or the first elements of it."""
    texts = inputs.get("queries", inputs.get("documents", []))
    numbers = [float(text) if text.isdigit() else -1.0 for text in texts]
    rows = np.array([[number, 1, 0, 0] for number in numbers], np.float32)
    return RemoteAnswer(rows[:, : inputs.get("dimensions", 4)], "toy@1")


def encode(
    answer: Callable[[Inputs], RemoteAnswer],
    texts: list[str],
    *,
    field: str = "documents",
    options: Options = DEFAULTS,
) -> Any:
    """What a client makes of the texts; it knows the service, whose first answer was good."""

    async def embed(inputs: Inputs) -> RemoteAnswer:
        return answer(inputs) if "task" in inputs else echo(inputs)

    async def use() -> Any:
        counts: list[int] = []
        async with AsyncClient("http://127.0.0.1:1") as client:
            client._remote.embed = embed  # type: ignore[method-assign]
            await client.name()
            vectors = await client._embed(field, texts, options, nullcontext(), counts.append)
        assert sum(counts) == len(texts)
        return vectors

    return asyncio.run(use())


def numbers(count: int) -> list[str]:
    return [str(number) for number in range(count)]


# Split into requests


@given(
    st.lists(
        st.integers(1, 2000) | st.integers(1, 3 * REQUEST_CHARACTERS) | st.just(1), max_size=700
    )
)
def test_texts_are_split_in_order_and_no_more_than_needed(lengths: list[int]) -> None:
    slices = list(split(lengths))
    assert [i for each in slices for i in range(each.start, each.stop)] == list(range(len(lengths)))
    for rows in slices:
        texts = lengths[rows]
        assert 1 <= len(texts) <= REQUEST_TEXTS
        assert sum(texts) <= REQUEST_CHARACTERS or len(texts) == 1
        one_more = sum(lengths[rows.start : rows.stop + 1])
        is_full = len(texts) == REQUEST_TEXTS or one_more > REQUEST_CHARACTERS
        assert is_full or rows.stop == len(lengths)


@pytest.mark.slow
@given(
    st.integers(0, 1000), st.none() | st.integers(1, 4), st.sampled_from(["queries", "documents"])
)
def test_every_row_is_its_text_s(count: int, dimensions: int | None, field: str) -> None:
    options = Options("", False, False, dimensions, True)
    vectors = encode(echo, numbers(count), field=field, options=options)
    assert vectors.dtype == np.float32
    assert vectors.shape == (count, dimensions or 4)
    assert vectors[:, 0].tolist() == list(range(count))


def test_the_options_go_with_each_request() -> None:
    asked: list[Inputs] = []

    def answer(inputs: Inputs) -> RemoteAnswer:
        asked.append(inputs)
        return echo(inputs)

    encode(answer, ["1"], options=Options("sts_query", True, True, 2, False))
    encode(answer, ["1"], field="queries")
    assert asked[0] == {
        "documents": ["1"],
        "task": "sts_query",
        "symmetric": True,
        "normalize": True,
        "dimensions": 2,
        "truncate": False,
        "encoding_format": "base64",
    }
    assert "dimensions" not in asked[1]  # which a schema would refuse as null
    assert asked[1]["queries"] == ["1"]


def test_what_is_too_much_for_the_service_is_sent_in_halves() -> None:
    refused = RequestTooLargeError(30, 25)

    def answer(inputs: Inputs) -> RemoteAnswer:
        if len(inputs["documents"]) > 100 or "7777" in inputs["documents"]:
            raise refused
        return echo(inputs)

    assert encode(answer, numbers(600))[:, 0].tolist() == list(range(600))
    with pytest.raises(RequestTooLargeError) as caught:
        encode(answer, ["1", "7777", "2"])
    assert caught.value is refused


# The caller's numbering


@pytest.mark.slow
@pytest.mark.parametrize("field", ["queries", "documents"])
@pytest.mark.parametrize("halved", [False, True])
def test_an_index_is_the_caller_s_own(field: str, halved: bool) -> None:
    def refusing(kind: Callable[[str], E5Error]) -> Callable[[Inputs], RemoteAnswer]:
        def answer(inputs: Inputs) -> RemoteAnswer:
            texts = inputs.get(field, [])
            if halved and len(texts) > 10:
                raise RequestTooLargeError(30, 25)
            if "700" in texts:
                raise kind(f"{field}[{texts.index('700')}]")
            return echo(inputs)

        return answer

    name = f"{field}[700]"
    refused_by_input = refusing(lambda field: InputError(field, "a; b", "shorten queries[3]"))
    with pytest.raises(InputError) as refused:
        encode(refused_by_input, numbers(1000), field=field)
    assert str(refused.value) == f"{name}: received a; b; shorten queries[3]."
    assert (refused.value.field, refused.value.received) == (name, "a; b")
    with pytest.raises(NonFiniteError) as infinite:
        encode(refusing(lambda field: NonFiniteError(5, field)), numbers(1000), field=field)
    assert str(infinite.value) == str(NonFiniteError(700, name))
    assert infinite.value.position == 700


def test_an_error_without_an_index_stays_as_it_is() -> None:
    def answer(inputs: Inputs) -> RemoteAnswer:
        if "queries" in inputs:
            raise InputError("task", "7", "send a string")
        return echo(inputs)

    with pytest.raises(InputError, match=r"^task: received 7; send a string\.$"):
        encode(answer, ["a"], field="queries")


@pytest.mark.parametrize("change", [{"queries": ["1"]}, {"dimensions": 3}])
def test_another_number_of_vectors_or_dimensions_is_an_error(change: Inputs) -> None:
    with pytest.raises(ServiceError, match=r"^the service answered vectors of shape \("):
        encode(lambda inputs: echo({**inputs, **change}), ["1", "2"], field="queries")


def test_the_examples_give_what_they_say() -> None:
    result = doctest.testmod(batch_module, raise_on_error=True)
    assert result.attempted >= 1
