"""The folders that Cog makes for each prediction: whether it can make them, and their removal.

Cog makes three folders for each prediction and never removes them. It writes an answer of more than
6 MiB into a file there, some time after the prediction has ended, and then sends it. Where it
cannot make the folders, it loses a slot for good.
"""

import contextvars
import heapq
import os
import re
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

from e5.errors import FileError

COG_PREDICTIONS = Path("/tmp/coglet/predictions")  # a constant of Cog 0.23
ID_VARIABLE = "_coglet_prediction_id"
_FOLDER_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,254}")  # never leads to another folder


@dataclass(frozen=True)
class RemovalDelays:
    """How long folders are kept after a prediction has ended.

    Attributes:
        empty_seconds: until a folder without files is removed.
        numbers_per_second: folders are kept longer by the answer's numbers divided by this; Cog
            writes 200 times as many in a second.
        file_seconds: until a file that did not change is removed; by then it was sent.
    """

    empty_seconds: float = 2.0
    numbers_per_second: float = 5000.0
    file_seconds: float = 60.0


_DELAYS = RemovalDelays()


def prediction_id() -> str | None:
    """The id of the running prediction, if Cog runs it and the id can be a folder's name."""
    for variable, value in contextvars.copy_context().items():
        if variable.name == ID_VARIABLE:
            return value if isinstance(value, str) and _FOLDER_NAME.fullmatch(value) else None
    return None


class PredictionFolders:
    """Cog's folders, and a thread that removes those of ended predictions."""

    def __init__(self, root: Path = COG_PREDICTIONS, delays: RemovalDelays = _DELAYS) -> None:
        """Start the thread.

        Args:
            root: the folder in which Cog makes them.
            delays: how long they are kept.
        """
        self.root = root
        self._delays = delays
        self._ended: list[tuple[float, str]] = []  # a heap of times of removal and names
        self._thread = threading.Thread(target=self._remove, name="e5-predictions", daemon=True)
        self._thread.start()

    def remove_later(self, num_numbers: int = 0) -> None:
        """Remove the running prediction's folders some time after now, its end.

        Args:
            num_numbers: the number of float32 values of its answer.
        """
        if (name := prediction_id()) is not None:
            delays = self._delays
            seconds = delays.empty_seconds + num_numbers / delays.numbers_per_second
            self._schedule(seconds, name)

    def check(self) -> None:
        """Make a folder as Cog does.

        Raises:
            FileError: where that fails, with the reason.
        """
        trial = self.root / f"e5-{uuid4().hex}"
        try:
            trial.mkdir(parents=True)
            trial.rmdir()
        except OSError as error:
            raise FileError(
                str(self.root),
                f"cannot be written ({error}), and Cog needs it for each prediction",
                "make it writable, with room for files",
            ) from error

    def _schedule(self, seconds: float, name: str) -> None:
        heapq.heappush(self._ended, (time.monotonic() + seconds, name))

    def _remove(self) -> None:
        while True:
            time.sleep(self._delays.empty_seconds / 2)
            while self._ended and self._ended[0][0] < time.monotonic():
                _, name = heapq.heappop(self._ended)
                if not self._removed(self.root / name):
                    self._schedule(self._delays.empty_seconds, name)

    def _removed(self, folder: Path) -> bool:
        """Remove a prediction's folders, unless a file in them is too new; whether all is done.

        A folder that the system does not let us remove stays, and is not tried again.
        """
        with suppress(OSError):
            for name in ("inputs", "outputs"):
                with suppress(FileNotFoundError), os.scandir(folder / name) as files:
                    for file in files:
                        age = time.time() - file.stat(follow_symlinks=False).st_mtime
                        if age < self._delays.file_seconds:
                            return False
                        os.unlink(file.path)
                with suppress(FileNotFoundError):
                    (folder / name).rmdir()
            with suppress(FileNotFoundError):
                folder.rmdir()
        return True
