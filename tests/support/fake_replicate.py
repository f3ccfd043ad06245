"""A small HTTP server on a loopback port that answers as Replicate does, or as a test says.

It knows the token, the routes and the shape of a prediction; the test decides the answer to each
create and to each poll.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from threading import Lock
from typing import Any

import pytest
from fake_cog import Inputs, output_of
from fake_http import Asked, Reply, serve_http

TOKEN = "r8_very_secret"
VERSION = "5c7d5dc6dd8bf75c1acaa8565735e7986bc5b66206b55cca93cb72c9bf15ccaa"
ID = "gm3qorzdhgbfurvjtvhg6dckhu"  # of the first prediction; the second has this and a 2
PREDICTION = re.compile(rf"/v1/predictions/{ID}(\d*)")
CANCEL = re.compile(PREDICTION.pattern + "/cancel")
STARTING: Reply = (201, {"status": "starting"})
PROCESSING: Reply = (200, {"status": "processing"})
SUCCEEDED: Reply = (200, {"status": "succeeded"})
MODEL: Reply = (200, {"latest_version": {"id": VERSION}})


@dataclass
class FakeReplicate:
    """A running server.

    Attributes:
        url: where it listens.
        asked: all requests.
        model: the answer to a question about the model.
        environment: holds the server's URL and the token while it runs.
    """

    url: str
    environment: pytest.MonkeyPatch
    asked: list[Asked] = field(default_factory=list)
    model: Reply = MODEL

    @property
    def creates(self) -> list[Asked]:
        """The requests that create a prediction."""
        return [each for each in self.asked if each.path.endswith("/predictions")]

    @property
    def polls(self) -> list[Asked]:
        """The requests that ask whether a prediction has ended."""
        return [each for each in self.asked if PREDICTION.fullmatch(each.path)]

    @property
    def cancels(self) -> list[Asked]:
        """The requests that cancel a prediction."""
        return [each for each in self.asked if CANCEL.fullmatch(each.path)]

    @property
    def inputs(self) -> list[Inputs]:
        """The inputs of the creates."""
        return [each.body["input"] for each in self.creates]


@contextmanager
def fake_replicate(
    creates: Sequence[Reply] | Callable[[Inputs], Reply] = (SUCCEEDED,),
    polls: Sequence[Reply] = (SUCCEEDED,),
) -> Iterator[FakeReplicate]:
    """Run the server, and name it and the token in the environment.

    Args:
        creates: the answer to each create, the last one to all further ones; or a function of its
            inputs. A prediction gets its id, its URLs, and if it succeeded its output where the
            answer does not hold them.
        polls: the answer to each poll, in the same way.
    """
    lock = Lock()

    def answer(asked: Asked) -> Reply:
        with lock:
            api.asked.append(asked)
            num_creates, num_polls = len(api.creates), len(api.polls)
        if asked.headers.get("Authorization") != f"Bearer {TOKEN}":
            return 401, {"title": "Unauthenticated", "detail": "Invalid token.", "status": 401}
        if asked in api.creates and asked.method == "POST":
            if callable(creates):
                return whole(creates(asked.body["input"]), num_creates)
            return whole(creates[min(num_creates, len(creates)) - 1], num_creates)
        if asked in api.polls and asked.method == "GET":
            return whole(polls[min(num_polls, len(polls)) - 1], number_in(asked.path))
        if asked in api.cancels and asked.method == "POST":
            return whole((200, {"status": "canceled"}), number_in(asked.path))
        if asked.path == "/v1/models/you/e5":
            return api.model
        if asked.path == "/v1/account":
            return 200, {"type": "user", "username": "you"}
        return 404, {"detail": "The requested resource could not be found.", "status": 404}

    def number_in(path: str) -> int:
        match = PREDICTION.match(path)
        return int(match[1] or 1) if match else 0

    def whole(reply: Reply, number: int) -> Reply:
        if not isinstance(reply, tuple) or not isinstance(reply[1], dict):
            return reply
        body: dict[str, Any] = reply[1]
        if "status" not in body or "detail" in body:
            return reply
        name = f"{ID}{number if number > 1 else ''}"
        url = f"{api.url}/v1/predictions/{name}"
        extra: dict[str, Any] = {"id": name, "urls": {"get": url, "cancel": f"{url}/cancel"}}
        if body["status"] == "succeeded":
            extra["output"] = output_of(api.inputs[number - 1])
        return (reply[0], {**extra, **body}, *reply[2:])

    with pytest.MonkeyPatch.context() as environment:
        api = FakeReplicate("", environment)
        with serve_http(answer) as api.url:
            environment.setenv("REPLICATE_API_TOKEN", TOKEN)
            environment.setenv("REPLICATE_BASE_URL", api.url)
            yield api
