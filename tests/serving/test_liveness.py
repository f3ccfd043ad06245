"""An engine is taken for ill only when it is: failed, hanging, or giving NaN alone."""

import doctest

from hypothesis import given
from hypothesis import strategies as st

from e5.serving import liveness as module
from e5.serving.liveness import ALL_BAD, FIRST_SECONDS, LEAST_SECONDS, TIMES, Liveness


class Clock:
    """A clock that a test sets."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_examples() -> None:
    assert doctest.testmod(module).failed == 0


def test_the_first_forward_may_take_long_and_then_hangs() -> None:
    clock = Clock()
    pulse = Liveness(clock)
    clock.now = 10 * FIRST_SECONDS  # nothing runs
    assert pulse.healthy
    pulse.begun(tokens=4096)
    clock.now += FIRST_SECONDS
    assert pulse.healthy
    clock.now += 1
    assert not pulse.healthy
    pulse.ended(texts=1, bad=0)  # it came back after all
    assert pulse.healthy


@given(seconds=st.floats(0.001, 100), tokens=st.integers(1, 4096), later=st.integers(1, 200_000))
def test_later_ones_hang_far_beyond_the_slowest_rate(
    seconds: float, tokens: int, later: int
) -> None:
    clock = Clock()
    pulse = Liveness(clock)
    pulse.begun(tokens)
    clock.now += seconds
    pulse.ended(texts=1, bad=0)
    pulse.begun(later)
    limit = LEAST_SECONDS + TIMES * seconds / tokens * later
    clock.now += 0.99 * limit
    assert pulse.healthy
    clock.now += 0.02 * limit
    assert not pulse.healthy


def test_nan_now_and_then_is_the_texts_own() -> None:
    pulse = Liveness()
    for _ in range(10 * ALL_BAD):
        pulse.ended(texts=3, bad=2)
        for _ in range(ALL_BAD - 1):
            pulse.ended(texts=1, bad=1)
        assert pulse.healthy
        pulse.ended(texts=1, bad=0)
    for _ in range(ALL_BAD):
        pulse.ended(texts=2, bad=2)
    assert not pulse.healthy


def test_a_failure_is_for_good() -> None:
    pulse = Liveness()
    pulse.failed()
    pulse.ended(texts=1, bad=0)
    assert not pulse.healthy
