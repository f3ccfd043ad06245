"""A small HTTP server on a loopback port that answers `POST /predictions` as a test says.

It has no answers of its own: the test decides what is answered to each request.
"""

import struct
from base64 import b64encode
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from threading import Event, Lock
from typing import Any
from urllib.parse import urlsplit

from fake_http import Asked, Reply, serve_http

from e5.errors import E5Error, InputError

Inputs = dict[str, Any]


@dataclass
class FakeCog:
    """A running server.

    Attributes:
        url: where it listens.
        bodies: of the requests for predictions.
        headers: of the same requests.
        health: the answer of `/health-check`.
    """

    url: str
    bodies: list[dict[str, Any]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    health: Reply = (200, {"status": "READY"})

    @property
    def inputs(self) -> list[Inputs]:
        """The inputs of the predictions."""
        return [body["input"] for body in self.bodies]


def output_of(inputs: Inputs, *, model: str = "toy@1") -> dict[str, Any]:
    """The output for texts that are numbers: `[number, 1, 0, 0, ...]`, of four dimensions."""
    width = inputs.get("dimensions", 4)
    texts = [*inputs.get("queries", []), *inputs.get("documents", [])]
    rows = [[float(text) if text.isdigit() else -1.0, 1.0, 0.0, 0.0][:width] for text in texts]
    return {
        "embeddings": None,
        "embeddings_base64": [
            b64encode(struct.pack(f"<{len(row)}f", *row)).decode() for row in rows
        ],
        "usage": {"tokens": [1] * len(rows), "truncated": [False] * len(rows)},
        "model": model,
    }


def succeeded(inputs: Inputs, *, model: str = "toy@1") -> tuple[int, Any]:
    """The answer with the output for such texts."""
    return 200, {"status": "succeeded", "output": output_of(inputs, model=model)}


def failed(error: E5Error | str, *, status: int = 200) -> tuple[int, Any]:
    """The answer for a prediction that raised an error: of the service, with its data, or any."""
    is_ours = isinstance(error, E5Error)
    sentence = f"{type(error).__name__}: {error}" if is_ours else error
    body: dict[str, Any] = {
        "status": "failed",
        "error": f"Prediction failed: Async prediction failed: {sentence}",
    }
    if isinstance(error, E5Error):
        body["metrics"] = {"predict_time": 0.1, "error": error.to_dict()}
    return status, body


BEFORE_THE_FIRST = 6  # texts that `failing_but_first_last` refuses before the first one


def failing_but_first_last(released: Event) -> Callable[[int, Inputs], Reply]:
    """Replies that refuse every text, the text "0" after some others, and the rest when released.

    The first prediction, by which a client learns what is served, succeeds.
    """
    may_fail = Event()

    def reply(number: int, inputs: Inputs) -> Reply:
        if number == 0:
            return succeeded(inputs)
        if inputs["documents"][0] == "0":
            assert may_fail.wait(60)
        elif number > BEFORE_THE_FIRST:
            may_fail.set()
            released.wait(60)
        return failed(InputError("documents[0]", "x", "send y"))

    return reply


@contextmanager
def fake_cog(reply: Callable[[int, Inputs], Reply]) -> Iterator[FakeCog]:
    """Run the server; `reply` receives the number of the prediction, from 0, and its inputs."""
    lock = Lock()

    def answer(asked: Asked) -> Reply:
        if (asked.method, asked.path) == ("GET", "/health-check"):
            return cog.health
        path = urlsplit(asked.path).path.removeprefix("/prefix")
        if (asked.method, path) != ("POST", "/predictions"):
            return 404, b""
        with lock:
            number = len(cog.bodies)
            cog.bodies.append(asked.body)
            cog.headers.append(asked.headers)
        return reply(number, asked.body["input"])

    cog = FakeCog("")
    with serve_http(answer) as cog.url:
        yield cog
