"""Bodies of any size, and anything but JSON, go in and out while everybody else is served."""

import asyncio
import json
import os
import pickle
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

import httpx2
import numpy as np
import orjson
import pytest
from gateway_tools import FakeBackend, LocalGateway, answer_of, sentence_of
from hypothesis import given, settings
from hypothesis import strategies as st
from server import ROOT
from watched import run, until

from e5.errors import InputError
from e5.gateway.body import json_pieces, parse_large_body, to_json
from e5.gateway.limits import GatewayLimits
from e5.serving import Answer
from e5.vectors import Vectors

LIMITS = GatewayLimits()
PATH = "/v1/embeddings"
JSON = {"content-type": "application/json"}
LONGEST_GAP = 0.5  # seconds that this process computes between two heartbeats


class Heartbeat:
    """A clock in the event loop, which is late as long as something else holds the loop.

    It shows what this process has computed, in all its threads: a loop that waits for a thread that
    holds the interpreter is late, one that waits because the machine has other work is not.
    """

    def __init__(self) -> None:
        """Not late yet."""
        self.longest = 0.0

    async def __aenter__(self) -> "Heartbeat":
        self._task = asyncio.create_task(self._beat())
        await asyncio.sleep(0.01)
        self.longest = 0.0
        return self

    async def __aexit__(self, *_: object) -> None:
        self._task.cancel()
        print(f"longest gap {self.longest * 1e3:.0f} ms")  # noqa: T201 (shown by pytest -s)

    async def _beat(self) -> None:
        last = time.process_time()
        while True:
            await asyncio.sleep(0.001)
            now = time.process_time()
            self.longest = max(self.longest, now - last)
            last = now


def large(text: bytes) -> bytes:
    """The same JSON with so much space after it that it is parsed elsewhere."""
    return text + b" " * LIMITS.large_body_bytes


def process_of(local: LocalGateway) -> int:
    """The id of the process that parses large bodies."""
    parsing = local.gateway._parser._process
    assert parsing is not None
    assert parsing._process.pid is not None
    return parsing._process.pid


@pytest.fixture(scope="module")
def backend() -> FakeBackend:
    return FakeBackend()


@pytest.fixture(scope="module")
def local(backend: FakeBackend) -> Iterator[LocalGateway]:
    """One gateway for many tests, because it keeps the process that parses large bodies."""
    local = LocalGateway(backend)
    yield local
    local.gateway._parser.close()


@pytest.mark.parametrize("sized", [bytes, large])
class TestWhatIsNoObject:
    @pytest.mark.parametrize(
        "text",
        [b"snow", b"{", b'{"input": "a"', b"{'input': 'a'}", b'{"a": 1,}', b"\x00", b'{"a": 01}'],
    )
    def test_what_is_no_json_is_refused(
        self, local: LocalGateway, backend: FakeBackend, text: bytes, sized: Any
    ) -> None:
        backend.asked.clear()
        sentence = sentence_of(local.post(PATH, sized(text)), 400)
        assert sentence.startswith("the body: received what is not JSON (")
        assert backend.asked == []

    def test_a_text_that_is_no_unicode_is_named(
        self, local: LocalGateway, backend: FakeBackend, sized: Any
    ) -> None:
        backend.asked.clear()
        sentence = sentence_of(local.post(PATH, sized(b'{"input": ["a", "\\ud83d"]}')), 400)
        assert sentence.startswith("input[1]: received a lone surrogate (character 0); send ")
        assert backend.asked == []

    @pytest.mark.parametrize("text", [b"null", b"[]", b'"input"', b"5", b"true", b'["a", "b"]'])
    def test_what_is_no_object_is_refused(
        self, local: LocalGateway, text: bytes, sized: Any
    ) -> None:
        sentence = sentence_of(local.post(PATH, sized(text)), 400)
        assert sentence.startswith("the body: received ")
        assert sentence.endswith("; send a JSON object.")

    @pytest.mark.slow
    def test_nested_lists_are_refused_at_any_depth(self, local: LocalGateway, sized: Any) -> None:
        for depth in (10, 500, 1000, 1024, 2000):
            text = b'{"input": ' + b"[" * depth + b"]" * depth + b"}"
            sentence_of(local.post(PATH, sized(text)), 400)
            text = b'{"input": "a", "x": ' + b'{"a":' * depth + b"1" + b"}" * depth + b"}"
            assert local.post(PATH, sized(text)).status_code in (200, 400)

    def test_an_object_is_read(self, local: LocalGateway, backend: FakeBackend, sized: Any) -> None:
        text = '{"input": "snöw ☃ \\u0000 \\ud83d\\ude42", "x": [1e300, 18446744073709551616]}'
        backend.asked.clear()
        response = local.post(PATH, sized(text.encode()))
        assert response.status_code == 200, response.text
        assert backend.asked[0].documents == ["snöw ☃ \x00 🙂"]


