"""How much a gateway takes at a time, in the words of OpenAI's API.

Weaviate sends batches only where an answer says it, and one text a request elsewhere.
"""

import time
from collections.abc import Callable

from e5.gateway.backend import Backend
from e5.gateway.refusals import RETRY_AFTER_SECONDS

COUNT_SECONDS = 0.01  # thousands of texts may wait
RESET = b"%ds" % RETRY_AFTER_SECONDS


class RateLimits:
    """The headers of answers that say what may be sent next."""

    def __init__(
        self,
        backend: Backend,
        in_flight: int,
        free_requests: Callable[[], int],
        *,
        count_seconds: float = COUNT_SECONDS,
    ) -> None:
        """Remember whom to ask; nothing is asked yet.

        Args:
            backend: has the tokens that wait.
            in_flight: requests that are answered at the same time.
            free_requests: how many more of them would be taken now.
            count_seconds: for so long a count of the waiting tokens is good enough.
        """
        self._backend, self._in_flight = backend, in_flight
        self._free_requests, self._count_seconds = free_requests, count_seconds
        self._count_again = 0.0
        self._headers: list[tuple[bytes, bytes]] = []

    def headers(self) -> list[tuple[bytes, bytes]]:
        """The headers, as ASGI has them.

        Tokens are those of the engine's queue, and requests those that are answered at a time. Both
        are free again after some seconds, as `Retry-After` says where there are too many.
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
