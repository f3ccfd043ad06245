"""Whether an engine still works: its forwards end in time, and not all vectors are NaN."""

import time
from collections.abc import Callable

FIRST_FORWARD_SECONDS = 900.0  # no forward has ended yet: kernels may have to be built
MIN_FORWARD_SECONDS = 60.0  # a forward that takes less is never called hung
SLOWEST_FACTOR = 50  # a forward hangs if a token takes this many times the slowest so far
MAX_BAD_FORWARDS = 16  # one after another, without a finite vector


class Liveness:
    """The state of one engine. Any thread may read it."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._running: tuple[float, int] | None = None  # when it started, its number of tokens
        self._slowest: float | None = None  # seconds a token
        self._bad_forwards = 0
        self._failed = False

    @property
    def healthy(self) -> bool:
        """False after a failure, while a forward hangs, or after many forwards of NaN alone."""
        return not self._failed and self._bad_forwards < MAX_BAD_FORWARDS and not self._hangs()

    def forward_started(self, num_tokens: int) -> None:
        """Start measuring a forward."""
        self._running = self._clock(), max(1, num_tokens)

    def forward_ended(self, num_texts: int, num_bad: int) -> None:
        """Count a forward that ended; `num_bad` of its texts have no finite vector."""
        if self._running is not None:
            started, num_tokens = self._running
            self._slowest = max(self._slowest or 0.0, (self._clock() - started) / num_tokens)
        self._running = None
        self._bad_forwards = self._bad_forwards + 1 if num_texts and num_bad == num_texts else 0

    def engine_failed(self) -> None:
        """Be unhealthy for ever: the engine failed for a reason other than a text."""
        self._running, self._failed = None, True

    def _hangs(self) -> bool:
        running, slowest = self._running, self._slowest
        if running is None:
            return False
        started, num_tokens = running
        limit = FIRST_FORWARD_SECONDS
        if slowest is not None:
            limit = MIN_FORWARD_SECONDS + SLOWEST_FACTOR * slowest * num_tokens
        return self._clock() - started > limit
