"""An engine is unhealthy only when it failed, hangs, or gives NaN alone."""

import doctest

from hypothesis import given
from hypothesis import strategies as st

from e5.serving import liveness as module
from e5.serving.liveness import (
    FIRST_FORWARD_SECONDS,
    MAX_BAD_FORWARDS,
    MIN_FORWARD_SECONDS,
    SLOWEST_FACTOR,
    Liveness,
)


class Clock:
    """A clock that a test sets."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_examples() -> None:
    assert doctest.testmod(module).failed == 0


def test_the_first_forward_may_take_long_and_then_hangs() -> None:
    clock = Clock()
    liveness = Liveness(clock)
    clock.now = 10 * FIRST_FORWARD_SECONDS  # nothing runs
    assert liveness.healthy
    liveness.forward_started(num_tokens=4096)
    clock.now += FIRST_FORWARD_SECONDS
    assert liveness.healthy
    clock.now += 1
    assert not liveness.healthy
    liveness.forward_ended(num_texts=1, num_bad=0)  # it came back after all
    assert liveness.healthy


@given(seconds=st.floats(0.001, 100), tokens=st.integers(1, 4096), later=st.integers(1, 200_000))
def test_later_forwards_hang_far_beyond_the_slowest_rate(
    seconds: float, tokens: int, later: int
) -> None:
    clock = Clock()
    liveness = Liveness(clock)
    liveness.forward_started(tokens)
    clock.now += seconds
    liveness.forward_ended(num_texts=1, num_bad=0)
    liveness.forward_started(later)
    limit = MIN_FORWARD_SECONDS + SLOWEST_FACTOR * seconds / tokens * later
    clock.now += 0.99 * limit
    assert liveness.healthy
    clock.now += 0.02 * limit
    assert not liveness.healthy


def test_nan_now_and_then_is_the_fault_of_the_texts() -> None:
    liveness = Liveness()
    for _ in range(10 * MAX_BAD_FORWARDS):
        liveness.forward_ended(num_texts=3, num_bad=2)
        for _ in range(MAX_BAD_FORWARDS - 1):
            liveness.forward_ended(num_texts=1, num_bad=1)
        assert liveness.healthy
        liveness.forward_ended(num_texts=1, num_bad=0)
    for _ in range(MAX_BAD_FORWARDS):
        liveness.forward_ended(num_texts=2, num_bad=2)
    assert not liveness.healthy


def test_a_failure_is_permanent() -> None:
    liveness = Liveness()
    liveness.engine_failed()
    liveness.forward_ended(num_texts=1, num_bad=0)
    assert not liveness.healthy
