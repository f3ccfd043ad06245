"""A folder of shards: the manifest, one Parquet shard for each unit, and its dead letters.

A shard exists either whole or not at all. Its name tells which unit it holds, so a resumed run
knows what is left. Knows nothing of how vectors are computed.
"""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import fs

from e5.corpora.corpus import Corpus, DeadLetter, Document, Unit, file_digest
from e5.corpora.manifest import Manifest
from e5.corpora.storage import ASIDE, open_filesystem, write_whole
from e5.errors import InputError
from e5.texts import check_task
from e5.vectors import Vectors, finish

MANIFEST = "manifest.json"
DEAD_LETTERS = "dead-letters"
SHARD = r"[A-Za-z0-9-]*-[0-9a-f]{16}-\d{12}\.parquet"  # a unit's name
RULES = [field.name for field in fields(Manifest) if field.name != "files"]


@dataclass(frozen=True)
class Recipe:
    """How documents become stored vectors, apart from the model.

    Attributes:
        task: "" adds no prompt; otherwise every text carries the prompt of this task.
        normalize: L2-normalise the vectors.
        dimensions: keep the first n; None keeps all.
        dtype: that of the stored numbers.
    """

    task: str = ""
    normalize: bool = False
    dimensions: int | None = None
    dtype: Literal["float16", "float32"] = "float16"


