"""A note on a unit that is being done: attempts at it, and documents that a worker died on.

It is a small file below the folder of shards, deleted when the unit is done.
"""

import json
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from pyarrow import fs

from e5.corpora.filesystem import open_filesystem, read_file
from e5.corpora.plan import Unit

ATTEMPTS = "_attempts"


@dataclass
class Journal:
    """What a worker must know of earlier workers that died during the unit."""

    filesystem: fs.FileSystem
    path: str
    attempts: int  # at the unit, including the present one
    deaths: Counter[str]  # position of a document in the unit -> workers that died on it alone

    @classmethod
    def begin(cls, location: str, unit: Unit) -> "Journal":
        """Read the unit's journal and count one more attempt."""
        filesystem, folder = open_filesystem(location)
        journal, tried = cls._read(filesystem, f"{folder}/{ATTEMPTS}/{unit.name}.json")
        if tried is not None:
            journal.deaths[str(tried)] += 1
        journal.attempts += 1
        journal.note(None)
        return journal

    @classmethod
    def forget_attempts(cls, location: str) -> None:
        """Forget the attempts of a killed run; keep the documents that a worker died on."""
        filesystem, folder = open_filesystem(location)
        filesystem.create_dir(f"{folder}/{ATTEMPTS}", recursive=True)
        for item in filesystem.get_file_info(fs.FileSelector(f"{folder}/{ATTEMPTS}")):
            if item.extension == "json":
                journal, _ = cls._read(filesystem, item.path)
                journal.attempts = 0
                journal.note(None) if journal.deaths else journal.remove()

    @classmethod
    def _read(cls, filesystem: fs.FileSystem, path: str) -> "tuple[Journal, int | None]":
        """The journal, and the position of the document that was tried alone, if any."""
        known: dict[str, Any] = {}
        with suppress(ValueError):  # the worker died while it wrote the file
            known = json.loads(read_file(filesystem, path) or b"{}")
        deaths = Counter(known.get("deaths", {}))
        return cls(filesystem, path, known.get("attempts", 0), deaths), known.get("trying")

    def note(self, position: int | None) -> None:
        """Note the position of the document that is computed alone next; None for none."""
        content = {"attempts": self.attempts, "deaths": self.deaths, "trying": position}
        with self.filesystem.open_output_stream(self.path) as file:
            file.write(json.dumps(content).encode())

    def remove(self) -> None:
        """Delete the file, because the unit is done."""
        self.filesystem.delete_file(self.path)
