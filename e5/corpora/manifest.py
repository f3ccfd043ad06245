"""The manifest of a folder of vectors: which model, rules and files the vectors were made from.

It is a JSON file beside the shards, and beside an index made of them. Vectors are added to others
only if the manifests agree.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields

from pyarrow import fs

from e5.corpora.filesystem import read_file, write_whole
from e5.corpora.shard import Dtype
from e5.errors import InputError

# Rules that must be equal for vectors to be comparable, and for rows to have the same columns.
VECTOR_RULES = ("model", "task", "dimensions", "dtype")
ROW_RULES = ("text_columns", "id_column", "keep", "passages", "overlap")

RELEASE_1_NUMBER = "halffloat"  # of the manifests of release 1, which do not have `number`


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """The model, rules and files that vectors were made from."""

    model: str  # name and fingerprint, as `Embedder.name` gives it
    task: str  # "" for no prompt; otherwise every text carries the prompt of this task
    normalize: bool  # whether vectors were L2-normalised
    dimensions: int  # of a vector before it is stored
    dtype: Dtype  # that its elements were rounded to
    text_columns: tuple[str, ...]  # that were joined to a document's text
    id_column: str | None  # None if rows are numbered
    # The Arrow type of a stored element; the name is that of the file format.
    number: str = RELEASE_1_NUMBER
    keep: Mapping[str, str] = field(default_factory=dict)  # the kept columns' Arrow types
    passages: int | None = None  # the most tokens of a passage; None if documents are not split
    overlap: int = 0  # the most tokens that two passages share
    # Identities of the corpus's files (`Corpus.files`) and of the shards at the end of a run, else
    # none. An index's manifest has no files, and the shards that the index holds.
    files: Mapping[str, str] = field(default_factory=dict)
    shards: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def read(cls, filesystem: fs.FileSystem, path: str) -> "Manifest | None":
        """The manifest in a file, or None; an InputError for a manifest of another project."""
        if (content := read_file(filesystem, path)) is None:
            return None
        try:
            raw = json.loads(content)
            known = {item.name: raw[item.name] for item in fields(cls) if item.name in raw}
            for name in ("files", "shards", "keep"):
                known[name] = dict(known.get(name, {}))
            return cls(**known | {"text_columns": tuple(raw["text_columns"])})
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            received = "a manifest that is not of this project"
            raise InputError(path, received, "name another folder") from error

    def write(self, filesystem: fs.FileSystem, path: str) -> None:
        """Write the file whole; replaces an older one."""
        content = json.dumps(asdict(self), indent=1, ensure_ascii=False)
        write_whole(filesystem, path, content.encode())

    @property
    def fingerprint(self) -> str:
        """The model's fingerprint; the folder's name in `model` may differ."""
        return fingerprint_of(self.model)

    def difference(self, other: "Manifest", rules: Sequence[str]) -> tuple[str, str, str] | None:
        """The first of some rules in which two manifests differ, and both values as text, or None.

        Models are compared by their fingerprints.
        """
        ours, theirs = (json.loads(json.dumps(asdict(manifest))) for manifest in (self, other))
        for rule in rules:
            is_same_model = rule == "model" and self.fingerprint == other.fingerprint
            if ours[rule] != theirs[rule] and not is_same_model:
                return rule, repr(ours[rule]), repr(theirs[rule])
        return None


def fingerprint_of(model: str) -> str:
    """The fingerprint in a model's name: `3f61f8` in `e5-mini@3f61f8`."""
    return model.rpartition("@")[2]
