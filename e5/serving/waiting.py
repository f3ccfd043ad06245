"""Which of the texts that wait are computed in the next forward.

A forward has room for a number of tokens. While a request waits that is too large for one, small
requests go before it, as far as half of the room; the rest is filled with the first in line, which
then goes to the end. So a small request waits for little more than the forward that runs, however
many large ones came before it, and the first in line gets on in one of two forwards.

Knows nothing of threads, futures or vectors.
"""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from e5.packing import MIN_SHARED, TokenIds, shared_tokens


@dataclass(eq=False)
class Job:
    """The texts of one request, and how far they are.

    Attributes:
        sequences: token ids of each text.
        taken: texts given to a forward so far.
        waiting_tokens: those of the other texts.
        was_passed: it was the first in line, and nothing of it was in the last forward.
    """

    sequences: Sequence[TokenIds]

    def __post_init__(self) -> None:
        self.taken = 0
        self.waiting_tokens = sum(map(len, self.sequences))
        self.was_passed = False

    @property
    def is_over(self) -> bool:
        """Whether nobody waits for the rest any more."""
        return False


J = TypeVar("J", bound=Job)


@dataclass(frozen=True)
class Piece(Generic[J]):
    """Texts of a job, from `start` to before `stop`, that are computed in one forward."""

    job: J
    start: int
    stop: int

    @property
    def sequences(self) -> Sequence[TokenIds]:
        """Their token ids."""
        return self.job.sequences[self.start : self.stop]


class Waiting(Generic[J]):
    """Jobs in the order in which they came, but for large ones, which line up again.

    Example:
        >>> waiting = Waiting()
        >>> waiting.jobs += [Job([(1, 7, 2)] * 9), Job([(1, 8, 2)])]
        >>> [list(piece.sequences) for piece in waiting.take(room=12)]
        [[(1, 8, 2)], [(1, 7, 2), (1, 7, 2), (1, 7, 2)]]
    """

    def __init__(self) -> None:
        """Nobody waits."""
        self.jobs: deque[J] = deque()

    @property
    def tokens(self) -> int:
        """Not given to a forward yet."""
        return sum(job.waiting_tokens for job in self.jobs if not job.is_over)

    def take(self, room: int) -> list[Piece[J]]:
        """The next forward's texts; at least one, unless nobody waits.

        Args:
            room: tokens of a forward. What a text shares with the one before it is counted once; a
                text of more tokens is taken alone.
        """
        self.jobs = deque(job for job in self.jobs if not job.is_over)
        if not self.jobs:
            return []
        first, forward = self.jobs[0], _Forward[J](room)
        if first.was_passed:
            forward.fill(first)
        has_large = any(job.waiting_tokens > room for job in self.jobs)
        left = room // 2 if has_large else room  # for small ones
        for job in self.jobs:
            if left < 1:
                break
            if job.waiting_tokens <= room and job.taken < len(job.sequences):
                left -= forward.add_whole(job, left)
        self.jobs = deque(job for job in self.jobs if job.taken < len(job.sequences))
        while self.jobs and forward.fill(self.jobs[0]):
            self.jobs.popleft()
        first.was_passed = all(piece.job is not first for piece in forward.pieces)
        return forward.pieces

    def to_the_end(self, pieces: Sequence[Piece[J]]) -> None:
        """Have the first in line, if a piece is of it, go behind all who wait now."""
        if self.jobs and any(piece.job is self.jobs[0] for piece in pieces):
            self.jobs.rotate(-1)


class _Forward(Generic[J]):
    def __init__(self, room: int) -> None:
        self.pieces: list[Piece[J]] = []
        self._room = room
        self._last: TokenIds = ()  # what is shared with it is computed once, and counted once

    def add_whole(self, job: J, room: int) -> int:
        """Take all of the job if that needs no more than `room`; the tokens that it needs, or 0."""
        stop, tokens = self._fitting(job, min(room, self._room))
        if stop < len(job.sequences):
            return 0
        self._add(job, stop, tokens)
        return tokens

    def fill(self, job: J) -> bool:
        """Take as many of the job's texts as fit; whether that is all of them."""
        stop, tokens = self._fitting(job, self._room)
        if stop == job.taken and not self.pieces:  # longer than any forward
            stop, tokens = stop + 1, self._room
        if stop > job.taken:
            self._add(job, stop, tokens)
        return job.taken == len(job.sequences)

    def _fitting(self, job: J, room: int) -> tuple[int, int]:
        """Where the texts end that fit in `room` tokens, and how many tokens they need."""
        last, left = self._last, room
        for position in range(job.taken, len(job.sequences)):
            ids = job.sequences[position]
            own = len(ids) - shared_tokens(last, ids, MIN_SHARED)
            if own > left:
                return position, room - left
            last, left = ids, left - own
        return len(job.sequences), room - left

    def _add(self, job: J, stop: int, tokens: int) -> None:
        piece = Piece(job, job.taken, stop)
        self.pieces.append(piece)
        self._room -= tokens
        self._last = piece.sequences[-1]
        job.taken = stop
        job.waiting_tokens -= sum(map(len, piece.sequences))