class TestHeaders:
    @pytest.mark.parametrize(
        "kind",
        ["text/plain", "application/x-www-form-urlencoded", "application/jsonx", "json", "*/*",
         "multipart/form-data; boundary=x"],
    )  # fmt: skip
    def test_another_content_type_is_415(self, fake: FakeBackend, kind: str) -> None:
        response = LocalGateway(fake).post(PATH, {"input": "a"}, {"content-type": kind})
        assert sentence_of(response, 415).endswith("; send application/json.")

    def test_no_content_type_is_taken_for_json(self, fake: FakeBackend) -> None:
        assert LocalGateway(fake).send("POST", PATH, content=b'{"input": "a"}').status_code == 200
        empty = {"content-type": ""}
        assert LocalGateway(fake).post(PATH, {"input": "a"}, empty).status_code == 200

    @pytest.mark.parametrize(
        "kind", ["application/json; charset=utf-8", "Application/JSON", "application/json ;a=b"]
    )
    def test_parameters_of_the_type_do_not_matter(self, fake: FakeBackend, kind: str) -> None:
        response = LocalGateway(fake).post(PATH, {"input": "a"}, {"content-type": kind})
        assert response.status_code == 200

    @pytest.mark.parametrize("coding", ["gzip", "br", "deflate", "identity, gzip", ""])
    def test_an_encoded_body_is_415(self, fake: FakeBackend, coding: str) -> None:
        response = LocalGateway(fake).post(PATH, b"\x1f\x8b", {"content-encoding": coding})
        assert sentence_of(response, 415).startswith("Content-Encoding: received ")
        plain = LocalGateway(fake).post(PATH, {"input": "a"}, {"content-encoding": "identity"})
        assert plain.status_code == 200


class TestSize:
    def test_a_body_over_the_limit_is_413(self, fake: FakeBackend) -> None:
        local = LocalGateway(fake)
        sentence = sentence_of(local.post(PATH, b"x" * (LIMITS.body_bytes + 1)), 413)
        assert str(LIMITS.body_bytes) in sentence

        async def pieces() -> AsyncIterator[bytes]:  # without Content-Length
            for _ in range(33):
                yield b"x" * 2**20

        sentence_of(local.send("POST", PATH, content=pieces(), headers=JSON), 413)
        assert local.post(PATH, {"input": "a"}).status_code == 200

    def test_a_body_that_says_it_is_too_large_is_not_read(self, fake: FakeBackend) -> None:
        async def endless() -> AsyncIterator[bytes]:
            raise AssertionError("was read")
            yield b""

        headers = {**JSON, "content-length": str(10**15)}
        sentence_of(LocalGateway(fake).send("POST", PATH, content=endless(), headers=headers), 413)

    @pytest.mark.slow
    def test_ten_million_characters_are_embedded(self, fake: FakeBackend) -> None:
        texts = ["snow " * 150_000] * 13
        assert LocalGateway(fake).post(PATH, {"input": texts}).status_code == 200
        assert fake.asked[0].documents == texts
        sentence = sentence_of(LocalGateway(fake).post(PATH, {"input": [*texts, *texts[:1]]}), 400)
        assert sentence.startswith("input: received 10500000 characters")


