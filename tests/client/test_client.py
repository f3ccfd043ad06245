"""`Client` gives what `Embedder` gives, over a real server; and keeps order, limits and numbering.

The truth is an `Embedder` on the same checkpoint. Where the service must misbehave, a small HTTP
server does what the test says.
"""

import inspect
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from typing import Any

import numpy as np
import pytest
from fake_cog import (
    BEFORE_THE_FIRST,
    Inputs,
    failed,
    failing_but_first_last,
    fake_cog,
    succeeded,
)
from fake_http import Reply
from fake_replicate import fake_replicate
from hypothesis import given, settings
from hypothesis import strategies as st
from ports import free_port
from server import ROOT

import e5
from e5.client import Client
from e5.client.async_client import REQUESTS_PER_CALL
from e5.client.batch import REQUEST_TEXTS
from e5.embedder import Embedder
from e5.encoder import Encoder
from e5.errors import (
    E5Error,
    InputError,
    ServiceError,
)
from e5.vectors import Vectors

MODEL = "replicate-deployment:you/e5"
AWKWARD = [
    "x",
    "\N{GRINNING FACE}\N{ZERO WIDTH JOINER}\N{COMBINING ACUTE ACCENT}",
    "\u202eright to left \u05e9\u05dc\u05d5\u05dd",
    "nul \x00 bell \x07 delete \x7f",
    "</s> <s> [INST] {task} %s \\n",
    "line\nline\r\nline\u2028line",
    "river stone amber quiet lantern " * 40,
    "snow" * 500,
]
TEXTS = st.sampled_from(AWKWARD) | st.text(min_size=1, max_size=80).filter(str.strip)
OPTIONS = st.fixed_dictionaries(
    {
        "task": st.sampled_from(["web_search_query", "", "sts_query", "Find the recipe"]),
        "normalize": st.booleans(),
        "dimensions": st.none() | st.integers(1, 192),
    }
)
TOO_LONG = "long " * 5000  # for the model


@pytest.fixture(scope="module")
def client(url: str) -> Iterator[Client]:
    with Client(url, deadline=60) as connected:
        assert connected.dimensions == 192  # known from now on, as an embedder's are
        yield connected


def assert_same(vectors: Vectors, truth: Vectors) -> None:
    """The same shape and dtype, lengths and directions; sums of floats may differ in order."""
    assert vectors.shape == truth.shape
    assert vectors.dtype == truth.dtype == np.float32
    ours, theirs = (np.atleast_2d(each).astype(np.float64) for each in (vectors, truth))
    lengths = [np.linalg.norm(each, axis=1) for each in (ours, theirs)]
    assert np.allclose(lengths[0], lengths[1], rtol=1e-5)
    assert ((ours * theirs).sum(axis=1) / (lengths[0] * lengths[1]) >= 0.9999999).all()


def error_of(encode: Callable[..., object], *args: Any, **kwargs: Any) -> tuple[type, str]:
    with pytest.raises(E5Error) as caught:
        encode(*args, **kwargs)
    return type(caught.value), str(caught.value)


# The same as Embedder


def test_a_client_is_an_encoder_for_mypy_and_by_its_signatures() -> None:
    encoder: Encoder = Client("http://127.0.0.1")
    assert isinstance(encoder, e5.Client)
    for method in ("encode_query", "encode_document", "similarity"):
        asked, ours = (inspect.signature(getattr(each, method)) for each in (Encoder, Client))
        assert ours == asked
    assert {"name", "dimensions"} <= set(dir(Client))


@pytest.mark.slow
@settings(max_examples=15)
@given(texts=st.lists(TEXTS, max_size=8), options=OPTIONS)
def test_any_mixture_of_texts_has_the_vectors_of_an_embedder(
    client: Client, embedder: Embedder, texts: list[str], options: dict[str, Any]
) -> None:
    assert_same(client.encode_query(texts, **options), embedder.encode_query(texts, **options))
    assert_same(
        client.encode_document(texts, **options), embedder.encode_document(texts, **options)
    )


@pytest.mark.slow
def test_name_width_and_defaults_are_those_of_an_embedder(
    client: Client, embedder: Embedder
) -> None:
    assert (client.name, client.dimensions) == (embedder.name, embedder.dimensions)
    assert_same(client.encode_query(AWKWARD), embedder.encode_query(AWKWARD))
    assert_same(client.encode_document(AWKWARD), embedder.encode_document(AWKWARD))
    prompted, truth = (
        each.encode_document(AWKWARD, task="Match", symmetric=True) for each in (client, embedder)
    )
    assert_same(prompted, truth)


@pytest.mark.slow
@pytest.mark.parametrize("texts", ["snow", ["snow"], ("snow", "rain"), iter(["snow"]), []])
def test_one_string_is_one_vector_and_many_are_rows(client: Client, texts: Any) -> None:
    vectors = client.encode_document(texts)
    assert vectors.shape[-1] == client.dimensions
    assert vectors.ndim == (1 if isinstance(texts, str) else 2)
    vectors[:] = 0  # writable


