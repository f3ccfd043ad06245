"""One shard as a Parquet file: documents and their stored vectors -> bytes, and back.

Beside the rows its footer has an entry for each document, with hashes, so that a shard can be
compared with a corpus without its rows being read.
"""

import base64
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from pyarrow import fs

from e5.corpora.column_types import as_column
from e5.corpora.documents import Document, Passage
from e5.corpora.filesystem import READ_ERRORS
from e5.corpora.vector_encoding import Dtype, StoredVectors
from e5.errors import InputError

VECTOR = "embedding"
FOOTER_KEY = b"e5.documents"
ENTRY = np.dtype([("id", "<u8"), ("content", "<u8"), ("text", "<u8"), ("size", "<u4")])
_NAME = re.compile(r"part-(\d{6,})\.parquet(\.replaced)?")

Entries = NDArray[np.void]  # of `ENTRY`, `[num_documents]`: hashes, and the number of rows


@dataclass(frozen=True)
class Layout:
    """The columns of a folder's shards.

    Attributes:
        width: number of elements of a stored vector.
        value_type: the Arrow type of an element.
        kept: the types of the kept columns.
        has_passages: whether rows are passages of documents.
    """

    width: int
    value_type: pa.DataType
    kept: dict[str, pa.DataType]
    has_passages: bool

    @property
    def schema(self) -> pa.Schema:
        """The schema of a shard's rows."""
        fields = [("id", pa.string())]
        if self.has_passages:
            fields += [("document", pa.string()), ("start", pa.int32()), ("end", pa.int32())]
        fields += [("text", pa.string()), *self.kept.items()]
        return pa.schema([*fields, (VECTOR, pa.list_(self.value_type, self.width))])


@dataclass(frozen=True)
class Shard:
    """Rows, and the documents that they belong to, in the same order.

    Attributes:
        table: one row for each vector.
        entries: one for each document.
    """

    table: pa.Table
    entries: Entries

    @classmethod
    def of(
        cls,
        documents: Sequence[Document],
        passages: Sequence[Sequence[Passage]],
        vectors: StoredVectors,
        layout: Layout,
    ) -> "Shard":
        """A new shard.

        Args:
            documents: all different.
            passages: of each document those that have a vector; one, the whole, where documents are
                not split.
            vectors: of all passages, `[num_rows, width]`.
            layout: of the folder.

        Raises:
            ValueError: for a kept value that the column's type cannot hold.
        """
        rows = [
            (document, number, passage)
            for document, parts in zip(documents, passages, strict=True)
            for number, passage in enumerate(parts)
        ]
        ids = [document.id for document, _, _ in rows]
        columns: list[Any] = [ids]
        if layout.has_passages:
            columns = [
                [f"{document.id}#{number}" for document, number, _ in rows],
                ids,
                [passage.start for _, _, passage in rows],
                [passage.end for _, _, passage in rows],
            ]
        columns.append([passage.text for _, _, passage in rows])
        for i, kind in enumerate(layout.kept.values()):
            columns.append(as_column((document.kept[i] for document, _, _ in rows), kind))
        elements = pa.array(vectors.ravel()).cast(layout.value_type)
        columns.append(pa.FixedSizeListArray.from_arrays(elements, layout.width))
        schema = layout.schema
        arrays = [pa.array(*typed) for typed in zip(columns, schema.types, strict=True)]
        sized = zip(documents, passages, strict=True)
        entries = [(*document.hashes(), len(parts)) for document, parts in sized]
        return cls(pa.Table.from_arrays(arrays, schema=schema), np.array(entries, ENTRY))

    @classmethod
    def read(cls, filesystem: fs.FileSystem, path: str) -> "Shard":
        """The shard in a file.

        Raises:
            InputError: for a file that is no shard.
        """
        try:
            with filesystem.open_input_file(path) as file:
                opened = pq.ParquetFile(file)
                table = opened.read()
                return cls(table.cast(_plain(table.schema)), _entries(opened)[0])
        except (*READ_ERRORS, KeyError, ValueError, AttributeError) as error:
            raise unreadable_shard(path, error) from error

    def select(self, is_selected: NDArray[np.bool_]) -> "Shard":
        """The shard with only the documents that are selected, `[num_documents]`."""
        rows = np.repeat(is_selected, self.entries["size"])
        return Shard(self.table.filter(pa.array(rows)), self.entries[is_selected])

    def __add__(self, other: "Shard") -> "Shard":
        """The documents of both."""
        tables = [self.table, other.table.cast(self.table.schema)]
        return Shard(pa.concat_tables(tables), np.concatenate([self.entries, other.entries]))

    def stored_vectors(self) -> StoredVectors:
        """The vectors of all rows, `[num_rows, width]`."""
        column = self.table[VECTOR].combine_chunks()
        elements = column.flatten().to_numpy(zero_copy_only=False)
        vectors: StoredVectors = elements.reshape(-1, column.type.list_size)
        return vectors

    def as_parquet(self) -> bytes:
        """The content of a file."""
        sink = pa.BufferOutputStream()
        is_float = pa.types.is_float32(self.table.schema.field(VECTOR).type.value_type)
        encoding = {f"{VECTOR}.list.element": "BYTE_STREAM_SPLIT"} if is_float else None
        with pq.ParquetWriter(
            sink,
            self.table.schema,
            compression="zstd",
            use_dictionary=[] if is_float else False,
            column_encoding=encoding,
        ) as writer:
            writer.write_table(self.table)
            writer.add_key_value_metadata({FOOTER_KEY: base64.b64encode(self.entries.tobytes())})
        return bytes(sink.getvalue())


