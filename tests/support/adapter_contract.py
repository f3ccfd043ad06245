"""What an adapter is held to, whatever its framework: an encoder's own vectors, and no surprises.

Knows no framework: each says in a `TriedAdapter` how it is asked.
"""

import asyncio
import threading
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from e5.embedder import Embedder
from e5.encoder import Encoder
from e5.errors import InputError
from e5.vectors import Vectors

WHOLE: dict[str, Any] = {"normalize": True}  # what an adapter asks for unless told otherwise
AWKWARD = ["a", "🙂", "nul \x00", "</s> [INST] {task}", "line\n\n line", "snow" * 500]
TEXTS = st.lists(
    st.sampled_from(AWKWARD) | st.text(min_size=1, max_size=60).filter(str.strip),
    min_size=1,
    max_size=6,
)
OPTIONS = st.fixed_dictionaries(
    {
        "task": st.sampled_from(["sts_query", "SciFact", "Find the recipe", ""]),
        "normalize": st.booleans(),
        "dimensions": st.none() | st.integers(8, 64),
    }
)
MANY = [f"{number} amber lanterns" for number in range(2048)]
BLANK = "received blank text; send text, or leave it out."


class TriedAdapter(Protocol):
    """The two sides of an adapter, with and without await."""

    def query(self, text: str) -> list[float]:
        """The vector of a query."""

    def documents(self, texts: list[str]) -> list[list[float]]:
        """The vectors of documents."""

    async def aquery(self, text: str) -> list[float]:
        """As `query`."""

    async def adocuments(self, texts: list[str]) -> list[list[float]]:
        """As `documents`."""


def assert_same(rows: Sequence[Sequence[float]], truth: Vectors) -> None:
    """Lists of Python floats: as many and as long as the truth, and of the same directions."""
    assert {type(row) for row in rows} <= {list}
    assert {type(value) for row in rows for value in row} <= {float}
    assert_close(np.array(rows, np.float64), truth)


def assert_close(vectors: Any, truth: Vectors) -> None:
    """The same lengths and directions."""
    assert vectors.shape == truth.shape
    lengths, true_lengths = (np.linalg.norm(each, axis=1) for each in (vectors, truth))
    assert np.allclose(lengths, true_lengths, rtol=1e-5)
    assert ((vectors * truth).sum(axis=1) >= 0.999999 * lengths * true_lengths).all()


class Held:
    """An encoder that computes only after it was released."""

    def __init__(self, encoder: Encoder) -> None:
        """Hold this one."""
        self._encoder = encoder
        self.begun, self.released = threading.Event(), threading.Event()

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._encoder, name)
        if not name.startswith("encode_"):
            return found

        def encode(*args: Any, **kwargs: Any) -> Vectors:
            self.begun.set()
            assert self.released.wait(30), "the event loop was blocked"
            vectors: Vectors = found(*args, **kwargs)
            return vectors

        return encode


class Contract:
    """The tests. A framework's own class says how its adapter is made."""

    def adapter(self, encoder: Encoder, **options: Any) -> TriedAdapter:
        """The adapter over an encoder, with these options of the adapter."""
        raise NotImplementedError

    @settings(
        max_examples=25,
        # The second: on a busy machine, drawing texts takes time.
        suppress_health_check=[HealthCheck.differing_executors, HealthCheck.too_slow],
    )
    @given(texts=TEXTS, options=OPTIONS)
    def test_any_mixture_of_texts_has_the_encoder_s_own_vectors(
        self, encoder: Encoder, texts: list[str], options: dict[str, Any]
    ) -> None:
        adapter = self.adapter(encoder, **options)
        assert_same(adapter.documents(texts), encoder.encode_document(texts, **options))
        queries = [adapter.query(text) for text in texts]
        assert_same(queries, encoder.encode_query(texts, **options))

    def test_unless_told_otherwise_vectors_are_normalised_and_queries_search_the_web(
        self, encoder: Encoder
    ) -> None:
        adapter = self.adapter(encoder)
        query, (document,) = adapter.query("snow"), adapter.documents(["snow"])
        assert_same([query], encoder.encode_query(["snow"], task="web_search_query", **WHOLE))
        assert_same([document], encoder.encode_document(["snow"], **WHOLE))
        assert np.linalg.norm(query) == pytest.approx(np.linalg.norm(document)) == pytest.approx(1)
        assert np.dot(query, document) < 0.999

    def test_in_a_symmetric_task_both_sides_are_alike(self, encoder: Encoder) -> None:
        adapter = self.adapter(encoder, task="sts_query")
        assert adapter.query("snow") == pytest.approx(adapter.documents(["snow"])[0], abs=1e-5)

    def test_await_gives_the_same(self, encoder: Encoder) -> None:
        adapter = self.adapter(encoder)
        assert_same(
            [asyncio.run(adapter.aquery("snow"))], np.array([adapter.query("snow")], np.float32)
        )
        documents = asyncio.run(adapter.adocuments(AWKWARD))
        assert_same(documents, np.array(adapter.documents(AWKWARD), np.float32))

    def test_order_is_kept_however_many_there_are(self, encoder: Encoder) -> None:
        adapter = self.adapter(encoder)
        truth = encoder.encode_document(MANY, **WHOLE)
        assert_same(adapter.documents(MANY), truth)
        assert_same(asyncio.run(adapter.adocuments(MANY)), truth)

    def test_no_texts_have_no_vectors(self, encoder: Encoder) -> None:
        assert self.adapter(encoder).documents([]) == []

    def test_many_at_a_time_each_get_their_own(self, encoder: Encoder) -> None:
        adapter = self.adapter(encoder)

        async def ask() -> list[list[float]]:
            return await asyncio.gather(*(adapter.aquery(text) for text in MANY[:40]))

        assert_same(asyncio.run(ask()), encoder.encode_query(MANY[:40], **WHOLE))

    @pytest.mark.parametrize("side", ["query", "documents"])
    def test_an_event_loop_goes_on_meanwhile(self, embedder: Embedder, side: str) -> None:
        held: Any = Held(embedder)
        adapter = self.adapter(held)

        async def beat() -> None:
            while not held.begun.is_set():
                await asyncio.sleep(0.001)
            for _ in range(10):
                await asyncio.sleep(0.001)
            held.released.set()

        async def both() -> None:
            embed = (
                adapter.aquery("snow") if side == "query" else adapter.adocuments(["snow", "ice"])
            )
            await asyncio.gather(embed, beat())

        asyncio.run(both())

    def test_errors_come_through_with_their_sentence(self, encoder: Encoder) -> None:
        adapter = self.adapter(encoder)
        with pytest.raises(InputError, match=rf"^queries\[0\]: {BLANK}$"):
            adapter.query(" ")
        with pytest.raises(InputError, match=rf"^documents\[1\]: {BLANK}$"):
            adapter.documents(["a", " "])
        with pytest.raises(InputError, match=rf"^documents\[1\]: {BLANK}$"):
            asyncio.run(adapter.adocuments(["a", " "]))
        with pytest.raises(InputError, match=r"^dimensions: received 0; use 1 to \d+\.$"):
            self.adapter(encoder, dimensions=0).query("a")
