"""Many clients in one process, each sending one query after another: what they got, and when.

    python -m benchmarks.load URL FIELD CLIENTS SECONDS BODY

BODY is JSON; each request has another text at FIELD. Prints JSON. Knows nothing of the service: an
answer of another status than 200 counts as failed.
"""

import asyncio
import json
import random
import statistics
import sys
import time
from typing import Any, cast
from urllib.parse import urlsplit

import httptools
import uvloop

PROSE = """snow rain market price of in the a best how to train model history river city cheap
flight protein diet for children law tax school music film phone battery garden bread castle war"""
WORDS = PROSE.split()


def query(number: int) -> str:
    """The query of this number: ten words, no two queries alike.

    >>> query(7)
    'to of children market flight model rain cheap rain 7'
    """
    draw = random.Random(number)
    return " ".join([*draw.choices(WORDS, k=9), str(number)])


class Client(asyncio.Protocol):
    """One connection."""

    def __init__(self, load: "Load") -> None:
        """Report to `load`."""
        self._load = load
        self._sent = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin."""
        self._transport = cast(asyncio.Transport, transport)
        self._send()

    def _send(self) -> None:
        self._parser = httptools.HttpResponseParser(self)
        self._sent = time.perf_counter()
        self._transport.write(self._load.request())

    def data_received(self, data: bytes) -> None:
        """Some of an answer."""
        self._parser.feed_data(data)

    def on_message_complete(self) -> None:
        """A whole answer, says the parser."""
        self._load.answered.add(self)
        self._load.count(time.perf_counter() - self._sent, self._parser.get_status_code())
        asyncio.get_running_loop().call_soon(self._send)


class Load:
    """All clients together."""

    def __init__(self, url: str, field: str, body: dict[str, Any]) -> None:
        """`field`: where in the body the text stands, dots between names."""
        self._where = urlsplit(url)
        self._number = 0
        place: Any = body
        *outer, last = field.split(".")
        for name in outer:
            place = place[name]
        place[last] = "@text@"
        self._body = json.dumps(body)
        self.answered: set[Client] = set()
        self.begin()

    def begin(self) -> None:
        """Forget what was counted."""
        self._started = time.perf_counter()
        self.seconds: list[float] = []
        self.failed = 0

    def request(self) -> bytes:
        """The next one."""
        self._number += 1
        body = self._body.replace("@text@", query(self._number))
        head = f"POST {self._where.path} HTTP/1.1\r\nHost: {self._where.netloc}\r\n"
        head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        return (head + body).encode()

    def count(self, seconds: float, status: int) -> None:
        """One answer."""
        if status == 200:
            self.seconds.append(seconds)
        else:
            self.failed += 1

    async def run(self, clients: int, seconds: float) -> dict[str, Any]:
        """What was answered in `seconds`, once every client has had an answer."""
        loop = asyncio.get_running_loop()
        host, port = self._where.hostname, self._where.port
        for _ in range(clients):
            await loop.create_connection(lambda: Client(self), host or "", port or 80)
        while len(self.answered) < clients:
            await asyncio.sleep(0.1)
        self.begin()
        await asyncio.sleep(seconds)
        cuts = statistics.quantiles([1e3 * s for s in self.seconds], n=100, method="inclusive")
        return {
            "texts/s": len(self.seconds) / (time.perf_counter() - self._started),
            "p50 ms": cuts[49],
            "p99 ms": cuts[98],
            "failed": self.failed,
        }


def main() -> None:
    """Run and print."""
    url, field, clients, seconds, body = sys.argv[1:]
    load = Load(url, field, json.loads(body))
    print(json.dumps(uvloop.run(load.run(int(clients), float(seconds)))))


if __name__ == "__main__":
    main()
