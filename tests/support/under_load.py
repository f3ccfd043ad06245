"""Callers that ask a server of the built-in checkpoint all the time, and compare every answer.

Knows nothing of what stands between them and the model.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count
from typing import Any

import httpx2
import numpy as np
from numpy.typing import NDArray
from waiting import wait_until

TEXTS = [f"Text {number} is about snow, rain and {number * 7} mountains." for number in range(64)]
PADDING = b" " * 100_000
NUM_CALLERS = 6


@dataclass
class Door:
    """What is asked, and how it answered.

    Attributes:
        client: talks to it.
        padded: whether some bodies have 100 KB, of blanks.
        num_right: answers with the right vector and the request's own id.
        lost: requests that had no answer, or 5xx.
        half_sent: answers that ended after their head. Nobody can send these requests again.
        wrong: what else was answered.
    """

    client: httpx2.Client
    padded: bool = True
    num_right: int = 0
    lost: list[str] = field(default_factory=list)
    half_sent: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)

    def is_ready(self) -> bool:
        """Whether `/ready` says so; False where nobody listens."""
        try:
            return self.client.get("/ready").status_code == 200
        except httpx2.TransportError:
            return False


def vectors_in(answer: httpx2.Response) -> NDArray[np.float32]:
    """The vectors of an answer, [num_texts, num_dimensions]."""
    data: list[dict[str, Any]] = answer.json()["data"]
    return np.array([item["embedding"] for item in data], np.float32)


@contextmanager
def under_load(
    doors: Sequence[Door], expected: NDArray[np.float32]
) -> Iterator[Callable[[int], None]]:
    """Ask all doors at the same time until the block ends.

    Args:
        doors: each is asked by `NUM_CALLERS` callers.
        expected: the right vectors of `TEXTS`, normalised, [num_texts, num_dimensions].

    Yields:
        A function that waits until each door has given so many more right answers, or a wrong one.
    """
    numbers, is_over = count(), False

    def go_on_asking(door: Door) -> None:
        while not is_over:
            _ask(door, next(numbers), expected)

    def wait_for_answers(num_more: int) -> None:
        goals = [(door, door.num_right + num_more) for door in doors]
        wait_until(lambda: all(door.num_right >= goal or door.wrong for door, goal in goals))

    with ThreadPoolExecutor(NUM_CALLERS * len(doors)) as pool:
        asking = [pool.submit(go_on_asking, door) for door in doors for _ in range(NUM_CALLERS)]
        try:
            yield wait_for_answers
        finally:
            is_over = True
        for each in asking:
            each.result()


def _ask(door: Door, number: int, expected: NDArray[np.float32]) -> None:
    """Ask for one vector with an id of its own, and note whether the answer is its answer."""
    which, sent = number % len(TEXTS), f"request-{number}"
    content = json.dumps({"model": "e5-mini", "input": TEXTS[which]}).encode()
    if door.padded and number % 20 == 0:
        content += PADDING
    headers = {"content-type": "application/json", "x-request-id": sent}
    try:
        answer = door.client.post("/v1/embeddings?key=secret", content=content, headers=headers)
    except httpx2.TransportError as error:
        is_half_sent = "complete message body" in str(error)
        (door.half_sent if is_half_sent else door.lost).append(f"{sent}: {error!r}")
        return
    if answer.status_code >= 500:
        door.lost.append(f"{sent}: {answer.status_code} {answer.text}")
    elif answer.status_code != 200:
        door.wrong.append(f"{sent}: {answer.status_code} {answer.text}")
    elif {*answer.headers.get_list("x-request-id")} != {sent}:  # Ray adds it once more
        door.wrong.append(f"{sent}: {answer.headers}")
    elif not np.allclose(vectors_in(answer), expected[which], atol=1e-5):
        door.wrong.append(f"{sent}: another vector")
    else:
        door.num_right += 1
