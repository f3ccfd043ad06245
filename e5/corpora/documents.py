"""A row of any file -> a document with its id, text and kept values; or a dead letter."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from e5.corpora.column_types import UntypedText
from e5.errors import InputError
from e5.texts import check_text, check_unicode

RESERVED = ("id", "text", "embedding", "shard", "document", "start", "end", "score", "_distance")
NOT_KEPT = (dict, list, bytes, tuple, set)


@dataclass(frozen=True, slots=True)
class Document:
    """One row's id, text and values of kept columns.

    Attributes:
        id: unique in a corpus.
        text: what is embedded.
        kept: a value for each kept column; None where the row has none.
    """

    id: str
    text: str
    kept: tuple[Any, ...] = ()

    def hashes(self) -> tuple[int, int, int]:
        """Hashes of 64 bits: of the id, of all that the document has, and of the text."""
        text = _hash(self.text)
        return _hash(self.id), _hash(repr((self.id, text, self.kept))), text


@dataclass(frozen=True, slots=True)
class Passage:
    """A part of a document: `document.text[start:end]`."""

    text: str
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A row that got no vector, and why."""

    id: str
    reason: str


@dataclass(frozen=True)
class Columns:
    """Which columns of a row are read, and what for.

    Attributes:
        text: joined with a space, as the model's authors join title and text.
        id: None makes ids from row numbers: `file:row`.
        keep: the kept columns, which are copied into the shards and the index.
    """

    text: tuple[str, ...] = ("text",)
    id: str | None = None
    keep: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Refuse names that no column can have, or that mean something else in a shard."""
        for column in self.text:
            check_unicode(column, "text_columns")
        if self.id is not None:
            check_unicode(self.id, "id_column")
        for column in self.keep:
            check_unicode(column, "keep")
            if column in RESERVED:
                remedy = f"rename it: shards and indexes have {', '.join(RESERVED)} of their own"
                raise InputError("keep", repr(column), remedy)
        if len(set(self.keep)) < len(self.keep):
            raise InputError("keep", "a column twice", "name each column once")

    @property
    def all(self) -> list[str]:
        """Every column that is read."""
        return list(dict.fromkeys([*self.text, *([self.id] if self.id else []), *self.keep]))

    def document(
        self, row: Mapping[str, Any] | str, file_row: str, *, has_types: bool = True
    ) -> Document | DeadLetter:
        """A row as a document, or the reason why it is none.

        Args:
            row: its values by column; or why it cannot be read.
            file_row: `file:row`, the id of a row without another one.
            has_types: False if the file's values are text that may stand for something else.

        Raises:
            InputError: for a kept value that is no string, number, boolean, date or time.
        """
        if isinstance(row, str):
            return DeadLetter(file_row, row)
        name = file_row
        if self.id is not None:
            value = row.get(self.id)
            kinds = (bool, bytes, dict, list)
            if value is None or value == "" or value != value or isinstance(value, kinds):
                return DeadLetter(file_row, f"{self.id}: holds no id")
            name = str(value).encode(errors="replace").decode()
            if name != str(value):
                return DeadLetter(name, f"{self.id}: holds what is no valid Unicode")
        texts = []
        for column in self.text:
            value = row.get(column)
            if value is not None and not isinstance(value, str):
                return DeadLetter(name, f"{column}: holds {type(value).__name__}, not text")
            texts.append(value or "")
        columns = ", ".join(self.text)
        try:
            text = check_text(" ".join(texts).strip(), columns)
        except InputError as error:
            return DeadLetter(name, f"{columns}: {error.received}")
        kept = (_kept(row.get(column), column, file_row, has_types) for column in self.keep)
        return Document(name, text, tuple(kept))


def _kept(value: Any, column: str, file_row: str, has_types: bool) -> Any:
    if isinstance(value, NOT_KEPT):
        received = f"{column!r}, which holds a {type(value).__name__} in {file_row}"
        raise InputError("keep", received, "name columns of text, numbers, booleans or dates")
    if isinstance(value, str):
        value = value.encode(errors="replace").decode()
        return value if has_types else UntypedText(value)
    return value


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")