@pytest.mark.slow
def test_many_requests_come_back_in_order(client: Client, embedder: Embedder) -> None:
    texts = [f"text number {number}" for number in range(3 * REQUEST_TEXTS + 5)]
    assert_same(client.encode_document(texts), embedder.encode_document(texts))


@pytest.mark.slow
def test_scores_are_those_of_an_embedder(client: Client, embedder: Embedder) -> None:
    vectors = client.encode_query(AWKWARD), client.encode_document(AWKWARD[0])
    assert client.similarity(*vectors).shape == (len(AWKWARD), 1)
    assert np.array_equal(client.similarity(*vectors), embedder.similarity(*vectors))
    wrong = vectors[0], vectors[1][:5]
    assert error_of(client.similarity, *wrong) == error_of(embedder.similarity, *wrong)


@pytest.mark.slow
def test_threads_may_share_a_client(client: Client, embedder: Embedder) -> None:
    def encode(encoder: Encoder, number: int) -> Vectors:
        return encoder.encode_query([f"{number} of {i}" for i in range(20)], dimensions=number + 1)

    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(partial(encode, client), range(32)))
    for number, vectors in enumerate(answers):
        assert_same(vectors, encode(embedder, number))


BAD_TEXTS = [
    *(7, None, b"snow", {"a": "b"}, "", "x" * 1_000_001),
    *(["a", " \n"], ["a", 7], ["a", None], ["a", ["b"]], ["a", "\ud800"]),
]
BAD: list[tuple[Any, dict[str, Any]]] = [
    *((texts, {}) for texts in BAD_TEXTS),
    *(("a", {"task": task}) for task in (7, "\udfff", "x" * 10_001)),
    *(("a", {"dimensions": number}) for number in (0, -1, 193, 5000, True, 1.5, "8")),
    (" ", {"dimensions": 0, "task": 7}),
    ("a", {"dimensions": 0, "task": 7}),
    ([], {"dimensions": 0}),
    ([], {"task": 7}),
    (TOO_LONG, {"truncate": False}),
    (["a"] * REQUEST_TEXTS + [TOO_LONG, TOO_LONG], {"truncate": False}),
]


@pytest.mark.slow
@pytest.mark.parametrize("method", ["encode_query", "encode_document"])
@pytest.mark.parametrize(("texts", "options"), BAD)
def test_bad_input_is_the_error_of_an_embedder(
    client: Client, embedder: Embedder, method: str, texts: Any, options: dict[str, Any]
) -> None:
    assert error_of(getattr(client, method), texts, **options) == error_of(
        getattr(embedder, method), texts, **options
    )


@pytest.mark.slow
@pytest.mark.parametrize("flag", ["normalize", "truncate", "symmetric"])
@pytest.mark.parametrize(("value", "shown"), [("no", '"no"'), (1, "1"), (None, "null")])
def test_a_flag_is_true_or_false(client: Client, flag: str, value: Any, shown: str) -> None:
    options: dict[str, Any] = {flag: value}
    assert error_of(client.encode_document, "a", **options) == (
        InputError,
        f"{flag}: received {shown}; send true or false.",
    )


@pytest.mark.slow
def test_numpy_s_numbers_and_flags_are_fine(client: Client) -> None:
    options: dict[str, Any] = {"dimensions": np.int64(8), "normalize": np.True_}
    assert np.linalg.norm(client.encode_query("a", **options)) == pytest.approx(1)


