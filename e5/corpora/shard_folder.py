"""A folder of shards: Parquet files, and files whose names begin with `_`, which readers skip.

A shard exists either whole or not at all, and a document never moves to another shard: so whoever
reads the folder, at whatever time, finds each document once, as it was or as it is.
"""

import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property

import pyarrow as pa
from pyarrow import fs
from tqdm import tqdm

from e5.corpora.column_types import ARROW_TYPES, NAMED_TYPES
from e5.corpora.corpus import Corpus
from e5.corpora.documents import DeadLetter, PassageSize
from e5.corpora.filesystem import TEMPORARY_NAME, join_location, open_filesystem, write_whole
from e5.corpora.inventory import Inventory, InventoryBuilder
from e5.corpora.manifest import RELEASE_1_NUMBER, ROW_RULES, VECTOR_RULES, Manifest
from e5.corpora.shard import (
    PASSAGE_COLUMNS,
    Dtype,
    Shard,
    open_shard,
    read_entries,
    shard_name,
    shard_number,
    shard_schema,
    stored_value_type,
)
from e5.errors import InputError
from e5.texts import check_task

SHARD_MANIFEST = "_manifest.json"
DEAD_LETTERS = "_dead-letters"
BACKUPS = "_replaced"  # shards whose vectors are needed until the end of a run
RELEASE_1_MANIFEST = "manifest.json"
RELEASE_1_SHARD = re.compile(r"[A-Za-z0-9-]*-[0-9a-f]{16}-\d{12}\.parquet")


@dataclass(frozen=True)
class Recipe:
    """How documents become stored vectors, apart from the model.

    Attributes:
        task: "" adds no prompt; otherwise every text carries the prompt of this task.
        normalize: L2-normalise the vectors.
        dimensions: keep the first n; None keeps all.
        dtype: that the stored vectors are rounded to.
        passage_size: of the passages that documents are split into; None for whole documents.
    """

    task: str = ""
    normalize: bool = False
    dimensions: int | None = None
    dtype: Dtype = "float16"
    passage_size: PassageSize | None = None


