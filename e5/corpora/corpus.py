"""A corpus: files of any size, anywhere that pyarrow or fsspec can read -> documents, as a stream.

Reading can begin at the position of any row, and gives the same documents from wherever it begins.
"""

import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

from pyarrow import fs

from e5.corpora.column_types import NAMED_TYPES, FolderText, UntypedText, as_named
from e5.corpora.documents import DeadLetter, Document, Unkept
from e5.corpora.filesystem import errors_naming, open_filesystem
from e5.corpora.formats import (
    START,
    Reader,
    ReadPosition,
    TextFormat,
    holds_text,
    open_reader,
)
from e5.corpora.kept_column import not_kept
from e5.corpora.listing import corpus_files
from e5.corpora.partitions import partition_columns
from e5.errors import InputError
from e5.texts import check_text, check_unicode

RESERVED = ("id", "text", "embedding", "embedding.list.element", "score")
NESTED = (dict, list)
OTHER_BYTES = re.compile("[\udc80-\udcff]")  # how readers decode bytes that are not UTF-8
HASHED_BYTES = 2**16  # of a file's start, and of its end, that are hashed to detect a change


class ReadRow(NamedTuple):
    """A row that is not a blank line, and where it begins."""

    start: ReadPosition
    item: Document | DeadLetter


