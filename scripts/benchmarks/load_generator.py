"""Generates load: many clients in one process, each of which sends one query after another.

    python -m benchmarks.load_generator URL FIELD CLIENTS SECONDS BODY QUERIES

BODY is JSON, in which each request puts a text of `queries` at FIELD. The command prints JSON. An
answer with another status than 200 counts as failed.
"""

import asyncio
import itertools
import json
import random
import statistics
import sys
import time
from bisect import bisect
from collections.abc import Iterator
from typing import Any, cast
from urllib.parse import urlsplit

import httptools
import uvloop

PROSE = """snow rain market price of in the a best how to train model history river city cheap
flight protein diet for children law tax school music film phone battery garden bread castle war"""
WORDS = PROSE.split()
ALL_DIFFERENT = 0


def query(number: int) -> str:
    """Make the query of this number: ten words, and no two queries are equal.

    The number has six digits or more, so that early queries are as long as late ones.

    >>> query(7)
    'to of children market flight model rain cheap rain 100007'
    """
    rng = random.Random(number)
    return " ".join([*rng.choices(WORDS, k=9), str(100_000 + number)])


def queries(count: int = ALL_DIFFERENT) -> Iterator[str]:
    """Queries without an end.

    No two are equal, or they are drawn from so many by Zipf's law: that of rank n is drawn n times
    as rarely as the first. Each call draws others.
    """
    if count == ALL_DIFFERENT:
        yield from map(query, itertools.count())
    weights = list(itertools.accumulate(1 / rank for rank in range(1, count + 1)))
    rng = random.Random()
    while True:
        yield query(bisect(weights, rng.random() * weights[-1], hi=count - 1))


class Client(asyncio.Protocol):
    """A client with one connection."""

    def __init__(self, generator: "LoadGenerator") -> None:
        """Take requests from the generator and report answers to it."""
        self._generator = generator
        self._sent = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Send the first request."""
        self._transport = cast(asyncio.Transport, transport)
        self._send()

    def _send(self) -> None:
        self._parser = httptools.HttpResponseParser(self)
        self._sent = time.perf_counter()
        self._transport.write(self._generator.request())

    def data_received(self, data: bytes) -> None:
        """Parse a part of an answer."""
        self._parser.feed_data(data)

    def on_message_complete(self) -> None:
        """Count a complete answer and send the next request; the parser calls this method."""
        self._generator.answered.add(self)
        self._generator.count(time.perf_counter() - self._sent, self._parser.get_status_code())
        asyncio.get_running_loop().call_soon(self._send)


class LoadGenerator:
    """Makes the requests of all clients and counts their answers."""

    def __init__(self, url: str, field: str, body: dict[str, Any], num_queries: int) -> None:
        """Prepare the requests.

        Args:
            url: the URL of all requests.
            field: the path of the text in the body, with dots between names.
            body: the JSON of a request; its text is replaced.
            num_queries: that of `queries`.
        """
        self._url = urlsplit(url)
        self._queries = queries(num_queries)
        parent: Any = body
        *outer, last = field.split(".")
        for name in outer:
            parent = parent[name]
        parent[last] = "@text@"
        self._body = json.dumps(body)
        self.answered: set[Client] = set()
        self.reset()

    def reset(self) -> None:
        """Set the counts to zero."""
        self._started = time.perf_counter()
        self.seconds: list[float] = []
        self.failed = 0

    def request(self) -> bytes:
        """Make the next request."""
        body = self._body.replace("@text@", next(self._queries))
        head = f"POST {self._url.path} HTTP/1.1\r\nHost: {self._url.netloc}\r\n"
        head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        return (head + body).encode()

    def count(self, seconds: float, status: int) -> None:
        """Count one answer."""
        if status == 200:
            self.seconds.append(seconds)
        else:
            self.failed += 1

    async def run(self, clients: int, seconds: float) -> dict[str, Any]:
        """Count the answers of `seconds`, which start when every client has had an answer."""
        loop = asyncio.get_running_loop()
        host, port = self._url.hostname, self._url.port
        for _ in range(clients):
            await loop.create_connection(lambda: Client(self), host or "", port or 80)
        while len(self.answered) < clients:
            await asyncio.sleep(0.1)
        self.reset()
        await asyncio.sleep(seconds)
        milliseconds = [1e3 * each for each in self.seconds]
        percentiles = statistics.quantiles(milliseconds, n=100, method="inclusive")
        return {
            "answered": len(self.seconds),
            "texts/s": len(self.seconds) / (time.perf_counter() - self._started),
            "p50 ms": percentiles[49],
            "p99 ms": percentiles[98],
            "failed": self.failed,
        }


def main() -> None:
    """Run the clients and print what they counted."""
    url, field, clients, seconds, body, num_queries = sys.argv[1:]
    generator = LoadGenerator(url, field, json.loads(body), int(num_queries))
    print(json.dumps(uvloop.run(generator.run(int(clients), float(seconds)))))


if __name__ == "__main__":
    main()
