"""The queue of requests, and which of their texts are computed in the next forward.

A forward has a token budget. While a request waits that is too large for one forward, small ones
go before it, up to half of the budget; the rest is filled with the first request of the queue,
which then goes to the end. So a small request waits for little more than the running forward,
however many large ones came before it, and the first request of the queue makes progress in one of
two forwards.
"""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Generic, TypeVar

from e5.packing import MIN_SHARED, shared_tokens
from e5.tokenizer import TokenIds


@dataclass(eq=False)
class QueuedRequest:
    """The texts of one request, as token ids, and how many of them forwards have taken."""

    sequences: Sequence[TokenIds]

    def __post_init__(self) -> None:
        self.num_taken = 0  # texts
        # The number of tokens of the texts that were not taken yet.
        self.waiting_tokens = sum(map(len, self.sequences))
        self.was_skipped = False  # it was the first, and the last forward took none of its texts

    @property
    def is_over(self) -> bool:
        """Whether nobody waits for the request any more."""
        return False

    @property
    def is_taken(self) -> bool:
        """Whether forwards have taken all its texts."""
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


@dataclass(eq=False)
class RequestQueue(Generic[R]):
    """Requests in the order in which they came, except that large ones go to the end repeatedly.

    Example:
        >>> queue = RequestQueue()
        >>> queue.requests += [QueuedRequest([(1, 7, 2)] * 9), QueuedRequest([(1, 8, 2)])]
        >>> [list(part.sequences) for part in queue.take(token_budget=12)]
        [[(1, 8, 2)], [(1, 7, 2), (1, 7, 2), (1, 7, 2)]]
    """

    requests: deque[R] = field(default_factory=deque)

    @property
    def tokens(self) -> int:
        """The number of tokens that wait for a forward."""
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
            forward.add(first, token_budget)
        has_large = any(request.waiting_tokens > token_budget for request in self.requests)
        small_budget = token_budget // 2 if has_large else token_budget
        for request in self.requests:
            if small_budget < 1:
                break
            if request.waiting_tokens <= token_budget and not request.is_taken:
                small_budget -= forward.add(request, small_budget, whole=True)
        self.requests = deque(request for request in self.requests if not request.is_taken)
        while self.requests:
            forward.add(self.requests[0], token_budget)
            if not self.requests[0].is_taken:
                break
            self.requests.popleft()
        first.was_skipped = all(part.request is not first for part in forward.slices)
        return forward.slices

    def rotate(self, slices: Sequence[RequestSlice[R]]) -> None:
        """Move the first request to the end if one of the slices is of it."""
        if self.requests and any(part.request is self.requests[0] for part in slices):
            self.requests.rotate(-1)


@dataclass(eq=False)
class _Forward(Generic[R]):
    budget: int
    last: TokenIds = ()  # what is shared with it is computed once, and counted once
    slices: list[RequestSlice[R]] = field(default_factory=list)

    def add(self, request: R, max_tokens: int, *, whole: bool = False) -> int:
        """Take the texts that fit in the budget and `max_tokens`; if `whole`, all texts or none.

        A text that is longer than any forward fits in an empty one. Returns the tokens that the
        taken texts need.
        """
        start, last, tokens = request.num_taken, self.last, 0
        stop, max_tokens = start, min(max_tokens, self.budget)
        for ids in islice(request.sequences, start, None):
            own = len(ids) - shared_tokens(last, ids, MIN_SHARED)
            if tokens + own > max_tokens and (whole or self.slices or stop > start):
                break
            last, tokens, stop = ids, tokens + own, stop + 1
        if stop == start or (whole and stop < len(request.sequences)):
            return 0
        part = RequestSlice(request, start, stop)
        self.slices.append(part)
        self.budget = max(0, self.budget - tokens)
        self.last = last
        request.num_taken = stop
        request.waiting_tokens -= sum(map(len, part.sequences))
        return tokens
