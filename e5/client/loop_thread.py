"""An event loop in a thread of its own, for callers that wait in their threads."""

import asyncio
import atexit
import os
import threading
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from queue import SimpleQueue
from typing import Any, TypeVar

T = TypeVar("T")

END_SECONDS = 10.0  # in which a loop ends; asking a service to cancel a prediction takes up to 5


class LoopThread:
    """Runs coroutines for any number of threads. Starts when it is first used.

    Example:
        >>> loop_thread = LoopThread(cleanup=lambda: asyncio.sleep(0))
        >>> loop_thread.run(lambda: asyncio.sleep(0.1, "slept"))
        'slept'
        >>> loop_thread.stop()
    """

    def __init__(self, cleanup: Callable[[], Awaitable[object]]) -> None:
        """`cleanup` is awaited in the loop when it ends."""
        self._cleanup = cleanup
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread = threading.Thread(target=self._main, name="e5-client", daemon=True)
        self._end = asyncio.Event()
        self._is_stopped = False
        self._process = os.getpid()

    def run(self, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Run the coroutine that `work` makes, and wait for its result.

        What interrupts the wait, such as KeyboardInterrupt, cancels the coroutine, and is raised
        once that has ended.

        Raises:
            RuntimeError: the thread was stopped.
        """
        tasks: list[asyncio.Task[T]] = []
        ended: SimpleQueue[object] = SimpleQueue()

        def start() -> None:
            tasks.append(asyncio.create_task(work()))
            tasks[0].add_done_callback(ended.put)

        def cancel() -> None:
            for task in tasks:
                task.cancel()
                task.add_done_callback(ended.put)  # again: `run` may have taken the first one
            if not tasks:
                ended.put(None)

        try:
            if not self._call_soon(start):
                raise RuntimeError("the client is closed")
            ended.get()
        except BaseException:
            if self._call_soon(cancel):
                ended.get()
            raise
        if tasks[0].cancelled():
            raise RuntimeError("the client was closed while it was used")
        return tasks[0].result()

    def stop(self, *, wait: bool = True) -> None:
        """Cancel what is under way, clean up and end the loop; nothing in a forked process."""
        if os.getpid() != self._process:
            return
        atexit.unregister(self.stop)
        with self._lock:
            self._is_stopped = True
            if self._loop is None:
                return
            with suppress(RuntimeError):  # it has ended
                self._loop.call_soon_threadsafe(self._end.set)
        if wait:
            self._thread.join(END_SECONDS)

    def _call_soon(self, function: Callable[[], None]) -> bool:
        """Have the loop call a function; False if it was stopped."""
        with self._lock:
            if self._is_stopped:
                return False
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                atexit.register(self.stop)
            if self._thread.ident is None:
                self._thread.start()
            self._loop.call_soon_threadsafe(function)
            return True

    def _main(self) -> None:
        loop = self._loop
        assert loop is not None
        with asyncio.Runner(loop_factory=lambda: loop) as runner:
            runner.run(self._wait_for_end())

    async def _wait_for_end(self) -> None:
        await self._end.wait()
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._cleanup()
