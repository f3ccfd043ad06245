"""One shard as a Parquet file: documents and their stored vectors -> bytes, and back.

Beside the rows its footer has an entry for each document, with hashes, so that a shard can be
compared with a corpus without its rows being read. Vectors are stored as float32, float16, int8 or
one bit for each dimension; the last two keep a vector's direction, but not its length.
"""

import base64
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from pyarrow import fs

from e5.corpora.column_types import as_column
from e5.corpora.documents import Document, Passage
from e5.corpora.filesystem import READ_ERRORS
from e5.errors import InputError
from e5.vectors import Vectors, as_bits, as_int8

VECTOR = "embedding"
PASSAGE_COLUMNS = ("document", "start", "end")
FOOTER_KEY = b"e5.documents"
ENTRY = np.dtype([("id", "<u8"), ("content", "<u8"), ("text", "<u8"), ("size", "<u4")])
_NAME = re.compile(r"part-(\d{6,})\.parquet(\.replaced)?")

Dtype = Literal["float32", "float16", "int8", "binary"]
StoredVectors = NDArray[Any]
Entries = NDArray[np.void]  # of `ENTRY`, `[num_documents]`: hashes, and the number of rows


@dataclass(frozen=True)
class Shard:
    """Rows, and the documents that they belong to, in the same order."""

    table: pa.Table  # one row for each vector
    entries: Entries

    @classmethod
    def of(
        cls,
        documents: Sequence[Document],
        passages: Sequence[Sequence[Passage]],
        vectors: StoredVectors,
        schema: pa.Schema,
    ) -> "Shard":
        """A new shard.

        Args:
            documents: all different.
            passages: of each document those that have a vector; one, the whole, where documents are
                not split.
            vectors: of all passages, `[num_rows, width]`.
            schema: of the folder's shards; a ValueError if a column cannot hold a kept value.
        """
        pairs = list(zip(documents, passages, strict=True))
        rows = [(document, i, part) for document, parts in pairs for i, part in enumerate(parts)]
        columns: dict[str, Any] = {
            "id": [document.id for document, _, _ in rows],
            "text": [passage.text for _, _, passage in rows],
        }
        if _has_passages(schema):
            columns |= {
                "id": [f"{document.id}#{number}" for document, number, _ in rows],
                "document": columns["id"],
                "start": [passage.start for _, _, passage in rows],
                "end": [passage.end for _, _, passage in rows],
            }
        vector = schema.field(VECTOR).type
        elements = pa.array(vectors.ravel()).cast(vector.value_type)
        columns[VECTOR] = pa.FixedSizeListArray.from_arrays(elements, type=vector)
        kept = [field for field in schema if field.name not in columns]
        for i, field in enumerate(kept):
            columns[field.name] = as_column((row[0].kept[i] for row in rows), field.type)
        table = pa.table([columns[name] for name in schema.names], schema=schema)
        entries = [(*document.hashes(), len(parts)) for document, parts in pairs]
        return cls(table, np.array(entries, ENTRY))

    @classmethod
    def read(cls, filesystem: fs.FileSystem, path: str) -> "Shard":
        """The shard in a file; an InputError for a file that is not a shard."""
        with open_shard(filesystem, path) as opened:
            table = opened.read().replace_schema_metadata()
            return cls(table, read_entries(opened)[0])

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
        return as_matrix(self.table[VECTOR].combine_chunks())

    def as_parquet(self) -> bytes:
        """The content of a file."""
        sink = pa.BufferOutputStream()
        is_float = pa.types.is_float32(self.table.schema.field(VECTOR).type.value_type)
        with pq.ParquetWriter(
            sink,
            self.table.schema,
            compression="zstd",
            use_dictionary=[] if is_float else False,
            column_encoding={f"{VECTOR}.list.element": "BYTE_STREAM_SPLIT"} if is_float else None,
        ) as writer:
            writer.write_table(self.table)
            writer.add_key_value_metadata({FOOTER_KEY: base64.b64encode(self.entries.tobytes())})
        return bytes(sink.getvalue())


def as_matrix(column: pa.FixedSizeListArray) -> StoredVectors:
    """A column of vectors as `[num_rows, width]`."""
    elements = column.flatten().to_numpy(zero_copy_only=False)
    matrix: StoredVectors = elements.reshape(-1, column.type.list_size)
    return matrix


