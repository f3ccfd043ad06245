"""Who goes first: small requests soon, large ones steadily, each text once and in order."""

from collections.abc import Iterator

from hypothesis import given
from hypothesis import strategies as st

from e5.serving.waiting import Job, Piece, Waiting

ROOM = 40


class Cancellable(Job):
    """A job that its caller can give up."""

    cancelled = False

    @property
    def is_over(self) -> bool:
        """Whether it was given up."""
        return self.cancelled


def job(*lengths: int) -> Cancellable:
    """Texts of so many tokens, that share nothing."""
    job.made += 1  # type: ignore[attr-defined]
    first = 10_000 * job.made  # type: ignore[attr-defined]
    return Cancellable(
        [tuple(range(first + 100 * i, first + 100 * i + n)) for i, n in enumerate(lengths)]
    )


job.made = 0  # type: ignore[attr-defined]
JOBS = st.lists(st.integers(1, 60), min_size=1, max_size=30).map(lambda lengths: job(*lengths))
HISTORIES = st.lists(st.lists(JOBS, max_size=4), min_size=1, max_size=12)


def forwards(
    waiting: Waiting[Cancellable], arrivals: list[list[Cancellable]]
) -> Iterator[list[Piece[Cancellable]]]:
    """Forwards while jobs arrive between them, and then until nobody waits."""
    for arrived in arrivals:
        waiting.jobs += arrived
        if pieces := waiting.take(ROOM):
            yield pieces
            waiting.to_the_end(pieces)
    while pieces := waiting.take(ROOM):
        yield pieces
        waiting.to_the_end(pieces)


@given(HISTORIES)
def test_each_text_is_taken_once_in_order_and_a_forward_has_its_room(
    arrivals: list[list[Cancellable]],
) -> None:
    waiting = Waiting[Cancellable]()
    seen: dict[int, list[tuple[int, ...]]] = {}
    for pieces in forwards(waiting, arrivals):
        assert all(piece.stop > piece.start for piece in pieces)
        tokens = [len(ids) for piece in pieces for ids in piece.sequences]
        assert sum(tokens) <= ROOM or len(tokens) == 1
        for piece in pieces:
            seen.setdefault(id(piece.job), []).extend(map(tuple, piece.sequences))
    for one in (one for arrived in arrivals for one in arrived):
        assert seen[id(one)] == list(one.sequences)
        assert one.waiting_tokens == 0


@given(HISTORIES)
def test_the_first_in_line_gets_on_in_one_of_two_forwards(
    arrivals: list[list[Cancellable]],
) -> None:
    waiting, passed = Waiting[Cancellable](), None
    for arrived in arrivals:
        waiting.jobs += arrived
        first = waiting.jobs[0] if waiting.jobs else None
        pieces = waiting.take(ROOM)
        if first is not None and all(piece.job is not first for piece in pieces):
            assert passed is not first
            passed = first
        else:
            passed = None
        waiting.to_the_end(pieces)


def large_jobs(least: int, most: int) -> st.SearchStrategy[list[Cancellable]]:
    """Of 40 to 50 texts, so that more than a forward is left of each for a while."""
    texts = st.lists(st.integers(least, most), min_size=40, max_size=50)
    return st.lists(texts.map(lambda lengths: job(*lengths)), min_size=1, max_size=9)


@given(large_jobs(5, 20))
def test_a_small_request_is_in_the_next_forward_whoever_came_before(
    large: list[Cancellable],
) -> None:
    waiting = Waiting[Cancellable]()
    waiting.jobs += large
    for _ in range(2):
        waiting.to_the_end(waiting.take(ROOM))
        small = job(5, 5)
        waiting.jobs.append(small)
        pieces = waiting.take(ROOM)
        assert pieces[0].job is small
        assert len(pieces) > 1, "the rest is for the large ones"
        waiting.to_the_end(pieces)


@given(large_jobs(21, 60))
def test_or_in_the_one_after_where_texts_are_long(large: list[Cancellable]) -> None:
    waiting = Waiting[Cancellable]()
    waiting.jobs += large
    for _ in range(4):
        small = job(5, 5)
        waiting.jobs.append(small)
        taken = []
        for _ in range(2):
            pieces = waiting.take(ROOM)
            waiting.to_the_end(pieces)
            taken += pieces
        assert any(piece.job is small for piece in taken)
        assert any(piece.job is not small for piece in taken)


def test_a_long_text_has_its_turn_though_small_requests_keep_coming() -> None:
    waiting = Waiting[Cancellable]()
    long = job(*[30] * 9)  # each needs more than the half that small ones leave
    waiting.jobs.append(long)
    taken = []
    for _ in range(8):
        waiting.jobs += [job(10), job(10)]
        taken += waiting.take(ROOM)
    assert sum(piece.job is long for piece in taken) >= 4


def test_a_large_request_waits_for_no_more_than_those_before_it() -> None:
    waiting = Waiting[Cancellable]()
    large = job(*[4] * 100)
    waiting.jobs += [large, *(job(4) for _ in range(50))]
    waits = []
    for _ in range(40):
        pieces = waiting.take(ROOM)
        waits.append(all(piece.job is not large for piece in pieces))
        waiting.to_the_end(pieces)
        waiting.jobs += [job(4) for _ in range(10)]  # as many as a forward takes
    assert "1" * 9 not in "".join(str(int(wait)) for wait in waits)
    assert sum(waits) < 36


def test_what_nobody_waits_for_any_more_is_not_taken() -> None:
    waiting = Waiting[Cancellable]()
    gone, wanted = job(*[10] * 9), job(7)
    waiting.jobs += [gone, wanted]
    waiting.to_the_end(waiting.take(ROOM))
    gone.cancelled = True
    assert waiting.tokens == wanted.waiting_tokens
    assert all(piece.job is wanted for piece in waiting.take(ROOM))
    assert waiting.take(ROOM) == []


def test_what_is_shared_with_the_text_before_is_counted_once() -> None:
    prefix = tuple(range(30))
    waiting = Waiting[Cancellable]()
    waiting.jobs += [Cancellable([(*prefix, 1000 + i)]) for i in range(10)]
    assert len(waiting.take(ROOM)) == 10