class TestParsing:
    @given(st.recursive(
        st.none() | st.booleans() | st.integers(-2**53, 2**53) | st.text() | st.floats(-1, 1),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=30,
    ))  # fmt: skip
    def test_json_of_any_size_is_what_it_says(self, value: Any) -> None:
        text = json.dumps(value).encode()
        assert parse_large_body(text, LIMITS) == value

    @pytest.mark.parametrize("text", [b"[0,1]", b'{"a":[0],"b":1}', b'[{"a":1},[2]]'])
    def test_values_are_counted_wherever_they_stand(self, text: bytes) -> None:
        most = LIMITS.large_body_values
        many = text.replace(b"1", b",".join([b"1"] * (most + 1)).join((b"[", b"]")))
        with pytest.raises(InputError, match=f"more than {most} values"):
            parse_large_body(many, LIMITS)
        few = text.replace(b"1", b",".join([b"1"] * (most - 10)).join((b"[", b"]")))
        assert parse_large_body(few, LIMITS) == orjson.loads(few)

    def test_what_is_given_back_can_be_handed_over(self) -> None:
        deepest = b"[" * LIMITS.large_body_depth + b"]" * LIMITS.large_body_depth
        assert pickle.loads(pickle.dumps(parse_large_body(deepest, LIMITS))) == orjson.loads(
            deepest
        )
        with pytest.raises(InputError, match="lists in each other"):
            parse_large_body(b"[" + deepest + b"]", LIMITS)
        for text in (b"no", b"[" * 2000, b"[1,1" + b",1" * LIMITS.large_body_values + b"]"):
            with pytest.raises(InputError) as caught:
                parse_large_body(text, LIMITS)
            assert len(pickle.dumps(caught.value)) < 1000  # not the body with it

    @pytest.mark.slow
    def test_a_parser_that_was_killed_is_replaced(self, fake: FakeBackend) -> None:
        local, text = LocalGateway(fake), large(b'{"input": "a"}')
        assert local.post(PATH, text).status_code == 200
        os.kill(process_of(local), signal.SIGKILL)

        async def story() -> None:
            async with local.client() as client:
                asked = [client.post(PATH, content=text, headers=JSON) for _ in range(3)]
                assert {r.status_code for r in await asyncio.gather(*asked)} == {200}

        run(story)
        local.gateway._parser.close()

    def test_a_parser_is_deaf_to_the_terminal(self, fake: FakeBackend) -> None:
        local, text = LocalGateway(fake), large(b'{"input": "a"}')
        assert local.post(PATH, text).status_code == 200
        process = process_of(local)
        os.kill(process, signal.SIGINT)
        assert local.post(PATH, text).status_code == 200
        assert process_of(local) == process
        local.gateway._parser.close()


PARSES_A_LARGE_BODY = """
import sys
sys.modules["multiprocessing.synchronize"] = None  # what imports Python's semaphores fails
from e5.gateway.body import BodyParser
from e5.gateway.limits import GatewayLimits
parser = BodyParser(GatewayLimits())
print(parser._parse_in_process(b"[7]" + b" " * 2**18))
parser.close()
"""
WITHOUT_SHARED_MEMORY = 'mount -t tmpfs -o ro none /dev/shm && exec "$0" "$@"'


@pytest.mark.slow
@pytest.mark.parametrize("has_shared_memory", [True, False])
def test_a_large_body_needs_neither_semaphores_nor_shared_memory(has_shared_memory: bool) -> None:
    command = [sys.executable, "-c", PARSES_A_LARGE_BODY]
    if not has_shared_memory:
        apart = ["unshare", "--mount", "--map-root-user", "sh", "-c", WITHOUT_SHARED_MEMORY]
        try:
            subprocess.run([*apart, "true"], check=True, capture_output=True)
        except (OSError, subprocess.CalledProcessError) as error:
            pytest.skip(f"no mount namespace here: {error}")
        command = [*apart, *command]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.stderr) == ("[7]\n", "")


