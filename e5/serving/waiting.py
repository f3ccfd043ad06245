"""The queue of requests, and which of their texts are computed in the next forward.

A forward has a token budget. While a request waits that is too large for one forward, small ones
go before it, up to half of the budget; the rest is filled with the first request of the queue,
which then goes to the end. So a small request waits for little more than the running forward,
however many large ones came before it, and the first request of the queue makes progress in one of
two forwards.
"""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from e5.packing import MIN_SHARED, TokenIds, shared_tokens


@dataclass(eq=False)
class QueuedRequest:
    """The texts of one request, and how many of them were given to forwards.

    Attributes:
        sequences: token ids of each text.
        num_taken: texts given to a forward so far.
        waiting_tokens: the number of tokens of the other texts.
        was_skipped: whether it was the first of the queue, and the last forward had none of it.
    """

    sequences: Sequence[TokenIds]

    def __post_init__(self) -> None:
        self.num_taken = 0
        self.waiting_tokens = sum(map(len, self.sequences))
        self.was_skipped = False

    @property
    def is_over(self) -> bool:
        """Whether nobody waits for the other texts any more."""
        return False

    @property
    def is_taken(self) -> bool:
        """Whether all its texts were given to forwards."""
        return self.num_taken == len(self.sequences)


R = TypeVar("R", bound=QueuedRequest)


@dataclass(frozen=True)
class RequestSlice(Generic[R]):
    """The texts `start` to `stop - 1` of a request, which are computed in one forward."""

    request: R
    start: int
    stop: int

    @property
    def sequences(self) -> Sequence[TokenIds]:
        """Token ids of these texts."""
        return self.request.sequences[self.start : self.stop]


class RequestQueue(Generic[R]):
    """Requests in the order in which they came, except that large ones go to the end repeatedly.

    Example:
        >>> queue = RequestQueue()
        >>> queue.requests += [QueuedRequest([(1, 7, 2)] * 9), QueuedRequest([(1, 8, 2)])]
        >>> [list(part.sequences) for part in queue.take(token_budget=12)]
        [[(1, 8, 2)], [(1, 7, 2), (1, 7, 2), (1, 7, 2)]]
    """

    def __init__(self) -> None:
        """The queue is empty."""
        self.requests: deque[R] = deque()

    @property
    def tokens(self) -> int:
        """The number of tokens that were not given to a forward yet."""
        return sum(request.waiting_tokens for request in self.requests if not request.is_over)

    def take(self, token_budget: int) -> list[RequestSlice[R]]:
        """The next forward's texts: at least one, unless nobody waits.

        Args:
            token_budget: tokens of a forward. What a text shares with the one before it is counted
                once; a text of more tokens is taken alone.
        """
        self.requests = deque(request for request in self.requests if not request.is_over)
        if not self.requests:
            return []
        first, forward = self.requests[0], _Forward[R](token_budget)
        if first.was_skipped:
            forward.fill(first)
        has_large = any(request.waiting_tokens > token_budget for request in self.requests)
        small_budget = token_budget // 2 if has_large else token_budget
        for request in self.requests:
            if small_budget < 1:
                break
            if request.waiting_tokens <= token_budget and not request.is_taken:
                small_budget -= forward.add_whole(request, small_budget)
        self.requests = deque(request for request in self.requests if not request.is_taken)
        while self.requests and forward.fill(self.requests[0]):
            self.requests.popleft()
        first.was_skipped = all(part.request is not first for part in forward.slices)
        return forward.slices

    def rotate(self, slices: Sequence[RequestSlice[R]]) -> None:
        """Move the first request to the end if one of the slices is of it."""
        if self.requests and any(part.request is self.requests[0] for part in slices):
            self.requests.rotate(-1)


class _Forward(Generic[R]):
    def __init__(self, token_budget: int) -> None:
        self.slices: list[RequestSlice[R]] = []
        self._budget = token_budget
        self._last: TokenIds = ()  # what is shared with it is computed once, and counted once

    def add_whole(self, request: R, max_tokens: int) -> int:
        """Take the request whole if it needs at most `max_tokens`; the tokens it needs, or 0."""
        stop, tokens = self._fitting(request, min(max_tokens, self._budget))
        if stop < len(request.sequences):
            return 0
        self._add(request, stop, tokens)
        return tokens

    def fill(self, request: R) -> bool:
        """Take as many of the request's texts as fit; whether that is all of them."""
        stop, tokens = self._fitting(request, self._budget)
        if stop == request.num_taken and not self.slices:  # longer than any forward
            stop, tokens = stop + 1, self._budget
        if stop > request.num_taken:
            self._add(request, stop, tokens)
        return request.is_taken

    def _fitting(self, request: R, max_tokens: int) -> tuple[int, int]:
        """The end of the texts that fit in `max_tokens`, and how many tokens they need."""
        last, tokens = self._last, 0
        for position in range(request.num_taken, len(request.sequences)):
            ids = request.sequences[position]
            own = len(ids) - shared_tokens(last, ids, MIN_SHARED)
            if tokens + own > max_tokens:
                return position, tokens
            last, tokens = ids, tokens + own
        return len(request.sequences), tokens

    def _add(self, request: R, stop: int, tokens: int) -> None:
        part = RequestSlice(request, request.num_taken, stop)
        self.slices.append(part)
        self._budget -= tokens
        self._last = part.sequences[-1]
        request.num_taken = stop
        request.waiting_tokens -= sum(map(len, part.sequences))
