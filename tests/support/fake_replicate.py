"""A small HTTP server on a loopback port that speaks for Replicate, as well or as badly as told.

Knows the token, the routes and the shape of a prediction; a test says what each create and each
poll comes to. Knows nothing of what the client should do.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from threading import Lock
from typing import Any

import pytest
from fake_cog import Inputs, output_of
from fake_http import Asked, Reply, serve_http

TOKEN = "r8_very_secret"
VERSION = "5c7d5dc6dd8bf75c1acaa8565735e7986bc5b66206b55cca93cb72c9bf15ccaa"
ID = "gm3qorzdhgbfurvjtvhg6dckhu"
STARTING: Reply = (201, {"status": "starting"})
PROCESSING: Reply = (200, {"status": "processing"})
SUCCEEDED: Reply = (200, {"status": "succeeded"})
MODEL: Reply = (200, {"latest_version": {"id": VERSION}})


@dataclass
class FakeReplicate:
    """A running server.

    Attributes:
        url: of it.
        asked: all that came in.
        model: what a model's page answers.
        environment: which names the server and the token while it runs.
    """

    url: str
    environment: pytest.MonkeyPatch
    asked: list[Asked] = field(default_factory=list)
    model: Reply = MODEL

    @property
    def creates(self) -> list[Asked]:
        """The predictions that were asked for."""
        return [each for each in self.asked if each.path.endswith("/predictions")]

    @property
    def polls(self) -> list[Asked]:
        """The predictions that were asked after."""
        return [each for each in self.asked if each.path == f"/v1/predictions/{ID}"]

    @property
    def cancels(self) -> list[Asked]:
        """The predictions that were canceled."""
        return [each for each in self.asked if each.path == f"/v1/predictions/{ID}/cancel"]

    @property
    def inputs(self) -> list[Inputs]:
        """Of the creates."""
        return [each.body["input"] for each in self.creates]


@contextmanager
def fake_replicate(
    creates: Sequence[Reply] = (SUCCEEDED,), polls: Sequence[Reply] = (SUCCEEDED,)
) -> Iterator[FakeReplicate]:
    """Run the server, and name it and the token in the environment.

    Args:
        creates: the answer to each create; the last one to all further ones. A prediction gets its
            id, its URLs, and if it succeeded its output where the answer does not hold them.
        polls: the same for polls.
    """
    lock = Lock()

    def answer(asked: Asked) -> Reply:
        with lock:
            api.asked.append(asked)
            num_creates, num_polls = len(api.creates), len(api.polls)
        if asked.headers.get("Authorization") != f"Bearer {TOKEN}":
            return 401, {"title": "Unauthenticated", "detail": "Invalid token.", "status": 401}
        if asked in api.creates and asked.method == "POST":
            return whole(creates[min(num_creates, len(creates)) - 1], asked.body["input"])
        if asked in api.polls and asked.method == "GET":
            return whole(polls[min(num_polls, len(polls)) - 1], api.inputs[-1])
        if asked in api.cancels and asked.method == "POST":
            return whole((200, {"status": "canceled"}), {})
        if asked.path == "/v1/models/you/e5":
            return api.model
        if asked.path == "/v1/account":
            return 200, {"type": "user", "username": "you"}
        return 404, {"detail": "The requested resource could not be found.", "status": 404}

    def whole(reply: Reply, inputs: Inputs) -> Reply:
        if not isinstance(reply, tuple) or not isinstance(reply[1], dict):
            return reply
        body: dict[str, Any] = reply[1]
        if "status" not in body or "detail" in body:
            return reply
        url = f"{api.url}/v1/predictions/{ID}"
        extra: dict[str, Any] = {"id": ID, "urls": {"get": url, "cancel": f"{url}/cancel"}}
        if body["status"] == "succeeded":
            extra["output"] = output_of(inputs)
        return (reply[0], {**extra, **body}, *reply[2:])

    with pytest.MonkeyPatch.context() as environment:
        api = FakeReplicate("", environment)
        with serve_http(answer) as api.url:
            environment.setenv("REPLICATE_API_TOKEN", TOKEN)
            environment.setenv("REPLICATE_BASE_URL", api.url)
            yield api
