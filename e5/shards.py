"""A folder of shards: the manifest, one Parquet shard for each unit, and its dead letters.

A shard is written aside, flushed, then renamed, so it is whole or not there; its name says which
unit it holds, so whoever goes on knows what is left. The manifest says by which model and rules the
vectors were made, and no others are ever put beside them. Knows nothing of how they are computed.
"""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import fs

from e5.corpus import Corpus, DeadLetter, Document, Unit, file_digest
from e5.errors import InputError
from e5.storage import ASIDE, open_filesystem, write_whole
from e5.vectors import Vectors, finish

MANIFEST = "manifest.json"
DEAD_LETTERS = "dead-letters"
SHARD = r"[A-Za-z0-9-]*-[0-9a-f]{16}-\d{12}\.parquet"  # a unit's name
FIELDS = (
    *("model", "task", "normalize", "dimensions", "dtype"),
    *("text_columns", "id_column", "rows_per_shard", "files"),
)
NO_VECTOR = "its vector is not finite (in float16; try --dtype float32) or too large for memory"


@dataclass(frozen=True)
class Recipe:
    """How documents become stored vectors, beyond the model.

    Attributes:
        task: "" embeds documents bare; otherwise every text carries the prompt of this task.
        normalize: L2-normalise.
        dimensions: keep the first n; None keeps all.
        dtype: of the stored numbers.
    """

    task: str = ""
    normalize: bool = False
    dimensions: int | None = None
    dtype: Literal["float16", "float32"] = "float16"


class Output:
    """A folder of shards, their dead letters and the manifest.

    Attributes:
        location: a path or a URI.
        recipe: how the shards' vectors are made.
    """

    def __init__(self, location: str, recipe: Recipe) -> None:
        """Name the place; nothing is written yet."""
        self.location = location
        self.recipe = recipe
        self._filesystem, self._path = open_filesystem(location)

    def begin(
        self,
        model: str,
        hidden_size: int,
        corpus: Corpus,
        files: Mapping[str, str],
        rows_per_shard: int,
    ) -> None:
        """Write the manifest, or compare with that of the shards that are there.

        Args:
            model: name and fingerprint of what will compute the vectors.
            hidden_size: its vectors' dimensions.
            corpus: what will be read.
            files: its files, as `Corpus.files` gave them before they are planned.
            rows_per_shard: rows of a file in one shard.

        Raises:
            InputError: for a task or dimensions that cannot be; where OUT lies in the corpus; where
                it was made by another model, by other rules, or from a file that has changed since
                (both are named), or holds shards that its manifest does not know.
        """
        words = {"--task": self.recipe.task, "--id-column": corpus.id_column or ""}
        for option, text in [*words.items(), *(("--text-column", c) for c in corpus.text_columns)]:
            try:
                text.encode()
            except UnicodeEncodeError as error:
                raise InputError(option, "what is no valid Unicode", "send text") from error
        if self._filesystem.get_file_info(self._path).type == fs.FileType.File:
            raise InputError("OUT", f"{self.location}, which is a file", "name a folder")
        source, path = open_filesystem(corpus.location)
        if source == self._filesystem and f"{self._path}/".startswith(f"{path.rstrip('/')}/"):
            remedy = "name a folder outside: its shards would be read as documents"
            raise InputError("OUT", f"{self.location}, inside IN", remedy)
        dimensions = self.recipe.dimensions
        dimensions = hidden_size if dimensions is None else dimensions
        if not 1 <= dimensions <= hidden_size:
            raise InputError("--dimensions", str(dimensions), f"use 1 to {hidden_size}")
        # The location may change, as when a bucket is mounted elsewhere; the files in it may not.
        wanted: dict[str, Any] = {
            "model": model,
            **asdict(self.recipe) | {"dimensions": dimensions},
            "text_columns": list(corpus.text_columns),
            "id_column": corpus.id_column,
            "rows_per_shard": rows_per_shard,
            "files": dict(files),
        }
        found = read_manifest(self.location)
        known = set() if found is None else {file_digest(file) for file in found["files"]}
        if unknown := _digests(shard_names(self.location)) - known:
            received = f"{self.location}, where {MANIFEST} lacks the files of {len(unknown)} shards"
            raise InputError("OUT", received, "name another folder")
        if found is not None and found["files"]:
            for name, value in wanted.items():
                if name == "model" and fingerprint(value) == fingerprint(found[name]):
                    continue
                if name == "files":
                    check_files(found[name], value)
                elif value != found[name]:
                    raise InputError(
                        "OUT",
                        f"{self.location}, made with {name} {found[name]!r}, for {value!r}",
                        "go on as it was made, or name another folder",
                    )
            wanted["files"] = found["files"] | wanted["files"]
        self._remove_leftovers()
        self._put(MANIFEST, json.dumps(wanted, indent=1, ensure_ascii=False).encode())

    def unfinished(self, units: Iterable[Unit]) -> list[Unit]:
        """Those of the units whose shards are not there."""
        there = {name.removesuffix(".parquet") for name in shard_names(self.location)}
        return [unit for unit in units if unit.name not in there]

    def holds(self, unit: Unit) -> bool:
        """Whether the unit's shard is there."""
        return self._is_file(f"{unit.name}.parquet")

    def num_dead_letters(self) -> int:
        """Of all runs."""
        folder = fs.FileSelector(f"{self._path}/{DEAD_LETTERS}", allow_not_found=True)
        count = 0
        for item in self._filesystem.get_file_info(folder):
            if item.extension == "jsonl":
                with self._filesystem.open_input_stream(item.path) as file:
                    count += file.read().count(b"\n")
        return count

    def write(
        self,
        unit: Unit,
        documents: Sequence[Document],
        vectors: Vectors,
        dead: Sequence[DeadLetter],
    ) -> tuple[int, int]:
        """The unit's dead letters, then its shard: where the shard is, the unit is done.

        Args:
            unit: what was done.
            documents: of the unit.
            vectors: float32 `[num_documents, hidden_size]`; a document whose vector is not finite
                becomes a dead letter here.
            dead: the unit's other rows.

        Returns:
            how many documents are in the shard, and how many dead letters beside it.
        """
        recipe = self.recipe
        kept = finish(vectors, dimensions=recipe.dimensions, normalize=recipe.normalize)
        with np.errstate(over="ignore"):
            stored = kept.astype(recipe.dtype)
        good = np.isfinite(stored).all(axis=1)
        alive = [documents[i] for i in np.flatnonzero(good)]
        letters = [*dead, *(DeadLetter(documents[i].id, NO_VECTOR) for i in np.flatnonzero(~good))]
        name = f"{DEAD_LETTERS}/{unit.name}.jsonl"
        if letters:
            lines = [json.dumps(asdict(letter), ensure_ascii=False) + "\n" for letter in letters]
            self._put(name, "".join(lines).encode())
        elif self._is_file(name):  # of a run that was killed before it wrote the shard
            self._filesystem.delete_file(f"{self._path}/{name}")
        self._put(f"{unit.name}.parquet", _as_parquet(alive, stored[good]))
        return len(alive), len(letters)

    def _is_file(self, name: str) -> bool:
        info = self._filesystem.get_file_info(f"{self._path}/{name}")
        return bool(info.type == fs.FileType.File and info.size > 0)

    def _remove_leftovers(self) -> None:
        """What a killed run had written aside."""
        for folder in (self._path, f"{self._path}/{DEAD_LETTERS}"):
            files = fs.FileSelector(folder, allow_not_found=True)
            for item in self._filesystem.get_file_info(files):
                if item.type == fs.FileType.File and re.fullmatch(ASIDE, item.base_name):
                    self._filesystem.delete_file(item.path)

    def _put(self, name: str, content: bytes) -> None:
        write_whole(self._filesystem, f"{self._path}/{name}", content)


