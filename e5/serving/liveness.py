"""Whether an engine still lives: it comes back from each forward, and not with NaN alone.

Knows nothing of queues or of what is computed.
"""

import time
from collections.abc import Callable

FIRST_SECONDS = 900.0  # of a forward when none has ended yet: kernels may have to be built
LEAST_SECONDS = 60.0  # of any forward, before the engine is taken for hanging
TIMES = 50  # the slowest forward so far, token by token
ALL_BAD = 16  # forwards one after the other, of which no text got a finite vector


class Liveness:
    """The state of one engine. Safe to ask from any thread.

    Example:
        >>> pulse = Liveness()
        >>> pulse.begun(tokens=100)
        >>> pulse.ended(texts=3, bad=0)
        >>> pulse.healthy
        True
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """`clock`: seconds, for tests."""
        self._clock = clock
        self._running: tuple[float, int] | None = None  # since when, and how many tokens
        self._slowest: float | None = None  # seconds a token
        self._all_bad = 0
        self._failed = False

    @property
    def healthy(self) -> bool:
        """False after a failure, a forward far beyond its time, or NaN alone for many forwards."""
        return not self._failed and self._all_bad < ALL_BAD and not self._hangs()

    def begun(self, tokens: int) -> None:
        """A forward has begun."""
        self._running = self._clock(), max(1, tokens)

    def ended(self, texts: int, bad: int) -> None:
        """It came back; `bad` of its texts have no finite vector."""
        if self._running is not None:
            began, tokens = self._running
            self._slowest = max(self._slowest or 0.0, (self._clock() - began) / tokens)
        self._running = None
        self._all_bad = self._all_bad + 1 if texts and bad == texts else 0

    def failed(self) -> None:
        """The engine broke, for a reason other than a text."""
        self._running, self._failed = None, True

    def _hangs(self) -> bool:
        running, slowest = self._running, self._slowest
        if running is None:
            return False
        began, tokens = running
        limit = FIRST_SECONDS if slowest is None else LEAST_SECONDS + TIMES * slowest * tokens
        return self._clock() - began > limit