def shard_name(number: int) -> str:
    """The name of a shard's file; of shard 7 it is `part-000007.parquet`."""
    return f"part-{number:06d}.parquet"


def shard_number(name: str) -> int | None:
    """The number in the name of a shard, or of a shard's backup; None for any other name."""
    found = _NAME.fullmatch(name)
    return int(found[1]) if found else None


@contextmanager
def open_shard(filesystem: fs.FileSystem, path: str) -> Iterator[pq.ParquetFile]:
    """The Parquet file of a shard; in this context, a damaged one is an InputError."""
    try:
        with filesystem.open_input_file(path) as file:
            yield pq.ParquetFile(file)
    except (*READ_ERRORS, KeyError, ValueError, AttributeError) as error:
        received = f"a shard that cannot be read ({error})"
        remedy = "delete it, then embed the corpus again"
        raise InputError(path.rpartition("/")[2], received, remedy) from error


def read_entries(opened: pq.ParquetFile) -> tuple[Entries, bool]:
    """The entries of a shard's documents, and whether its footer has them.

    The footers of release 1 have none: then the entries are made of the rows.
    """
    metadata = opened.metadata.metadata or {}
    if FOOTER_KEY in metadata:
        return np.frombuffer(base64.b64decode(metadata[FOOTER_KEY], validate=True), ENTRY), True
    rows = opened.read(columns=["id", "text"]).to_pylist()
    return np.array([(*Document(**row).hashes(), 1) for row in rows], ENTRY), False


def shard_schema(
    dtype: Dtype, dimensions: int, kept: Mapping[str, pa.DataType], *, has_passages: bool
) -> pa.Schema:
    """The schema of a folder's shards; `dimensions` are those before a vector is stored."""
    fields = [("id", pa.string())]
    if has_passages:
        fields += zip(PASSAGE_COLUMNS, (pa.string(), pa.int32(), pa.int32()), strict=True)
    width = dimensions // 8 if dtype == "binary" else dimensions
    element = pa.field("element", stored_value_type(dtype))  # its name in a Parquet file
    vector = pa.list_(element, width)
    return pa.schema([*fields, ("text", pa.string()), *kept.items(), (VECTOR, vector)])


def _has_passages(schema: pa.Schema) -> bool:
    """Whether a shard's schema is that of passages; of whole documents `document` may be kept."""
    return bool(schema.names[1] != "text")


def stored_value_type(dtype: Dtype) -> pa.DataType:
    """The Arrow type of an element; float32 for float16, which few readers know."""
    return {"int8": pa.int8(), "binary": pa.uint8()}.get(dtype, pa.float32())


def encode_vectors(vectors: Vectors, dtype: Dtype) -> StoredVectors:
    """Vectors `[num_vectors, dimensions]` as they are stored; `inf` where float16 holds no number.

    For "binary", dimensions are a multiple of 8, and the result is uint8
    `[num_vectors, dimensions / 8]`.

    Example:
        >>> vectors = np.array([[0.5, -1, 0, 0, 0, 0, 0, 0.25]], np.float32)
        >>> encode_vectors(vectors, "int8").tolist(), encode_vectors(vectors, "binary").tolist()
        ([[64, -127, 0, 0, 0, 0, 0, 32]], [[129]])
    """
    if dtype == "binary":
        return as_bits(vectors)
    if dtype == "int8":
        return as_int8(vectors)
    with np.errstate(over="ignore"):
        rounded: StoredVectors = vectors.astype(dtype)
    return rounded


def decode_vectors(stored: StoredVectors, dtype: Dtype) -> Vectors:
    """Stored vectors as float32 `[num_vectors, dimensions]`; bits become 1 and -1.

    Example:
        >>> decode_vectors(np.array([[129]], np.uint8), "binary").tolist()
        [[1.0, -1.0, -1.0, -1.0, -1.0, -1.0, -1.0, 1.0]]
    """
    if dtype == "binary":
        stored = np.unpackbits(stored, axis=1) * 2.0 - 1
    vectors: Vectors = stored.astype(np.float32)
    return vectors