def read_manifest(location: str, name: str = MANIFEST) -> dict[str, Any] | None:
    """What a folder of shards, or what was made of it, says of itself; None where it says nothing.

    Of the files, those that have shards: whatever else was to be read may still change.

    Raises:
        InputError: for one that cannot be understood.
    """
    filesystem, path = open_filesystem(location)
    if filesystem.get_file_info(f"{path}/{name}").type != fs.FileType.File:
        return None
    with filesystem.open_input_stream(f"{path}/{name}") as file:
        try:
            manifest: dict[str, Any] = json.loads(file.read())
            manifest = {key: manifest[key] for key in (*FIELDS, *manifest)}
            files = dict(manifest["files"])
        except (ValueError, KeyError, TypeError) as error:
            received = f"a {name} that is not of this project"
            raise InputError(location, received, "name another folder") from error
    if name == MANIFEST:
        begun = _digests(shard_names(location))
        files = {file: identity for file, identity in files.items() if file_digest(file) in begun}
    return manifest | {"files": files}


def shard_names(location: str) -> list[str]:
    """The finished shards of a folder, in order."""
    filesystem, path = open_filesystem(location)
    found = filesystem.get_file_info(fs.FileSelector(path, allow_not_found=True))
    return sorted(
        item.base_name for item in found if item.size and re.fullmatch(SHARD, item.base_name)
    )


def _digests(shards: Iterable[str]) -> set[str]:
    """Of the files that shards are of, as `file_digest` gives them."""
    return {shard.rsplit("-", 2)[1] for shard in shards}


def fingerprint(model: str) -> str:
    """What follows the folder's name in the name of a model.

    Example:
        >>> fingerprint("e5-mini@3f61f8")
        '3f61f8'
    """
    return model.rpartition("@")[2]


def check_files(known: Mapping[str, str], found: Mapping[str, str]) -> None:
    """Refuse files that have changed since their vectors were made.

    Raises:
        InputError: naming the first.
    """
    for file, identity in found.items():
        if known.get(file, identity) != identity:
            remedy = "put new rows into new files, or begin anew elsewhere"
            raise InputError(file, "a file that has changed since its vectors were made", remedy)


def _as_parquet(documents: Sequence[Document], stored: np.ndarray[Any, Any]) -> bytes:
    numbers = pa.FixedSizeListArray.from_arrays(pa.array(stored.ravel()), stored.shape[1])
    table = pa.table(
        {
            "id": pa.array([document.id for document in documents], pa.string()),
            "text": pa.array([document.text for document in documents], pa.string()),
            "embedding": numbers,
        }
    )
    sink = pa.BufferOutputStream()
    pq.write_table(
        table,
        sink,
        compression="zstd",
        use_dictionary=False,
        column_encoding={"embedding.list.element": "BYTE_STREAM_SPLIT"},  # 15 % smaller than plain
    )
    return bytes(sink.getvalue())
