"""What the parent knows of one process: whether it lives, shows itself, and how it ended."""

import asyncio
import signal
from collections.abc import Awaitable, Callable

import pytest
from process_stand_ins import PYTHON

from e5.serving.child import Child

pytestmark = pytest.mark.slow

PULSES = "import os, time; os.write(0, b'.'); time.sleep(600)"


def play(story: Callable[[Child], Awaitable[None]]) -> Child:
    async def whole() -> Child:
        child = Child("front", 3, {})
        try:
            await story(child)
        finally:
            child.kill("silent")
            await child.wait()
        return child

    return asyncio.run(whole())


def test_one_that_was_never_started_neither_runs_nor_waits() -> None:
    async def story(child: Child) -> None:
        child.signal(signal.SIGTERM)
        await child.wait()
        assert (child.name, child.process_id, child.exit_status) == ("front-3", 0, 0)

    play(story)


def test_a_pulse_says_that_it_can_answer() -> None:
    async def story(child: Child) -> None:
        child.missed_ticks = 99
        await child.start([*PYTHON, PULSES])
        assert await child.until_ready()
        assert child.missed_ticks == 0
        assert child.exit_status is None
        child.kill("silent")
        await child.wait()
        assert (child.cause, child.ending) == ("silent", "by SIGKILL")
        assert not child.is_ready.is_set()

    play(story)


def test_one_that_ends_without_a_pulse_could_never_answer() -> None:
    async def story(child: Child) -> None:
        await child.start([*PYTHON, "raise SystemExit(5)"])
        assert not await child.until_ready()
        assert (child.cause, child.ending) == ("ended", "with exit status 5")

    play(story)


def test_a_start_forgets_what_was_known_of_the_last_process() -> None:
    async def story(child: Child) -> None:
        for _ in range(2):
            await child.start([*PYTHON, PULSES])
            assert not child.is_unhealthy
            assert child.waiting_tokens == 0
            assert child.cause == "ended"
            assert await child.until_ready()
            child.is_unhealthy, child.waiting_tokens = True, 9
            child.kill("unhealthy")
            await child.wait()

    play(story)
