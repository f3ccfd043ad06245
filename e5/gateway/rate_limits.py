"""How much a gateway takes at a time, in the headers of OpenAI's API.

Where answers do not have them, Weaviate sends one text in each request instead of batches.
"""

import time
from collections.abc import Callable

from e5.gateway.backend import Backend
from e5.gateway.refusals import RETRY_AFTER_SECONDS

COUNT_SECONDS = 0.01  # counting takes time: thousands of texts may wait
RESET = b"%ds" % RETRY_AFTER_SECONDS


class RateLimits:
    """The headers that say how much may be sent next."""

    def __init__(
        self,
        backend: Backend,
        in_flight: int,
        free_requests: Callable[[], int],
        *,
        count_seconds: float = COUNT_SECONDS,
    ) -> None:
        """Keep the sources of the numbers; nothing is counted yet.

        Args:
            backend: counts the tokens that wait.
            in_flight: the number of requests that are answered at the same time.
            free_requests: counts how many more of them would be taken now.
            count_seconds: a count of the waiting tokens is used again for so long.
        """
        self._backend, self._in_flight = backend, in_flight
        self._free_requests, self._count_seconds = free_requests, count_seconds
        self._count_again = 0.0
        self._headers: list[tuple[bytes, bytes]] = []

    def headers(self) -> list[tuple[bytes, bytes]]:
        """The headers, as ASGI has them.

        The tokens are those of the engine's queue, the requests those that are answered at the same
        time. The time until more are taken is that of `Retry-After` in a refusal.
        """
        now = time.monotonic()
        if now >= self._count_again:
            self._count_again = now + self._count_seconds
            most = self._backend.max_queue_tokens
            free = max(0, most - self._backend.waiting_tokens())
            self._headers = [
                (b"x-ratelimit-limit-requests", b"%d" % self._in_flight),
                (b"x-ratelimit-limit-tokens", b"%d" % most),
                (b"x-ratelimit-remaining-tokens", b"%d" % free),
                (b"x-ratelimit-reset-requests", RESET),
                (b"x-ratelimit-reset-tokens", RESET),
            ]
        remaining = b"x-ratelimit-remaining-requests", b"%d" % self._free_requests()
        return [*self._headers, remaining]
