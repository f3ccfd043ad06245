"""A folder of shards: Parquet files, and beside them what readers skip because of its `_`.

A shard exists either whole or not at all, and a document never moves to another one: so whoever
reads the folder, at whatever time, finds each document once, as it was or as it is. Knows nothing
of how vectors are computed.
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

from e5.corpora.column_types import type_from_name
from e5.corpora.corpus import Corpus
from e5.corpora.documents import DeadLetter
from e5.corpora.filesystem import TEMPORARY_NAME, join_location, open_filesystem, write_whole
from e5.corpora.inventory import Inventory, InventoryBuilder
from e5.corpora.manifest import ROW_RULES, VECTOR_RULES, Manifest
from e5.corpora.passages import PassageSize
from e5.corpora.shard import (
    Layout,
    Shard,
    read_entries,
    shard_name,
    shard_number,
    stored_value_type,
)
from e5.corpora.vector_encoding import Dtype
from e5.errors import InputError
from e5.texts import check_task

MANIFEST, OLD_MANIFEST = "_manifest.json", "manifest.json"
DEAD_LETTERS, OLD_DEAD_LETTERS = "_dead-letters", "dead-letters"
NOTHING = fs.FileType.NotFound
REPLACED = "_replaced"  # shards whose vectors are needed until the end of a run
OLD_SHARD = re.compile(r"[A-Za-z0-9-]*-[0-9a-f]{16}-\d{12}\.parquet")  # of release 1
FOLDER_RULES = (*VECTOR_RULES, "normalize", *ROW_RULES)


@dataclass(frozen=True)
class Recipe:
    """How documents become stored vectors, apart from the model.

    Attributes:
        task: "" adds no prompt; otherwise every text carries the prompt of this task.
        normalize: L2-normalise the vectors.
        dimensions: keep the first n; None keeps all.
        dtype: that the stored numbers are rounded to.
        passage_size: of the passages that documents are split into; None for whole documents.
    """

    task: str = ""
    normalize: bool = False
    dimensions: int | None = None
    dtype: Dtype = "float16"
    passage_size: PassageSize | None = None


class ShardFolder:
    """A folder of shards, their dead letters and the manifest.

    Attributes:
        location: a path or a URI.
        recipe: how new vectors are made.
    """

    def __init__(self, location: str, recipe: Recipe | None = None) -> None:
        """Set the location; nothing is read or written yet."""
        self.location = location
        self.recipe = recipe or Recipe()
        self._filesystem, self._path = open_filesystem(location)

    def check(self, model: str, dimensions: int, corpus: Corpus) -> Manifest:
        """The manifest that this recipe makes; `keep` has no types yet.

        Args:
            model: name and fingerprint of the model that will compute.
            dimensions: of its whole vectors.
            corpus: what will be read.

        Raises:
            InputError: for an invalid task or number of dimensions; if the folder lies inside the
                corpus, was made by another model or other rules, or holds Parquet files of others.
        """
        recipe = self.recipe
        check_task(recipe.task)
        if self._filesystem.get_file_info(self._path).type == fs.FileType.File:
            raise InputError("shards", f"{self.location}, which is a file", "name a folder")
        source, path = open_filesystem(corpus.location)
        inner, outer = (os.path.realpath(place).rstrip("/") for place in (self._path, path))
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
        found = self.manifest()
        foreign = [name for name in self._parquet_files() if not _is_shard(name)]
        if found is None:
            foreign += self.shard_names()
        if foreign:
            received = f"{self.location}, which holds {foreign[0]} that this project did not make"
            raise InputError("shards", received, "name another folder")
        if found is None or not self.shard_names():
            return wanted
        untyped = replace(found, keep=dict.fromkeys(found.keep, "null"))
        if difference := untyped.difference(wanted, FOLDER_RULES):
            rule, was, now = difference
            remedy = "go on as it was made, or name another folder and give this one as --reuse"
            received = f"{self.location}, made with {rule} {was}, for {now}"
            raise InputError("shards", received, remedy)
        return replace(found, model=model)

    def begin(self, manifest: Manifest) -> None:
        """Write the manifest, and clear away what a killed run or an older version left.

        Raises:
            OSError: if the folder cannot be written.
        """
        unfinished = replace(manifest, files={}, shards={})
        unfinished.write(self._filesystem, f"{self._path}/{MANIFEST}")
        for folder in ("", f"/{DEAD_LETTERS}"):
            for item in self._files(folder):
                if re.fullmatch(TEMPORARY_NAME, item.base_name):
                    self._filesystem.delete_file(item.path)
        if self._is_file(OLD_MANIFEST):
            for name in (OLD_DEAD_LETTERS, "attempts"):
                if self._filesystem.get_file_info(f"{self._path}/{name}").type != NOTHING:
                    self._filesystem.delete_dir(f"{self._path}/{name}")
            self._delete(OLD_MANIFEST)

    def end(self, manifest: Manifest, files: Mapping[str, str]) -> None:
        """Note that the folder has the documents of these files, and nothing else.

        Raises:
            OSError: if the folder cannot be written.
        """
        done = replace(manifest, files=dict(files), shards=self.shards())
        done.write(self._filesystem, f"{self._path}/{MANIFEST}")
        for item in self._files(f"/{REPLACED}"):
            self._filesystem.delete_file(item.path)

    def manifest(self) -> Manifest | None:
        """The folder's manifest, or None.

        Raises:
            InputError: for a file that is not a manifest of this project.
        """
        found = Manifest.read(self._filesystem, f"{self._path}/{MANIFEST}")
        if found is None:
            found = Manifest.read(self._filesystem, f"{self._path}/{OLD_MANIFEST}")
            return found and replace(found, files={})
        return found

    @cached_property
    def layout(self) -> Layout:
        """The columns of the shards, by the manifest that `begin` wrote."""
        manifest = self.manifest()
        assert manifest is not None
        kinds = (pa.float16(), pa.float32(), pa.int8(), pa.uint8())
        number = {str(kind): kind for kind in kinds}[manifest.number]
        width = manifest.dimensions // 8 if manifest.dtype == "binary" else manifest.dimensions
        kept = {name: type_from_name(kind) for name, kind in manifest.keep.items()}
        return Layout(width, number, kept, manifest.passages is not None)

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

    def inventory(self) -> Inventory:
        """The documents of all shards, as hashes.

        Raises:
            InputError: for a shard that cannot be read.
        """
        stock = InventoryBuilder()
        for name in tqdm(self.shard_names(), "reading shards", unit="shard", delay=2, disable=None):
            listing = read_entries(self._filesystem, f"{self._path}/{name}")
            stock.begin(name)
            stock.add_all(listing["id"], listing["content"], listing["text"], listing["size"])
        return stock.build()

    def backups(self) -> "ShardFolder":
        """What `back_up` keeps."""
        return ShardFolder(join_location(self.location, REPLACED), self.recipe)

    def back_up(self, names: Iterable[str]) -> dict[str, str]:
        """Keep these shards until `end`, whatever becomes of them; returns their new names.

        Raises:
            OSError: if the folder cannot be written.
        """
        used = (shard_number(name) for name in self.backups().shard_names())
        first = 1 + max((number for number in used if number is not None), default=-1)
        aside = {name: f"{shard_name(i)}.replaced" for i, name in enumerate(names, first)}
        for name, new_name in aside.items():
            with self._filesystem.open_input_stream(f"{self._path}/{name}") as file:
                content = file.read()
            write_whole(self._filesystem, f"{self._path}/{REPLACED}/{new_name}", content)
        return aside

    def read(self, name: str) -> Shard | None:
        """A shard; None if there is none of that name.

        Raises:
            InputError: for a shard that cannot be read.
        """
        path = f"{self._path}/{name}"
        info = self._filesystem.get_file_info(path)
        if info.type != fs.FileType.File or not info.size:
            return None
        return Shard.read(self._filesystem, path)

    def write(self, name: str, shard: Shard, letters: Sequence[DeadLetter]) -> None:
        """Write a shard's dead letters, then the shard; an OSError if that cannot be done.

        A shard without documents is deleted.
        """
        self.write_dead_letters(name.removesuffix(".parquet"), letters)
        if len(shard.entries):
            write_whole(self._filesystem, f"{self._path}/{name}", shard.as_parquet())
        else:
            self._delete(name)

    def write_dead_letters(self, name: str, letters: Sequence[DeadLetter]) -> None:
        """The dead letters of a file or a shard; none deletes those of an earlier run."""
        if letters:
            lines = [json.dumps(asdict(letter)) + "\n" for letter in letters]
            content = "".join(lines).encode()
            write_whole(self._filesystem, f"{self._path}/{DEAD_LETTERS}/{name}.jsonl", content)
        else:
            self._delete(f"{DEAD_LETTERS}/{name}.jsonl")

    def delete_dead_letters(self, except_for: Iterable[str]) -> None:
        """Delete all dead letters but those of these names."""
        kept = {f"{name}.jsonl" for name in except_for}
        others = [f for f in self._files(f"/{DEAD_LETTERS}") if f.base_name not in kept]
        for file in others:
            self._filesystem.delete_file(file.path)

    def num_dead_letters(self) -> int:
        """The number of dead letters."""
        count = 0
        for item in self._files(f"/{DEAD_LETTERS}"):
            if item.extension == "jsonl":
                with self._filesystem.open_input_stream(item.path) as file:
                    count += file.read().count(b"\n")
        return count

    def _parquet_files(self) -> list[str]:
        return sorted(
            item.base_name
            for item in self._files("")
            if item.extension == "parquet" and item.base_name[0] not in "._"
        )

    def _files(self, folder: str) -> list[fs.FileInfo]:
        selector = fs.FileSelector(f"{self._path}{folder}", allow_not_found=True)
        found = self._filesystem.get_file_info(selector)
        return [item for item in found if item.type == fs.FileType.File]

    def _is_file(self, name: str) -> bool:
        found = self._filesystem.get_file_info(f"{self._path}/{name}")
        return bool(found.type == fs.FileType.File)

    def _delete(self, name: str) -> None:
        if self._is_file(name):
            self._filesystem.delete_file(f"{self._path}/{name}")


def _is_shard(name: str) -> bool:
    return shard_number(name) is not None or OLD_SHARD.fullmatch(name) is not None
