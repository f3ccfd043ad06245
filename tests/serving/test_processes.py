"""The parent starts, watches, restarts and ends what it started; stand-ins fail on demand.

What real processes do under load is in tests/gateway/test_processes_under_load.py.
"""

import asyncio
import os
import signal
import socket
from collections.abc import Awaitable, Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import prometheus_client  # noqa: F401 (before a folder is named: no files are made then)
import pytest
from process_stand_ins import ENGINE, FRONT, hello, state
from waiting import SECONDS

from e5.errors import EngineError
from e5.serving.child import Child
from e5.serving.processes import Processes, ProcessLimits
from e5.serving.whole_machine import private_folder

pytestmark = pytest.mark.slow

QUICK = ProcessLimits(
    tick_seconds=0.02, silent_ticks=100, first_pause=0.01, longest_pause=0.05, failed_starts=3
)
IMPATIENT = ProcessLimits(
    tick_seconds=0.02, silent_ticks=5, first_pause=0.01, longest_pause=0.05, failed_starts=3
)
WELL = [hello(), state(waiting_tokens=7)]


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(SECONDS):
        while not condition():
            await asyncio.sleep(0.01)


class Stage:
    """Processes of stand-ins, and what became of them."""

    def __init__(self, folder: Path, bound: socket.socket) -> None:
        self.folder, self.bound = folder, bound
        self.fault, self.journal = folder / "fault", folder / "journal"
        self.announced: list[str] = []
        self.processes: Processes

    def run(
        self,
        story: Callable[[], Awaitable[None]] | None = None,
        *,
        frames: tuple[list[str], ...] = (WELL, WELL),
        num_fronts: int = 1,
        on_term: str = "end",
        ends_by_itself: bool = False,
        **options: Any,
    ) -> int:
        """The exit status, after a story that begins when all can answer, and an orderly end."""

        async def play() -> int:
            shared = {"FAULT": str(self.fault), "JOURNAL": str(self.journal)}
            self.processes = Processes(
                self.folder,
                self.bound,
                engines=[{**shared, "FRAMES": " ".join(each)} for each in frames],
                num_fronts=num_fronts,
                front_command=FRONT,
                engine_command=ENGINE,
                **{"limits": QUICK, **options},
            )
            running = asyncio.create_task(self.processes.run(self.announced.append))
            waiting = asyncio.create_task(until(lambda: self.announced))
            await asyncio.wait([running, waiting], return_when=asyncio.FIRST_COMPLETED)
            try:
                if not running.done() and story is not None:
                    await story()
            finally:
                waiting.cancel()
                if not ends_by_itself:
                    self.processes.end()
                status = await running
            return status

        os.environ["TERM"] = on_term
        return asyncio.run(play())

    @property
    def engines(self) -> list[Child]:
        return self.processes._engines

    @property
    def fronts(self) -> list[Child]:
        return self.processes._fronts

    def restarts(self, kind: str, cause: str) -> float:
        value: float = self.processes._metrics.restarts.labels(kind, cause)._value.get()
        return value

    def steps(self) -> list[str]:
        return [line.split()[0] for line in self.journal.read_text().splitlines()]


@pytest.fixture
def stage(monkeypatch: pytest.MonkeyPatch) -> Iterator[Stage]:
    for name in ("PROMETHEUS_MULTIPROC_DIR", "TERM"):
        monkeypatch.setenv(name, "")  # what is set meanwhile is forgotten afterwards
    with private_folder() as folder, socket.socket() as bound:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        bound.bind(("127.0.0.1", 0))
        yield Stage(folder, bound)


def is_alive(process_id: int) -> bool:
    try:
        os.kill(process_id, 0)
    except ProcessLookupError:
        return False
    return True


class TestTheBeginning:
    def test_all_are_started_announced_once_and_ended(self, stage: Stage) -> None:
        ids: list[int] = []

        async def story() -> None:
            ids.extend(child.process_id for child in stage.engines + stage.fronts)
            metrics = stage.processes._metrics
            tokens, ready = metrics.queue_tokens.labels(2)._value, metrics.processes.labels
            await until(lambda: tokens.get() == 7)
            await until(lambda: ready("engine")._value.get() == 2)
            await until(lambda: ready("front")._value.get() == 3)

        assert stage.run(story, num_fronts=3) == 0
        assert stage.announced == ["small@0123456789ab"]
        assert len({*ids}) == 5
        assert not any(map(is_alive, ids))

    @pytest.mark.parametrize("status", [1, 2])
    def test_an_engine_that_says_why_it_does_not_start_ends_all(
        self, stage: Stage, status: int
    ) -> None:
        stage.fault.write_text(str(status))
        assert stage.run() == 1
        assert not stage.announced
        assert not any(is_alive(child.process_id) for child in stage.engines + stage.fronts)

    @pytest.mark.parametrize(
        ("status", "words"),
        [(-9, "by SIGKILL"), (0, "with exit status 0"), (3, "with exit status 3")],
    )
    def test_the_parent_says_how_a_process_ended_that_does_not_say_why(
        self, stage: Stage, status: int, words: str
    ) -> None:
        stage.fault.write_text(str(status))
        with pytest.raises(EngineError, match=rf"engine-\d ended {words} before it could answer"):
            stage.run(num_fronts=0)

    def test_engines_that_serve_different_models_are_refused(self, stage: Stage) -> None:
        other = [hello("other@0123456789ab"), state()]
        with pytest.raises(EngineError, match=r"engine-\d serves another model than (small|other)"):
            stage.run(frames=(WELL, other))

    def test_one_by_one_means_that_the_next_loads_when_the_last_one_can_answer(
        self, stage: Stage
    ) -> None:
        assert stage.run(frames=(WELL,) * 4, one_by_one=True) == 0
        assert stage.steps() == ["start", "listen"] * 4