class TestOthersGoOn:
    """What is large holds up nobody: other requests are answered, and the loop's clock ticks."""

    def watch(
        self, local: LocalGateway, status: int, **options: Any
    ) -> tuple[float, httpx2.Response]:
        found: list[Any] = []

        async def story() -> None:
            async with local.client() as client, Heartbeat() as heart:
                asked = asyncio.create_task(client.post(PATH, **options))
                answered = 0
                while not asked.done():
                    small = await client.post(PATH, json={"input": "a", "dimensions": 1})
                    assert small.status_code == 200
                    answered += 1
                    await asyncio.sleep(0.001)  # nothing else in such a request waits
                assert answered > 1
                found.extend((heart.longest, await asked))

        # The parser's process is there already: a gateway starts it once.
        assert local.post(PATH, large(b'{"input": "a"}')).status_code == 200
        run(story)
        local.gateway._parser.close()
        longest, response = found
        assert response.status_code == status
        assert longest < LONGEST_GAP
        return longest, response

    @pytest.mark.slow
    def test_while_sixteen_million_numbers_are_refused(self, fake: FakeBackend) -> None:
        text = b'{"input": [' + b"1," * 16_000_000 + b"1]}"
        _, response = self.watch(LocalGateway(fake), 400, content=text, headers=JSON)
        sentence = sentence_of(response, 400)
        assert "check_embedding_ctx_length=False" in sentence

    @pytest.mark.slow
    def test_while_many_characters_are_read(self, fake: FakeBackend) -> None:
        text = orjson.dumps({"input": ["snow " * 900] * 2048})
        self.watch(LocalGateway(fake), 200, content=text, headers=JSON)

    @pytest.mark.slow
    @pytest.mark.parametrize("form", ["float", "base64"])
    def test_while_a_large_answer_is_json_pieces(self, form: str) -> None:
        vectors = np.random.default_rng(0).standard_normal((2048, 4096), np.float32)

        async def outcome(request: Any) -> Answer:
            return answer_of(vectors[: len(request.fields)])

        content = orjson.dumps({"input": ["a"] * 2048, "encoding_format": form})
        _, response = self.watch(
            LocalGateway(FakeBackend(outcome)), 200, content=content, headers=JSON
        )
        data = orjson.loads(response.content)["data"]
        assert len(data) == 2048
        if form == "float":
            np.testing.assert_array_equal(np.float32(data[7]["embedding"]), vectors[7])


PLAIN = st.none() | st.booleans() | st.integers(-9, 9) | st.text(max_size=5)


def _as_array(row: list[float]) -> Vectors:
    return np.array(row, np.float32)


class TestWriting:
    VALUES = st.recursive(
        PLAIN | st.lists(st.floats(-1, 1, width=32), min_size=1).map(_as_array),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(max_size=3), inner),
        max_leaves=20,
    )

    @pytest.mark.slow
    @given(VALUES)
    @settings(max_examples=100)
    def test_pieces_make_up_the_whole(self, value: Any) -> None:
        async def together() -> bytes:
            return b"".join([piece async for piece in json_pieces(value)])

        assert asyncio.run(together()) == to_json(value)

    def test_an_iterator_is_a_list(self) -> None:
        async def together() -> bytes:
            value = {"a": map(str, range(3)), "b": [iter(()), iter([{"c": iter([1])}])]}
            return b"".join([piece async for piece in json_pieces(value)])

        assert asyncio.run(together()) == b'{"a":["0","1","2"],"b":[[],[{"c":[1]}]]}'

    def test_others_have_their_turn_between_pieces(self) -> None:
        turns = 0

        async def other() -> None:
            nonlocal turns
            while True:
                turns += 1
                await asyncio.sleep(0)

        async def story() -> None:
            task = asyncio.create_task(other())
            await until(lambda: turns > 0)
            pieces = [piece async for piece in json_pieces([np.zeros(4096, np.float32)] * 256)]
            task.cancel()
            assert len(pieces) > 10
            assert turns >= len(pieces) - 1

        run(story)

    def test_float32_comes_back_as_it_was(self) -> None:
        row = np.random.default_rng(0).standard_normal(4096).astype(np.float32)
        np.testing.assert_array_equal(np.float32(orjson.loads(to_json(row))), row)
