"""Small requests are computed soon, large ones steadily, each text once and in order."""

from collections.abc import Iterator

from hypothesis import given
from hypothesis import strategies as st

from e5.serving.waiting import QueuedRequest, RequestQueue, RequestSlice

BUDGET = 40


class Cancellable(QueuedRequest):
    """A request that its caller can give up."""

    cancelled = False

    @property
    def is_over(self) -> bool:
        """Whether it was given up."""
        return self.cancelled


def request(*lengths: int) -> Cancellable:
    """Texts of so many tokens, that share nothing."""
    request.made += 1  # type: ignore[attr-defined]
    first = 10_000 * request.made  # type: ignore[attr-defined]
    return Cancellable(
        [tuple(range(first + 100 * i, first + 100 * i + n)) for i, n in enumerate(lengths)]
    )


request.made = 0  # type: ignore[attr-defined]
LENGTHS = st.lists(st.integers(1, 60), min_size=1, max_size=30)
REQUESTS = LENGTHS.map(lambda lengths: request(*lengths))
HISTORIES = st.lists(st.lists(REQUESTS, max_size=4), min_size=1, max_size=12)


def forwards(
    queue: RequestQueue[Cancellable], arrivals: list[list[Cancellable]]
) -> Iterator[list[RequestSlice[Cancellable]]]:
    """Forwards while requests arrive between them, and then until nobody waits."""
    for arrived in arrivals:
        queue.requests += arrived
        if slices := queue.take(BUDGET):
            yield slices
            queue.rotate(slices)
    while slices := queue.take(BUDGET):
        yield slices
        queue.rotate(slices)


@given(HISTORIES)
def test_each_text_is_taken_once_in_order_and_a_forward_has_its_budget(
    arrivals: list[list[Cancellable]],
) -> None:
    queue = RequestQueue[Cancellable]()
    seen: dict[int, list[tuple[int, ...]]] = {}
    for slices in forwards(queue, arrivals):
        assert all(part.stop > part.start for part in slices)
        tokens = [len(ids) for part in slices for ids in part.sequences]
        assert sum(tokens) <= BUDGET or len(tokens) == 1
        for part in slices:
            seen.setdefault(id(part.request), []).extend(map(tuple, part.sequences))
    for one in (one for arrived in arrivals for one in arrived):
        assert seen[id(one)] == list(one.sequences)
        assert one.waiting_tokens == 0


@given(HISTORIES)
def test_the_first_request_makes_progress_in_one_of_two_forwards(
    arrivals: list[list[Cancellable]],
) -> None:
    queue, skipped = RequestQueue[Cancellable](), None
    for arrived in arrivals:
        queue.requests += arrived
        first = queue.requests[0] if queue.requests else None
        slices = queue.take(BUDGET)
        if first is not None and all(part.request is not first for part in slices):
            assert skipped is not first
            skipped = first
        else:
            skipped = None
        queue.rotate(slices)


def large_requests(least: int, most: int) -> st.SearchStrategy[list[Cancellable]]:
    """Requests of 40 to 50 texts, so that more than a forward is left of each for a while."""
    texts = st.lists(st.integers(least, most), min_size=40, max_size=50)
    return st.lists(texts.map(lambda lengths: request(*lengths)), min_size=1, max_size=9)


@given(large_requests(5, 20))
def test_a_small_request_is_in_the_next_forward_whoever_came_before(
    large: list[Cancellable],
) -> None:
    queue = RequestQueue[Cancellable]()
    queue.requests += large
    for _ in range(2):
        queue.rotate(queue.take(BUDGET))
        small = request(5, 5)
        queue.requests.append(small)
        slices = queue.take(BUDGET)
        assert slices[0].request is small
        assert len(slices) > 1, "the rest is for the large ones"
        queue.rotate(slices)


@given(large_requests(21, 60))
def test_a_small_request_is_in_one_of_the_next_two_forwards_where_texts_are_long(
    large: list[Cancellable],
) -> None:
    queue = RequestQueue[Cancellable]()
    queue.requests += large
    for _ in range(4):
        small = request(5, 5)
        queue.requests.append(small)
        taken = []
        for _ in range(2):
            slices = queue.take(BUDGET)
            queue.rotate(slices)
            taken += slices
        assert any(part.request is small for part in taken)
        assert any(part.request is not small for part in taken)


def test_long_texts_are_computed_though_small_requests_keep_coming() -> None:
    queue = RequestQueue[Cancellable]()
    long = request(*[30] * 9)  # each needs more than the half that small ones leave
    queue.requests.append(long)
    taken = []
    for _ in range(8):
        queue.requests += [request(10), request(10)]
        taken += queue.take(BUDGET)
    assert sum(part.request is long for part in taken) >= 4


def test_a_large_request_waits_for_no_more_than_those_before_it() -> None:
    queue = RequestQueue[Cancellable]()
    large = request(*[4] * 100)
    queue.requests += [large, *(request(4) for _ in range(50))]
    waits = []
    for _ in range(40):
        slices = queue.take(BUDGET)
        waits.append(all(part.request is not large for part in slices))
        queue.rotate(slices)
        queue.requests += [request(4) for _ in range(10)]  # as many as a forward takes
    assert "1" * 9 not in "".join(str(int(wait)) for wait in waits)
    assert sum(waits) < 36


def test_a_request_that_nobody_waits_for_any_more_is_not_taken() -> None:
    queue = RequestQueue[Cancellable]()
    gone, wanted = request(*[10] * 9), request(7)
    queue.requests += [gone, wanted]
    queue.rotate(queue.take(BUDGET))
    gone.cancelled = True
    assert queue.tokens == wanted.waiting_tokens
    assert all(part.request is wanted for part in queue.take(BUDGET))
    assert queue.take(BUDGET) == []


def test_tokens_that_are_shared_with_the_text_before_are_counted_once() -> None:
    prefix = tuple(range(30))
    queue = RequestQueue[Cancellable]()
    queue.requests += [Cancellable([(*prefix, 1000 + i)]) for i in range(10)]
    assert len(queue.take(BUDGET)) == 10