@dataclass(frozen=True)
class Corpus:
    """Where documents are and which columns hold them.

    Attributes:
        location: a file or a folder; a path or a URI.
        text_columns: joined with a space, as the model's authors join title and text.
        id_column: None makes ids from row numbers: `file:row`.
        keep: the kept columns, which are copied into the shards and the index.
        text_format: how CSV, TSV and JSON are written.
        named_types: the types of some kept columns: `text` (lists and objects as JSON), `integer`,
            `number`, `boolean` or `date`. A value that its type does not hold is kept as null.
    """

    location: str
    text_columns: tuple[str, ...] = ("text",)
    id_column: str | None = None
    keep: tuple[str, ...] = ()
    text_format: TextFormat = field(default_factory=TextFormat)
    named_types: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse names that no column can have, or that mean something else in a shard."""
        for field_name, column in self.columns:
            check_unicode(column, field_name)
        reserved = [column for column in self.keep if column in RESERVED]
        if reserved:
            remedy = f"rename it: shards and hits have {', '.join(RESERVED)} of their own"
            raise InputError("keep", repr(reserved[0]), remedy)
        if len(set(self.keep)) < len(self.keep):
            raise InputError("keep", "a column twice", "name each column once")
        for column, name in self.named_types.items():
            if column not in self.keep or name not in NAMED_TYPES:
                remedy = f"name a kept column, and one of {', '.join(NAMED_TYPES)}"
                raise InputError("keep", repr(f"{column}:{name}"), remedy)

    @property
    def columns(self) -> list[tuple[str, str]]:
        """The columns that are read from each row: the attribute that names one, and its name."""
        ids = () if self.id_column is None else (self.id_column,)
        named = {"text_columns": self.text_columns, "id_column": ids, "keep": self.keep}
        return [(attribute, column) for attribute in named for column in named[attribute]]

    def files(self, *, quiet: bool = False) -> dict[str, str]:
        """Identities of the files, by path below `location`, in order; none for an empty folder.

        An identity is the size in bytes, the time of the last change, and a digest of the file's
        start and end, and of `text_format` unless it is the default: a file that is read otherwise
        may hold other documents. `corpus_files` says which files count, what is logged and what
        is raised.
        """
        filesystem, found = corpus_files(self.location, quiet=quiet)
        read_as = "" if self.text_format == TextFormat() else repr(self.text_format)
        with ThreadPoolExecutor() as pool:
            identities = pool.map(lambda info: _identity(filesystem, info, read_as), found.values())
            return dict(zip(found, identities, strict=True))

    def check(self, reader: Reader, file: str) -> dict[str, FolderText | None]:
        """Refuse a file that lacks a column, has it twice, or cannot hold text in it.

        Returns:
            The columns that are read and that only the file's folders have, with their values.
        """
        columns = reader.columns()
        lacking = {column for _, column in self.columns if column not in columns}
        partitions = partition_columns(file, lacking)
        for attribute, column in self.columns:
            if columns and column in lacking and column not in partitions:
                received = f"{column!r}, which {file} does not have"
                remedy = f"it has {', '.join(columns[:20])}"
                if attribute == "keep" and ":" in column:
                    remedy += f"; the types that can be named are {', '.join(NAMED_TYPES)}"
                raise InputError(attribute, received, remedy)
            if columns.count(column) > 1:
                received = f"{column!r}, which {file} has {columns.count(column)} times"
                raise InputError(attribute, received, "rename one of them")
            if attribute == "text_columns" and not holds_text(reader.types.get(column)):
                received = f"{column!r}, which holds {reader.types[column]} in {file}"
                raise InputError(attribute, received, "name a column of text")
        return partitions

    def document(
        self, row: Mapping[str, Any] | str, file_row: str, *, has_types: bool = True
    ) -> Document | DeadLetter:
        """A row as a document, or the reason why it is not one.

        Args:
            row: its values by column; or why it cannot be read.
            file_row: `file:row`, the id of a row without another one.
            has_types: False if the file's values are text that may stand for something else.

        Raises:
            InputError: for a kept value that is not a string, number, boolean, date or time.
        """
        if isinstance(row, str):
            return DeadLetter(file_row, row)
        name = file_row
        if self.id_column is not None:
            value = row.get(self.id_column)
            kinds = (bool, bytes, dict, list)
            if isinstance(value, Unkept):
                return DeadLetter(file_row, f"{self.id_column}: holds {value.reason}")
            if value is None or value == "" or value != value or isinstance(value, kinds):
                return DeadLetter(file_row, f"{self.id_column}: holds no id")
            name = str(value).encode(errors="replace").decode()
            if name != str(value):
                return DeadLetter(name, f"{self.id_column}: holds invalid Unicode")
        texts = []
        for column in self.text_columns:
            value = row.get(column)
            if isinstance(value, Unkept):
                return DeadLetter(name, f"{column}: holds {value.reason}")
            if value is not None and not isinstance(value, str):
                return DeadLetter(name, f"{column}: holds {type(value).__name__}, not text")
            texts.append(value or "")
        columns, joined = ", ".join(self.text_columns), " ".join(texts).strip()
        if other_bytes := OTHER_BYTES.search(joined):
            reason = f"not UTF-8 (character {other_bytes.start()})"
            remedy = "if the file has another encoding, name it by --encoding"
            return DeadLetter(name, f"{columns}: {reason}; {remedy}")
        try:
            text = check_text(joined, columns)
        except InputError as error:
            return DeadLetter(name, f"{columns}: {error.received}")
        kept = (self._kept(row.get(column), column, file_row, has_types) for column in self.keep)
        return Document(name, text, tuple(kept))

    def _kept(self, value: Any, column: str, file_row: str, has_types: bool) -> Any:
        if isinstance(value, str):
            try:
                value.encode()
            except UnicodeEncodeError:
                return Unkept("text that is not valid Unicode")
            if not (has_types or isinstance(value, UntypedText)):
                value = UntypedText(value)
        if column in self.named_types:
            return as_named(value, self.named_types[column])
        if isinstance(value, NESTED):
            raise not_kept(column, f"a {type(value).__name__} in {file_row}", is_nested=True)
        return value


class Reading(ExitStack):
    """Reads rows of a corpus, file by file, each time from a position on, within a `with`.

    The file stays open, and the next reading continues where the last one ended if it can: a
    compressed file can be read only from its start.
    """

    _file: str | None = None
    _reader: Reader
    _partitions: dict[str, FolderText | None]  # columns that the file's folders have
    _rows: Iterator[ReadRow]
    _next_row = -1  # that `_rows` gives; -1 before the first reading of a file

    def __init__(self, corpus: Corpus) -> None:
        super().__init__()
        self._corpus = corpus

    def open(self, file: str) -> Reader:
        """The file's reader; an InputError if it cannot be read, or lacks a column.

        A JSON file lacks a column that none of its first thousand rows has.
        """
        if file != self._file:
            self.close()
            self._file, corpus = None, self._corpus
            columns = list(dict.fromkeys(column for _, column in corpus.columns))
            filesystem, path = open_filesystem(corpus.location)
            with errors_naming(file):
                if filesystem.get_file_info(path).type == fs.FileType.Directory:
                    path = f"{path}/{file}"
                opened = open_reader(filesystem, path, corpus.text_format, columns)
                self._reader = self.enter_context(opened)
                self._partitions = corpus.check(self._reader, file)
            self._file, self._next_row = file, -1
        return self._reader

    def rows(self, file: str, start: ReadPosition = START, first: int = 0) -> Iterator[ReadRow]:
        """The file's rows, without blank lines, from number `first` on; errors as of `open`.

        `file` is a path below the corpus's location. Reading may begin at `start`, which is not
        after `first`.
        """
        reader, next_row = self.open(file), self._next_row
        if not 0 <= next_row <= first or (reader.seeks and next_row < start.row):
            self._rows, self._next_row = self._read_rows(reader, file, start), start.row
        for row in self._rows:
            self._next_row = row.start.row + 1
            if row.start.row >= first:
                yield row

    def selected_rows(
        self, file: str, start: ReadPosition, row_numbers: Sequence[int]
    ) -> Iterator[ReadRow]:
        """The rows of these ascending numbers, without blank lines; otherwise as `rows`."""
        wanted, last = set(row_numbers), row_numbers[-1]
        for row in self.rows(file, start, row_numbers[0]):
            if row.start.row in wanted:
                yield row
            if row.start.row >= last:
                return

    def _read_rows(self, reader: Reader, file: str, start: ReadPosition) -> Iterator[ReadRow]:
        document = partial(self._corpus.document, has_types=reader.has_types)
        partitions = self._partitions
        with errors_naming(file):
            for number, (offset, row) in enumerate(reader.rows(start), start.row):
                if row is not None:
                    if partitions and isinstance(row, Mapping):
                        row = {**partitions, **row}
                    item = document(row, f"{file}:{number}")
                    yield ReadRow(ReadPosition(number, offset), item)


def _identity(filesystem: fs.FileSystem, info: fs.FileInfo, read_as: str) -> str:
    with errors_naming(info.base_name), filesystem.open_input_file(info.path) as file:
        content = file.read(HASHED_BYTES)
        file.seek(max(0, info.size - HASHED_BYTES))
        content += file.read(HASHED_BYTES)
    changed = info.mtime_ns if info.mtime_ns is not None else ""
    digest = hashlib.sha256(content + read_as.encode()).hexdigest()[:16]
    return f"{info.size}-{changed}-{digest}"