class TestDeaths:
    @pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGSEGV])
    @pytest.mark.parametrize("kind", ["engine", "front"])
    def test_a_process_that_ends_in_any_way_is_started_again(
        self, stage: Stage, kind: str, number: signal.Signals
    ) -> None:
        async def story() -> None:
            child = (stage.engines if kind == "engine" else stage.fronts)[0]
            for times in (1, 2):
                await until(child.is_ready.is_set)
                child.signal(number)
                await until(partial(lambda n: stage.restarts(kind, "ended") == n, times))
            await until(child.is_ready.is_set)

        assert stage.run(story) == 0
        assert stage.restarts(kind, "ended") == 2
        assert len(stage.announced) == 1

    @pytest.mark.parametrize("kind", ["engine", "front"])
    def test_a_process_that_is_stopped_is_killed_and_started_again(
        self, stage: Stage, kind: str
    ) -> None:
        async def story() -> None:
            child = (stage.engines if kind == "engine" else stage.fronts)[0]
            os.kill(child.process_id, signal.SIGSTOP)
            await until(lambda: stage.restarts(kind, "silent"))
            await until(child.is_ready.is_set)

        assert stage.run(story, limits=IMPATIENT) == 0
        assert stage.restarts(kind, "silent") >= 1

    @pytest.mark.parametrize(
        ("frames", "cause"), [([hello()], "silent"), ([hello(), state(healthy=False)], "unhealthy")]
    )
    def test_an_engine_that_never_says_that_it_is_well_is_killed_again_and_again(
        self, stage: Stage, frames: list[str], cause: str
    ) -> None:
        async def story() -> None:
            await until(lambda: stage.restarts("engine", cause) >= 2)

        assert stage.run(story, frames=(WELL, frames), limits=IMPATIENT) == 0

    def test_an_engine_that_sends_bytes_that_are_no_frame_is_killed(
        self, stage: Stage, caplog: pytest.LogCaptureFixture
    ) -> None:
        async def story() -> None:
            await until(lambda: stage.restarts("engine", "silent"))

        assert stage.run(story, frames=(WELL, [hello(), "ff" * 13]), limits=IMPATIENT) == 0
        assert "engine-2 sent a frame of the unknown kind 255" in caplog.text

    def test_all_end_if_a_process_cannot_start_again(self, stage: Stage) -> None:
        async def story() -> None:
            stage.fault.write_text("-9")
            stage.engines[0].signal(signal.SIGKILL)

        with pytest.raises(EngineError, match="engine-1 ended by SIGKILL before it could answer"):
            stage.run(story, ends_by_itself=True)
        assert stage.steps().count("start") == 2 + QUICK.failed_starts
        assert not any(is_alive(child.process_id) for child in stage.engines + stage.fronts)


class TestTheEnd:
    def test_engines_end_after_the_last_front(self, stage: Stage) -> None:
        async def story() -> None:
            stage.processes.end()
            front = stage.fronts[0]
            await asyncio.sleep(0.1)  # it ignores the signal
            assert front.exit_status is None
            assert all(engine.exit_status is None for engine in stage.engines)
            front.signal(signal.SIGKILL)

        assert stage.run(story, on_term="stay") == 1  # what it had taken is lost

    def test_a_second_signal_ends_all_at_once(self, stage: Stage) -> None:
        async def story() -> None:
            stage.processes.end()

        assert stage.run(story, on_term="stay") == 1
        assert not any(is_alive(child.process_id) for child in stage.engines + stage.fronts)

    def test_a_front_that_is_stopped_does_not_stop_the_end(self, stage: Stage) -> None:
        async def story() -> None:
            os.kill(stage.fronts[0].process_id, signal.SIGSTOP)
            stage.processes.end()
            await until(lambda: stage.fronts[0].exit_status is not None)

        assert stage.run(story, limits=IMPATIENT) == 1