class ShardFolder:
    """A folder of shards, their dead letters and the manifest.

    Attributes:
        location: a path or a URI.
        recipe: how the vectors of new shards are made.
    """

    def __init__(self, location: str, recipe: Recipe | None = None) -> None:
        """Set the location; nothing is read or written yet."""
        self.location = location
        self.recipe = recipe or Recipe()
        self._filesystem, self._path = open_filesystem(location)

    def begin(
        self,
        model: str,
        dimensions: int,
        corpus: Corpus,
        files: Mapping[str, str],
        rows_per_shard: int,
    ) -> None:
        """Write the manifest; if there are shards already, compare it with theirs first.

        Args:
            model: name and fingerprint of the model that will compute the vectors.
            dimensions: of its whole vectors.
            corpus: what will be read.
            files: its files, as `Corpus.files` gave them before they were planned.
            rows_per_shard: rows of a file in one shard.

        Raises:
            InputError: for an invalid task or number of dimensions; if the folder lies inside the
                corpus; if it was made by another model, by other rules, or from a file that has
                changed since; if it holds shards that its manifest does not list.
        """
        check_task(self.recipe.task)
        if self._filesystem.get_file_info(self._path).type == fs.FileType.File:
            raise InputError("shards", f"{self.location}, which is a file", "name a folder")
        source, path = open_filesystem(corpus.location)
        if source == self._filesystem and f"{self._path}/".startswith(f"{path.rstrip('/')}/"):
            remedy = "name a folder outside: its shards would be read as documents"
            raise InputError("shards", f"{self.location}, inside the corpus", remedy)
        kept = dimensions if self.recipe.dimensions is None else self.recipe.dimensions
        if not 1 <= kept <= dimensions:
            raise InputError("dimensions", str(kept), f"use 1 to {dimensions}")
        # The location may change, as when a bucket is mounted elsewhere; the files in it may not.
        wanted = Manifest(
            model=model,
            task=self.recipe.task,
            normalize=self.recipe.normalize,
            dimensions=kept,
            dtype=self.recipe.dtype,
            text_columns=corpus.text_columns,
            id_column=corpus.id_column,
            rows_per_shard=rows_per_shard,
            files=dict(files),
        )
        found = self.manifest()
        known = set() if found is None else {file_digest(file) for file in found.files}
        if unknown := self._begun_files() - known:
            received = f"{self.location}, where {MANIFEST} lacks the files of {len(unknown)} shards"
            raise InputError("shards", received, "name another folder")
        if found is not None and found.files:
            if difference := found.difference(wanted, RULES):
                rule, was, now = difference
                raise InputError(
                    "shards",
                    f"{self.location}, made with {rule} {was}, for {now}",
                    "go on as it was made, or name another folder",
                )
            wanted = replace(wanted, files=found.with_files(wanted.files).files)
        self._remove_leftovers()
        wanted.write(self._filesystem, f"{self._path}/{MANIFEST}")

    def manifest(self) -> Manifest | None:
        """The folder's manifest, or None.

        It lists only files that have shards, because all others may still change.

        Raises:
            InputError: for a file that is not a manifest of this project.
        """
        manifest = Manifest.read(self._filesystem, f"{self._path}/{MANIFEST}")
        if manifest is None:
            return None
        begun = self._begun_files()
        files = {
            name: value for name, value in manifest.files.items() if file_digest(name) in begun
        }
        return replace(manifest, files=files)

    def shard_names(self) -> list[str]:
        """Names of the finished shards, in order."""
        found = self._filesystem.get_file_info(fs.FileSelector(self._path, allow_not_found=True))
        return sorted(
            item.base_name for item in found if item.size and re.fullmatch(SHARD, item.base_name)
        )

    def unfinished(self, units: Iterable[Unit]) -> list[Unit]:
        """The units that have no shard yet."""
        there = {name.removesuffix(".parquet") for name in self.shard_names()}
        return [unit for unit in units if unit.name not in there]

    def holds(self, unit: Unit) -> bool:
        """Whether the unit has its shard."""
        return self._is_file(f"{unit.name}.parquet")

    def num_dead_letters(self) -> int:
        """The number of dead letters, of all runs."""
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
        """Write the unit's dead letters, then its shard: a unit that has its shard is done.

        Args:
            unit: the unit that was computed.
            documents: its documents.
            vectors: float32 `[num_documents, dimensions]`; a document whose vector holds a number
                too large for the stored dtype becomes a dead letter here.
            dead: the unit's other rows.

        Returns:
            how many documents are in the shard, and how many dead letters beside it.
        """
        recipe = self.recipe
        kept = finish(vectors, recipe.dimensions, normalize=recipe.normalize)
        with np.errstate(over="ignore"):
            stored = kept.astype(recipe.dtype)
        fits = ~np.isinf(stored).any(axis=1)
        alive = [documents[i] for i in np.flatnonzero(fits)]
        reason = f"its vector holds a number too large for {recipe.dtype}; store float32"
        letters = [*dead, *(DeadLetter(documents[i].id, reason) for i in np.flatnonzero(~fits))]
        name = f"{DEAD_LETTERS}/{unit.name}.jsonl"
        if letters:
            lines = [json.dumps(asdict(letter), ensure_ascii=False) + "\n" for letter in letters]
            self._put(name, "".join(lines).encode())
        elif self._is_file(name):  # of a run that was killed before its shard
            self._filesystem.delete_file(f"{self._path}/{name}")
        self._put(f"{unit.name}.parquet", _as_parquet(alive, stored[fits]))
        return len(alive), len(letters)

    def _is_file(self, name: str) -> bool:
        info = self._filesystem.get_file_info(f"{self._path}/{name}")
        return bool(info.type == fs.FileType.File and info.size > 0)

    def _remove_leftovers(self) -> None:
        """Delete the temporary files of a killed run."""
        for folder in (self._path, f"{self._path}/{DEAD_LETTERS}"):
            files = fs.FileSelector(folder, allow_not_found=True)
            for item in self._filesystem.get_file_info(files):
                if item.type == fs.FileType.File and re.fullmatch(ASIDE, item.base_name):
                    self._filesystem.delete_file(item.path)

    def _begun_files(self) -> set[str]:
        """Digests of the files that have shards, as `file_digest` gives them."""
        return {name.rsplit("-", 2)[1] for name in self.shard_names()}

    def _put(self, name: str, content: bytes) -> None:
        write_whole(self._filesystem, f"{self._path}/{name}", content)


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
