"""The folders that Cog makes for each prediction: whether it can make them, and their removal.

Cog makes three folders for each prediction and never removes them. It writes an answer of more than
6 MiB into a file there, some time after the prediction has ended, and then sends it. Where it
cannot make the folders, it loses a slot for good.
"""

import contextvars
import heapq
import os
import re
import shutil
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

from e5.errors import FileError

COG_PREDICTIONS = Path("/tmp/coglet/predictions")  # a constant of Cog 0.23
MAX_BYTES_IN_MEMORY = 6 * 2**20  # of an answer; another constant of Cog
ID_VARIABLE = "_coglet_prediction_id"
_FOLDER_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,254}")  # never leads to another folder


def prediction_id() -> str | None:
    """The id of the running prediction, if Cog runs it and the id can be a folder's name."""
    for variable, value in contextvars.copy_context().items():
        if variable.name == ID_VARIABLE:
            return value if isinstance(value, str) and _FOLDER_NAME.fullmatch(value) else None
    return None


@dataclass
class PredictionFolders:
    """Cog's folders, and a thread that removes those of ended predictions.

    Attributes:
        root: the folder in which Cog makes them.
        empty_seconds: the time from a prediction's end to the removal of its empty folders.
        numbers_per_second: folders are kept longer by the answer's numbers divided by this; Cog
            writes 200 times as many in a second.
        file_seconds: the time from a file's last change to its removal; by then Cog has sent it.
    """

    root: Path = COG_PREDICTIONS
    empty_seconds: float = 2.0
    numbers_per_second: float = 5000.0
    file_seconds: float = 60.0

    def __post_init__(self) -> None:
        self._ended: list[tuple[float, str]] = []  # a heap: when to remove which folder
        threading.Thread(target=self._remove, name="e5-predictions", daemon=True).start()

    def remove_later(self, num_floats: int = 0) -> None:
        """At the end of a prediction, plan to remove its folders; its answer has `num_floats`."""
        if (name := prediction_id()) is not None:
            self._plan(name, self.empty_seconds + num_floats / self.numbers_per_second)

    def check(self) -> None:
        """Make a folder as Cog does, and remove it; FileError if that fails."""
        trial = self.root / f"e5-{uuid4().hex}"
        try:
            trial.mkdir(parents=True)
            trial.rmdir()
        except OSError as error:
            received = f"cannot be written ({error}), and Cog needs it for each prediction"
            raise FileError(self.root, received, "make it writable, with room for files") from error

    def check_room(self, num_bytes: int) -> None:
        """FileError if an answer of so many bytes needs a file for which there is no room.

        Cog would fail the prediction too, but then it loses the slot for good.
        """
        if (
            num_bytes > MAX_BYTES_IN_MEMORY
            and (free := shutil.disk_usage(self.root).free) < num_bytes
        ):
            received = f"has {free} bytes free, and this answer goes through a file there"
            remedy = "free some space, or ask for base64 or for fewer texts at a time"
            raise FileError(self.root, received, remedy)

    def _plan(self, name: str, seconds: float) -> None:
        heapq.heappush(self._ended, (time.monotonic() + seconds, name))

    def _remove(self) -> None:
        while True:
            time.sleep(self.empty_seconds / 2)
            while self._ended and self._ended[0][0] < time.monotonic():
                _, name = heapq.heappop(self._ended)
                if self._remove_unless_new(self.root / name):
                    self._plan(name, self.empty_seconds)

    def _remove_unless_new(self, folder: Path) -> bool:
        """Remove a prediction's files and folders; returns whether a file is too new for that."""
        if _remove_empty(folder):
            return False
        with suppress(OSError):  # what the system does not let us remove stays
            for file in [*folder.glob("inputs/*"), *folder.glob("outputs/*")]:
                if time.time() - file.lstat().st_mtime < self.file_seconds:
                    return True
                file.unlink()
            for empty in [*folder.iterdir(), folder]:
                empty.rmdir()
        return False


def _remove_empty(folder: Path) -> bool:
    """Remove a prediction's folders if they are empty; to look first would cost twice as much."""
    try:
        for name in ("inputs", "outputs", ""):
            os.rmdir(f"{folder}/{name}")
    except OSError:
        return False
    return True
