"""A `Client` works in a thread of its own, which ends: closed, interrupted, forked or lost."""

import doctest
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from fake_cog import Inputs, fake_cog, succeeded
from fake_http import Reply
from fake_replicate import PROCESSING, STARTING, FakeReplicate, fake_replicate
from server import ROOT

from e5.client import Client, loop_thread

MODEL = "replicate-deployment:you/e5"


def echo(_: int, inputs: Inputs) -> Reply:
    return succeeded(inputs)


@pytest.fixture(autouse=True)
def _interrupts() -> Iterator[None]:
    """SIGINT is KeyboardInterrupt, also in a shell's background, where it is ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_closing_ends_a_call_that_another_thread_waits_for() -> None:
    with fake_replicate([STARTING], [PROCESSING]) as api, ThreadPoolExecutor(1) as pool:
        client = Client(MODEL)
        call = pool.submit(client.encode_query, "1")
        while not api.polls:
            assert not call.done()
            time.sleep(0.01)
        client.close()
        with pytest.raises(RuntimeError, match="closed"):
            call.result()
        assert len(api.cancels) == 1


def test_an_interrupt_cancels_the_prediction_before_the_call_ends() -> None:
    def interrupt(api: FakeReplicate) -> None:
        while not api.polls:
            time.sleep(0.01)
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

    with fake_replicate([STARTING], [PROCESSING]) as api, Client(MODEL) as client:
        threading.Thread(target=interrupt, args=[api]).start()
        with pytest.raises(KeyboardInterrupt):
            client.encode_query("1")
        assert len(api.cancels) == 1


def test_a_client_can_be_used_after_an_interrupt() -> None:
    entered, released = threading.Event(), threading.Event()

    def reply(number: int, inputs: Inputs) -> Reply:
        if number == 1:
            entered.set()
            released.wait(60)
        return succeeded(inputs)

    def interrupt() -> None:
        entered.wait(60)
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

    with fake_cog(reply) as cog, Client(cog.url) as client:
        assert client.name == "toy@1"
        threading.Thread(target=interrupt).start()
        with pytest.raises(KeyboardInterrupt):
            client.encode_query("1")
        assert client.encode_query("2").tolist() == [2, 1, 0, 0]
        released.set()


def test_an_iterator_of_texts_may_use_the_client_itself() -> None:
    with fake_cog(echo) as cog, Client(cog.url) as client:
        texts = (str(int(client.encode_query(str(number))[0])) for number in range(3))
        vectors = client.encode_document(texts)  # type: ignore[arg-type]
    assert vectors[:, 0].tolist() == [0, 1, 2]


def run_script(url: str, code: str) -> None:
    """Run it, with warnings that are errors; nothing may be written."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", f"from e5 import Client; url = {url!r}\n{code}"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert (done.stdout, done.stderr, done.returncode) == ("", "", 0)


@pytest.mark.slow
@pytest.mark.parametrize(
    "code",
    [
        pytest.param("client = Client(url); client.encode_query('1')", id="at exit"),
        pytest.param("Client(url).encode_query('1')", id="collected"),
        pytest.param(
            "Client(url).encode_query('1'); import gc; gc.collect()", id="collected twice"
        ),
        pytest.param("Client(url)", id="never used"),
        pytest.param(
            "import threading, time; client = Client(url, deadline=60); client.name\n"
            "def call():\n"
            "    try: client.encode_query('wait')\n"
            "    except RuntimeError: pass\n"
            "threading.Thread(target=call, daemon=True).start(); time.sleep(0.2)",
            id="at exit while a call waits",
        ),
    ],
)
def test_a_client_that_was_not_closed_ends_silently(code: str) -> None:
    released = threading.Event()

    def reply(_: int, inputs: Inputs) -> Reply:
        if inputs.get("queries") == ["wait"]:
            released.wait(60)
        return succeeded(inputs)

    with fake_cog(reply) as cog:
        run_script(cog.url, code)
        released.set()


@pytest.mark.slow
def test_a_forked_process_has_a_connection_of_its_own_and_asks_for_no_name_again() -> None:
    code = """
import os, warnings
warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12 dislikes forks beside threads
with Client(url) as client:
    client.encode_query("1")
    child = os.fork()
    assert (client.name, client.dimensions) == ("toy@1", 4)
    for number in range(5):
        assert client.encode_query(str(number))[0] == number
    if child:
        assert os.waitpid(child, 0)[1] == 0
client = Client(url)  # forked before its first use, and from a process that closed another
if child and (child := os.fork()):
    assert os.waitpid(child, 0)[1] == 0
assert client.encode_query("7")[0] == 7
"""
    with fake_cog(echo) as cog:
        run_script(cog.url, code)
        asked = [inputs["queries"] for inputs in cog.inputs]  # KeyError for a question of its own
        assert len(asked) == 1 + 2 * 5 + 3


def test_the_examples_give_what_they_say() -> None:
    result = doctest.testmod(loop_thread, raise_on_error=True)
    assert result.attempted >= 3