class ShardFolder:
    """A folder of shards, their dead letters and the manifest.

    The methods that write raise an OSError if the folder cannot be written.

    Attributes:
        location: a path or a URI.
        recipe: how new vectors are made.
    """

    def __init__(self, location: str, recipe: Recipe | None = None) -> None:
        self.location = location
        self.recipe = recipe or Recipe()
        self._filesystem, self._path = open_filesystem(location)

    def check(self, model: str, dimensions: int, corpus: Corpus) -> Manifest:
        """The manifest that this recipe makes with a model; the kept columns have no types yet.

        `model` is its name with fingerprint, `dimensions` are those of its whole vectors.

        Raises:
            InputError: for an invalid task or number of dimensions, or a kept column with the name
                of one that passages have; if the folder lies inside the corpus, was made by
                release 1, another model or other rules, or holds Parquet files of another program.
        """
        recipe = self.recipe
        check_task(recipe.task)
        if recipe.passage_size and (
            taken := [name for name in corpus.keep if name in PASSAGE_COLUMNS]
        ):
            remedy = f"rename it: passages have {', '.join(PASSAGE_COLUMNS)} of their own"
            raise InputError("keep", repr(taken[0]), remedy)
        if self._filesystem.get_file_info(self._path).type == fs.FileType.File:
            raise InputError("shards", f"{self.location}, which is a file", "name a folder")
        source, path = open_filesystem(corpus.location)
        inner, outer = (os.path.realpath(folder).rstrip("/") for folder in (self._path, path))
        if source == self._filesystem and f"{inner}/".startswith(f"{outer}/"):
            remedy = "name a folder outside: its shards would be read as documents"
            raise InputError("shards", f"{self.location}, inside the corpus", remedy)
        kept = dimensions if recipe.dimensions is None else recipe.dimensions
        if not 1 <= kept <= dimensions:
            raise InputError("dimensions", str(kept), f"use 1 to {dimensions}")
        if recipe.dtype == "binary" and kept % 8:
            raise InputError("dimensions", str(kept), "use a multiple of 8 for one bit each")
        wanted = Manifest(
            model=model,
            task=recipe.task,
            normalize=recipe.normalize,
            dimensions=kept,
            dtype=recipe.dtype,
            text_columns=corpus.text_columns,
            id_column=corpus.id_column,
            number=str(stored_value_type(recipe.dtype)),
            keep=dict.fromkeys(corpus.keep, "null"),
            passages=recipe.passage_size.tokens if recipe.passage_size else None,
            overlap=recipe.passage_size.overlap if recipe.passage_size else 0,
        )
        found, shards = self.manifest(), self.shard_names()
        names = (item.base_name for item in self._files("") if item.extension == "parquet")
        foreign = [name for name in names if name[0] not in "._" and not _is_shard(name)]
        if found is None:
            foreign += shards
        if foreign:
            received = f"{self.location}, which holds {min(foreign)} that this project did not make"
            raise InputError("shards", received, "name another folder")
        if found is None:
            return wanted
        if found.number == RELEASE_1_NUMBER or any(map(RELEASE_1_SHARD.fullmatch, shards)):
            raise self._of_release_1()
        if not shards:
            return wanted
        untyped = replace(found, keep=dict.fromkeys(found.keep, "null"))
        if difference := untyped.difference(wanted, (*VECTOR_RULES, "normalize", *ROW_RULES)):
            rule, was, now = difference
            if rule == "keep":
                was, now = repr(list(found.keep)), repr(list(wanted.keep))
            reuse = " and give this one as --reuse" if rule in ROW_RULES else ""
            remedy = f"use what it was made with, or name another folder{reuse}"
            received = f"{self.location}, made with {rule} {was}, not {now}"
            raise InputError("shards", received, remedy)
        for column, name in corpus.named_types.items():
            if (kept_as := found.keep[column]) != str(NAMED_TYPES[name]):
                received = f"'{column}:{name}'; {self.location} has {kept_as}"
                remedy = "name another folder, and give this one as --reuse"
                raise InputError("keep", received, remedy)
        return replace(found, model=model)

    def begin(self, manifest: Manifest) -> None:
        """Write the manifest, and delete the temporary files of a killed run."""
        unfinished = replace(manifest, files={}, shards={})
        unfinished.write(self._filesystem, f"{self._path}/{SHARD_MANIFEST}")
        for folder in ("", f"/{DEAD_LETTERS}"):
            for item in self._files(folder):
                if re.fullmatch(TEMPORARY_NAME, item.base_name):
                    self._filesystem.delete_file(item.path)

    def end(self, manifest: Manifest, files: Mapping[str, str]) -> None:
        """Write into the manifest that the folder has these files' documents and no others."""
        done = replace(manifest, files=dict(files), shards=self.shards())
        done.write(self._filesystem, f"{self._path}/{SHARD_MANIFEST}")
        for item in self._files(f"/{BACKUPS}"):
            self._filesystem.delete_file(item.path)

    def manifest(self) -> Manifest | None:
        """The folder's manifest, also one of release 1, or None; an InputError for any other."""
        paths = (f"{self._path}/{name}" for name in (SHARD_MANIFEST, RELEASE_1_MANIFEST))
        found = (Manifest.read(self._filesystem, path) for path in paths)
        return next((manifest for manifest in found if manifest is not None), None)

    @cached_property
    def schema(self) -> pa.Schema:
        """The schema of the shards, by the manifest that `begin` wrote."""
        found = self.manifest()
        assert found is not None
        kept = {name: ARROW_TYPES[kind] for name, kind in found.keep.items()}
        has_passages = found.passages is not None
        return shard_schema(found.dtype, found.dimensions, kept, has_passages=has_passages)

    def shard_names(self) -> list[str]:
        """Names of the shards, in order."""
        return sorted(self.shards())

    def shards(self) -> dict[str, str]:
        """Identities of the shards by their names; a shard that is written again has another."""
        return {
            item.base_name: f"{item.size}-{item.mtime_ns}"
            for item in self._files("")
            if item.size and _is_shard(item.base_name)
        }

    def inventory(self, *, allow_release_1: bool = False) -> Inventory:
        """The documents of all shards, as hashes; an InputError if a shard cannot be read.

        The rows of shards that release 1 made are read for it, if they are allowed.
        """
        found = InventoryBuilder()
        for name in tqdm(self.shard_names(), "reading shards", unit="shard", delay=2, disable=None):
            with open_shard(self._filesystem, f"{self._path}/{name}") as opened:
                entries, are_in_footer = read_entries(opened)
            if not (are_in_footer or allow_release_1):
                raise self._of_release_1()
            found.begin(name)
            found.add_all(*(entries[field] for field in ("id", "content", "text", "size")))
        return found.build()

    def backups(self) -> "ShardFolder":
        """The folder of the shards that `back_up` copied."""
        return ShardFolder(join_location(self.location, BACKUPS), self.recipe)

    def back_up(self, names: Iterable[str]) -> dict[str, str]:
        """Copy shards to `backups()` until `end`; returns each copy's name, by the shard's."""
        numbers = [shard_number(name) for name in self.backups().shard_names()]
        first = 1 + max((number for number in numbers if number is not None), default=-1)
        copies = {name: f"{shard_name(i)}.replaced" for i, name in enumerate(names, first)}
        for name, copy in copies.items():
            with self._filesystem.open_input_stream(f"{self._path}/{name}") as file:
                content = file.read()
            write_whole(self._filesystem, f"{self._path}/{BACKUPS}/{copy}", content)
        return copies

    def read(self, name: str) -> Shard | None:
        """A shard, or None; an InputError for one that cannot be read."""
        path = f"{self._path}/{name}"
        info = self._filesystem.get_file_info(path)
        if info.type != fs.FileType.File or not info.size:
            return None
        return Shard.read(self._filesystem, path)

    def write(self, name: str, shard: Shard, dead_letters: Sequence[DeadLetter]) -> None:
        """Write a shard's dead letters, then the shard; delete a shard without documents."""
        self.write_dead_letters(name.removesuffix(".parquet"), dead_letters)
        if len(shard.entries):
            write_whole(self._filesystem, f"{self._path}/{name}", shard.as_parquet())
        else:
            self._delete(name)

    def write_dead_letters(self, name: str, dead_letters: Sequence[DeadLetter]) -> None:
        """Write the dead letters of a file or a shard; none deletes those of an earlier run."""
        if dead_letters:
            content = "".join(json.dumps(asdict(letter)) + "\n" for letter in dead_letters)
            path = f"{self._path}/{DEAD_LETTERS}/{name}.jsonl"
            write_whole(self._filesystem, path, content.encode())
        else:
            self._delete(f"{DEAD_LETTERS}/{name}.jsonl")

    def delete_dead_letters(self, except_for: Iterable[str]) -> None:
        """Delete all dead letters but those of these files and shards."""
        kept = {f"{name}.jsonl" for name in except_for}
        for file in self._files(f"/{DEAD_LETTERS}"):
            if file.base_name not in kept:
                self._filesystem.delete_file(file.path)

    def num_dead_letters(self) -> int:
        """The number of dead letters."""
        count = 0
        for item in self._files(f"/{DEAD_LETTERS}"):
            if item.extension == "jsonl":
                with self._filesystem.open_input_stream(item.path) as file:
                    count += file.read().count(b"\n")
        return count

    def _files(self, folder: str) -> list[fs.FileInfo]:
        selector = fs.FileSelector(f"{self._path}{folder}", allow_not_found=True)
        found = self._filesystem.get_file_info(selector)
        return [item for item in found if item.type == fs.FileType.File]

    def _delete(self, name: str) -> None:
        path = f"{self._path}/{name}"
        if self._filesystem.get_file_info(path).type == fs.FileType.File:
            self._filesystem.delete_file(path)

    def _of_release_1(self) -> InputError:
        received = f"{self.location}, which release 1 made and later releases do not continue"
        return InputError("shards", received, "name another folder, and give this one as --reuse")


def _is_shard(name: str) -> bool:
    return shard_number(name) is not None or RELEASE_1_SHARD.fullmatch(name) is not None