def test_the_client_needs_no_model_s_libraries() -> None:
    code = (
        "import sys, e5, e5.client.client; e5.Client('http://127.0.0.1:1'); "
        "print({'torch', 'transformers', 'tokenizers', 'cog', 'pydantic'} & set(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert (done.stdout, done.stderr) == ("set()\n", "")


# Requests


def echo(_: int, inputs: Inputs) -> Reply:
    return succeeded(inputs)


def numbers(count: int) -> list[str]:
    return [str(number) for number in range(count)]


def test_order_is_kept_whichever_request_is_answered_first() -> None:
    def reply(number: int, inputs: Inputs) -> Reply:
        time.sleep(0.05 * (number % 3 == 1))
        return succeeded(inputs)

    with fake_cog(reply) as cog, Client(cog.url, deadline=20) as client:
        vectors = client.encode_document(numbers(10 * REQUEST_TEXTS + 1))
    assert vectors[:, 0].tolist() == list(range(10 * REQUEST_TEXTS + 1))


def test_the_task_counts_with_each_text() -> None:
    task = "x" * 9000
    with fake_cog(echo) as cog, Client(cog.url) as client:
        assert client.encode_query(numbers(11), task=task).shape == (11, 4)
    assert sorted(len(inputs["queries"]) for inputs in cog.inputs) == [1, 5, 5]
    assert {inputs["task"] for inputs in cog.inputs} == {task}


def test_a_few_requests_are_under_way_at_a_time() -> None:
    lock, now, most, full = threading.Lock(), 0, 0, threading.Event()

    def reply(number: int, inputs: Inputs) -> Reply:
        nonlocal now, most
        with lock:
            now += 1
            most = max(most, now)
            if now == REQUESTS_PER_CALL:
                full.set()
        if number:  # the first one of a new client goes alone
            assert full.wait(60)
            time.sleep(0.03)
        with lock:
            now -= 1
        return succeeded(inputs)

    with fake_cog(reply) as cog, Client(cog.url, deadline=60) as client:
        client.encode_document(numbers(12 * REQUEST_TEXTS))
    assert most == REQUESTS_PER_CALL
    assert len(cog.inputs) == 12


def test_the_first_text_that_fails_is_named_and_the_rest_is_not_sent() -> None:
    released = threading.Event()
    with (
        fake_cog(failing_but_first_last(released)) as cog,
        Client(cog.url, deadline=60) as client,
    ):
        assert client.name == "toy@1"
        refused = error_of(client.encode_document, numbers(100_000))
        assert refused == (InputError, "documents[0]: received x; send y.")
        released.set()
        time.sleep(0.1)
        assert len(cog.inputs) <= 1 + BEFORE_THE_FIRST + REQUESTS_PER_CALL


# Its model


def test_the_service_is_asked_for_its_model_once() -> None:
    with fake_cog(echo) as cog, Client(cog.url) as client:
        assert cog.inputs == []
        assert (client.name, client.dimensions, client.name) == ("toy@1", 4, "toy@1")
        client.encode_query("7", dimensions=2)
        assert (client.name, client.dimensions) == ("toy@1", 4)
        assert [list(inputs) for inputs in cog.inputs[:1]] == [["documents", "encoding_format"]]
        assert len(cog.inputs) == 2


BILLED: dict[str, tuple[Callable[[Client], object], int]] = {
    "nothing": (lambda _: None, 0),
    "a query": (lambda client: client.encode_query("7"), 1),
    "documents": (lambda client: client.encode_document(["7", "8"], task="sts_query"), 1),
    "many documents": (lambda client: client.encode_document(numbers(3 * REQUEST_TEXTS)), 3),
    "options": (lambda client: client.encode_query(["7"], dimensions=2, normalize=True), 1),
    "scores": (lambda client: client.similarity(*[np.eye(4, dtype=np.float32)] * 2), 0),
    "the name": (lambda client: client.name, 1),
    "the name and the width": (lambda client: (client.name, client.dimensions), 1),
    "the name after a query": (lambda client: (client.encode_query("7"), client.name), 1),
    "the width after documents": (lambda c: (c.encode_document(["7"]), c.dimensions), 1),
    "no texts, of a width": (lambda client: client.encode_query([], dimensions=2), 0),
    "no texts": (lambda client: client.encode_document([]), 1),  # the width is in their shape
    "no texts after a query": (lambda c: (c.encode_query("7"), c.encode_query([])), 1),
    "a blank text": (lambda client: client.encode_query([" "]), 0),
    "a wrong option": (lambda client: client.encode_query("7", dimensions=0), 0),
    "a text that is refused": (lambda client: client.encode_query(["x"]), 1),
    "the first of many is refused": (lambda c: c.encode_query(["x", *numbers(9999)]), 1),
}


@pytest.mark.slow
@pytest.mark.parametrize("use", BILLED)
def test_nothing_is_billed_that_nobody_asked_for(use: str) -> None:
    def reply(inputs: Inputs) -> Reply:
        return failed(InputError("queries[0]", "x", "y")) if is_bad(inputs) else succeeded(inputs)

    def is_bad(inputs: Inputs) -> bool:
        return "x" in inputs.get("queries", [])

    call, num_billed = BILLED[use]
    with fake_replicate(reply) as api:
        with Client(MODEL) as client, suppress(InputError):
            call(client)
        assert (len(api.creates), len(api.cancels)) == (num_billed, 0)


def test_a_model_that_changes_is_an_error_from_then_on() -> None:
    def reply(number: int, inputs: Inputs) -> Reply:
        return succeeded(inputs, model="toy@0" if number < 1 else "toy@1")

    with fake_cog(reply) as cog, Client(cog.url) as client:
        client.encode_query("1")
        for _ in range(2):
            with pytest.raises(ServiceError, match=r'changed .* from "toy@0" to "toy@1"; embed'):
                client.encode_query("2")
        assert client.name == "toy@0"


def test_a_service_that_cannot_be_reached_is_an_error_of_ours() -> None:
    with Client(f"http://127.0.0.1:{free_port()}", deadline=0.2) as client:
        for use in (lambda: client.name, lambda: client.encode_query("a")):
            kind, sentence = error_of(use)
            assert kind is ServiceError
            assert "no connection (" in sentence


def test_a_closed_client_cannot_be_used() -> None:
    with fake_cog(echo) as cog:
        with Client(cog.url) as client:
            client.encode_query("1")
        with pytest.raises(RuntimeError, match="closed"):
            client.encode_query("1")
