"""The predictions that Cog runs in this process: how many there are, and what it leaves of them.

Cog makes three folders for each and leaves them for ever. It writes an answer of more than 6 MiB
into a file there before it sends it, and that is some time after the end. When it cannot make them,
it loses a slot for good; so whether it can is part of the service's health. The number of running
ones is told to `scripts/probe`: slots that are all taken while nothing runs are lost. Knows nothing
of what is predicted.
"""

import contextvars
import heapq
import os
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

from e5.errors import SettingsError

PREDICTIONS = Path("/tmp/coglet/predictions")  # written into Cog 0.23
VARIABLE = "_coglet_prediction_id"
PLAIN = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,254}")  # an id that is one folder below
EMPTY_SECONDS = 2.0  # after the end, until a folder without files goes
NUMBERS_A_SECOND = 5000.0  # and longer by the answer's numbers; Cog writes 200 times as many
FILE_SECONDS = 60.0  # after its last change, until a file goes: by then it was sent


def prediction_id() -> str | None:
    """The id of the prediction that runs here, if Cog runs it and it can be a folder's name."""
    for variable, value in contextvars.copy_context().items():
        if variable.name == VARIABLE:
            return value if isinstance(value, str) and PLAIN.fullmatch(value) else None
    return None


@dataclass
class Prediction:
    """One that runs; `numbers` is how many its answer has, once that is known."""

    numbers: int = 0


class Predictions:
    """Those of this process; and a thread that removes what ended ones have left.

    Example:
        >>> predictions = Predictions()
        >>> with predictions.one():
        ...     predictions.running
        1
    """

    def __init__(self, folder: Path = PREDICTIONS) -> None:
        """Start the thread."""
        self.running = 0
        self._folder = folder
        self._ended: list[tuple[float, str]] = []  # a heap: when a folder may go, and which
        self._thread = threading.Thread(target=self._work, name="e5-predictions", daemon=True)
        self._thread.start()

    @contextmanager
    def one(self) -> Iterator[Prediction]:
        """Within, a prediction runs."""
        self.running += 1
        prediction = Prediction()
        try:
            yield prediction
        finally:
            self.running -= 1
            if (name := prediction_id()) is not None:
                self._goes_after(EMPTY_SECONDS + prediction.numbers / NUMBERS_A_SECOND, name)

    def _goes_after(self, seconds: float, name: str) -> None:
        heapq.heappush(self._ended, (time.monotonic() + seconds, name))

    def tell(self) -> None:
        """Write the number of running ones where `scripts/probe` reads it."""
        with suppress(OSError):
            note = self._folder.parent / f"e5-running-{os.environ.get('PORT', '5000')}"
            note.write_text(str(self.running))

    def check(self) -> None:
        """Refuse to start where Cog cannot make its folders.

        Raises:
            SettingsError: with the reason.
        """
        trial = self._folder / f"e5-{uuid4().hex}"
        try:
            trial.mkdir(parents=True)
            trial.rmdir()
        except OSError as error:
            raise SettingsError(
                f"{self._folder}: cannot be written ({error}), and Cog needs it for each "
                "prediction; make it writable, with room for files."
            ) from error

    def can_be_made(self) -> bool:
        """Whether Cog can make its folders now."""
        try:
            self.check()
        except SettingsError:
            return False
        return True

    def _work(self) -> None:
        while True:
            time.sleep(EMPTY_SECONDS / 2)
            while self._ended and self._ended[0][0] < time.monotonic():
                _, name = heapq.heappop(self._ended)
                if not self._removed(self._folder / name):
                    self._goes_after(EMPTY_SECONDS, name)

    def _removed(self, folder: Path) -> bool:
        """Remove a prediction's folders, and files that are old enough; whether all is gone."""
        with suppress(OSError):
            for name in ("inputs", "outputs"):
                with suppress(FileNotFoundError), os.scandir(folder / name) as files:
                    for file in files:
                        if time.time() - file.stat(follow_symlinks=False).st_mtime < FILE_SECONDS:
                            return False
                        os.unlink(file.path)
                with suppress(FileNotFoundError):
                    (folder / name).rmdir()
            with suppress(FileNotFoundError):
                folder.rmdir()
        return True  # or nothing can be done