def shard_name(number: int) -> str:
    """The name of a shard's file.

    Example:
        >>> shard_name(7)
        'part-000007.parquet'
    """
    return f"part-{number:06d}.parquet"


def shard_number(name: str) -> int | None:
    """The number in the name of a shard, or of a shard's backup; None for any other name.

    Example:
        >>> shard_number("part-000007.parquet"), shard_number("part-000007.parquet.replaced")
        (7, 7)
    """
    found = _NAME.fullmatch(name)
    return int(found[1]) if found else None


def read_entries(filesystem: fs.FileSystem, path: str) -> tuple[Entries, bool]:
    """The entries of a shard's documents, and whether they are in its footer.

    Release 1 wrote none: then they are made of the rows.

    Raises:
        InputError: for a file that is no shard.
    """
    try:
        with filesystem.open_input_file(path) as file:
            return _entries(pq.ParquetFile(file))
    except (*READ_ERRORS, KeyError, ValueError) as error:
        raise unreadable_shard(path, error) from error


def stored_value_type(dtype: Dtype) -> pa.DataType:
    """The Arrow type of an element; float32 for float16, which few readers know."""
    return {"int8": pa.int8(), "binary": pa.uint8()}.get(dtype, pa.float32())


def unreadable_shard(path: str, error: BaseException) -> InputError:
    """The error about a shard that cannot be read, because of another error."""
    name = path.rpartition("/")[2]
    received = f"a shard that cannot be read ({error})"
    return InputError(name, received, "delete it, then embed the corpus again")


def _plain(schema: pa.Schema) -> pa.Schema:
    """As `Layout.schema` has it: without what Parquet adds to a list's name and metadata."""
    index = schema.get_field_index(VECTOR)
    vector = schema.field(index).type
    plain = pa.schema([(field.name, field.type) for field in schema])
    return plain.set(index, pa.field(VECTOR, pa.list_(vector.value_type, vector.list_size)))


def _entries(opened: pq.ParquetFile) -> tuple[Entries, bool]:
    metadata = opened.metadata.metadata or {}
    if FOOTER_KEY in metadata:
        return np.frombuffer(base64.b64decode(metadata[FOOTER_KEY], validate=True), ENTRY), True
    rows = opened.read(columns=["id", "text"]).to_pylist()
    return np.array([(*Document(**row).hashes(), 1) for row in rows], ENTRY), False
