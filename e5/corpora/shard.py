"""One shard as a Parquet file: documents and their numbers -> bytes, and back.

Beside the rows its footer lists the documents, as hashes, so that it can be compared with a corpus
without being read. Knows nothing of folders or of how vectors are computed.
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
from e5.corpora.inventory import Hashes
from e5.corpora.vector_encoding import Dtype, StoredVectors
from e5.errors import InputError

VECTOR = "embedding"
LISTING = "e5.documents"  # in the footer
_NAME = re.compile(r"part-(\d{6,})\.parquet(\.replaced)?")
ENTRY = np.dtype([("id", "<u8"), ("content", "<u8"), ("text", "<u8"), ("size", "<u4")])

Listing = NDArray[np.void]


@dataclass(frozen=True)
class Layout:
    """The columns of a folder's shards.

    Attributes:
        width: numbers of a stored vector.
        number: the Arrow type of each.
        kept: columns that are carried along, and their types.
        has_passages: whether rows are parts of documents.
    """

    width: int
    number: pa.DataType
    kept: dict[str, pa.DataType]
    has_passages: bool

    @property
    def schema(self) -> pa.Schema:
        """Of a shard's rows."""
        fields = [("id", pa.string())]
        if self.has_passages:
            fields += [("document", pa.string()), ("start", pa.int32()), ("end", pa.int32())]
        fields += [("text", pa.string()), *self.kept.items()]
        return pa.schema([*fields, (VECTOR, pa.list_(self.number, self.width))])


@dataclass(frozen=True)
class Shard:
    """Rows, and the documents that they belong to, in the same order.

    Attributes:
        table: one row for each vector.
        entries: `[num_documents]` of hashes and the number of rows of each.
    """

    table: pa.Table
    entries: Listing

    @classmethod
    def of(
        cls,
        documents: Sequence[Document],
        passages: Sequence[Sequence[Passage]],
        numbers: StoredVectors,
        layout: Layout,
    ) -> "Shard":
        """A new shard.

        Args:
            documents: all different.
            passages: of each document those that have a vector; one, the whole, where documents are
                not cut.
            numbers: stored vectors of all passages, `[num_rows, width]`.
            layout: of the folder.

        Raises:
            ValueError: for a kept value that the column's type cannot hold.
        """
        sizes = [len(parts) for parts in passages]
        rows = [
            (document, place, part)
            for document, parts in zip(documents, passages, strict=True)
            for place, part in enumerate(parts)
        ]
        columns: list[Any] = []
        if layout.has_passages:
            columns += [
                [f"{document.id}#{place}" for document, place, _ in rows],
                [document.id for document, _, _ in rows],
                [part.start for _, _, part in rows],
                [part.end for _, _, part in rows],
            ]
        else:
            columns.append([document.id for document, _, _ in rows])
        columns.append([part.text for _, _, part in rows])
        for at, kind in enumerate(layout.kept.values()):
            columns.append(as_column((document.kept[at] for document, _, _ in rows), kind))
        flat = pa.array(numbers.ravel()).cast(layout.number)
        columns.append(pa.FixedSizeListArray.from_arrays(flat, layout.width))
        schema = layout.schema
        typed = zip(columns, schema.types, strict=True)
        arrays = [pa.array(column, kind) for column, kind in typed]
        hashes = [document.hashes() for document in documents]
        listing = np.array(
            [(*of, size) for of, size in zip(hashes, sizes, strict=True)], dtype=ENTRY
        )
        return cls(pa.Table.from_arrays(arrays, schema=schema), listing)

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
                return cls(table.cast(_plain(table.schema)), _listing(opened))
        except (*READ_ERRORS, KeyError, ValueError, AttributeError) as error:
            raise unreadable_shard(path, error) from error

    def select(self, chosen: NDArray[np.bool_]) -> "Shard":
        """Some of its documents, `[num_documents]`."""
        rows = np.repeat(chosen, self.entries["size"])
        return Shard(self.table.filter(pa.array(rows)), self.entries[chosen])

    def __add__(self, other: "Shard") -> "Shard":
        """The documents of both."""
        tables = [self.table, other.table.cast(self.table.schema)]
        return Shard(pa.concat_tables(tables), np.concatenate([self.entries, other.entries]))

    def stored_vectors(self) -> StoredVectors:
        """Stored vectors, `[num_rows, width]`."""
        column = self.table[VECTOR].combine_chunks()
        width = column.type.list_size
        numbers: StoredVectors = column.flatten().to_numpy(zero_copy_only=False).reshape(-1, width)
        return numbers

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
            listed = base64.b64encode(self.entries.tobytes()).decode()
            writer.add_key_value_metadata({LISTING: listed})
        return bytes(sink.getvalue())


def shard_name(number: int) -> str:
    """The name of a shard's file.

    Example:
        >>> shard_name(7)
        'part-000007.parquet'
    """
    return f"part-{number:06d}.parquet"


def shard_number(name: str) -> int | None:
    """The number in a shard's name, or in that of a replaced shard; None for any other name.

    Example:
        >>> shard_number("part-000007.parquet"), shard_number("part-000007.parquet.replaced")
        (7, 7)
    """
    found = _NAME.fullmatch(name)
    return int(found[1]) if found else None


def read_entries(filesystem: fs.FileSystem, path: str) -> Listing:
    """The documents of a shard, from its footer.

    Raises:
        InputError: for a file that is no shard.
    """
    try:
        with filesystem.open_input_file(path) as file:
            return _listing(pq.ParquetFile(file))
    except (*READ_ERRORS, KeyError, ValueError) as error:
        raise unreadable_shard(path, error) from error


def stored_value_type(dtype: Dtype) -> pa.DataType:
    """How numbers are written: float16 as float32, because few readers know it."""
    return {"int8": pa.int8(), "binary": pa.uint8()}.get(dtype, pa.float32())


def unreadable_shard(path: str, error: BaseException) -> InputError:
    """A shard that cannot be read."""
    name = path.rpartition("/")[2]
    received = f"a shard that cannot be read ({error})"
    return InputError(name, received, "delete it, then embed the corpus again")


def places(listing: Listing, contents: Hashes) -> NDArray[np.bool_]:
    """Which of a shard's documents are among these."""
    return np.isin(listing["content"], contents)


def _plain(schema: pa.Schema) -> pa.Schema:
    """As `Layout.schema` has it: without what Parquet adds to a list's name and metadata."""
    index = schema.get_field_index(VECTOR)
    vector = schema.field(index).type
    plain = pa.schema([(field.name, field.type) for field in schema])
    return plain.set(index, pa.field(VECTOR, pa.list_(vector.value_type, vector.list_size)))


def _listing(opened: pq.ParquetFile) -> Listing:
    metadata = opened.metadata.metadata or {}
    if LISTING.encode() in metadata:
        content = base64.b64decode(metadata[LISTING.encode()], validate=True)
        return np.frombuffer(content, ENTRY)
    rows = opened.read(columns=["id", "text"]).to_pylist()  # made before footers listed documents
    return np.array([(*Document(**row).hashes(), 1) for row in rows], dtype=ENTRY)
