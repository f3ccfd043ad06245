"""What a corpus holds in a kept column: of which type it must be, and what a caller should know."""

from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from e5.corpora.column_types import (
    DOUBLE,
    NAMED_TYPES,
    TEXT,
    Kind,
    UntypedText,
    column_type,
    kind_of,
    kinds_of_type,
)
from e5.corpora.documents import Unkept
from e5.errors import InputError, shortened


def not_kept(column: str, holds: str, *, is_nested: bool) -> InputError:
    """The error for a column of values that cannot be kept as they are."""
    remedy = "name columns of text, numbers, booleans, dates or times"
    if is_nested:
        remedy = f"keep it as JSON by {column}:text, or leave it out"
    return InputError("keep", f"{column!r}, which holds {holds}", remedy)


@dataclass
class KeptColumn:
    """What is known of a kept column.

    Attributes:
        name: of the column.
        named_type: the name of the type that the caller wants, if any.
        kinds: what its values are, and the types that it has in files.
        num_unkept: the number of values that cannot be kept.
    """

    name: str
    named_type: str | None = None
    kinds: set[Kind] = field(default_factory=set)
    num_unkept: int = 0
    _first_unkept: str = ""  # where it is, and what it is
    _rewritten: str = ""  # the first number that a CSV file writes otherwise

    def __post_init__(self) -> None:
        """Begin with the type that the caller wants."""
        if self.named_type is not None:
            self.kinds |= kinds_of_type(NAMED_TYPES[self.named_type]) or set()

    def add_type(self, kind: pa.DataType, file: str) -> None:
        """Take note of its type in a file; an InputError for one that cannot be kept."""
        kinds, is_nested = kinds_of_type(kind), pa.types.is_nested(kind)
        if kinds is None and not (is_nested and self.named_type == "text"):
            raise not_kept(self.name, f"{shortened(str(kind))} in {file}", is_nested=is_nested)
        if self.named_type is None:
            self.kinds |= kinds or set()

    def add(self, value: Any, file: str, row: int) -> None:
        """Take note of a value."""
        if isinstance(value, Unkept):
            self.num_unkept += 1
            self._first_unkept = self._first_unkept or f"{file}:{row}: {value.reason}"
        elif (kind := kind_of(value)) is not None:
            self.kinds.add(kind)
            if kind == Kind.NUMBER and isinstance(value, UntypedText) and not self._rewritten:
                self._rewritten = "" if value == repr(float(value)) else value

    def remarks(self, kept_as: pa.DataType) -> list[str]:
        """What a caller should know if it is kept as this type.

        Example:
            >>> column = KeptColumn("version")
            >>> column.add(UntypedText("1.10"), "a.csv", 0)
            >>> column.remarks(pa.float64())
            ['version is kept as numbers, 1.10 as 1.1; version:text keeps it as it is written']
            >>> column.add(UntypedText("1.2b"), "a.csv", 1)
            >>> column.remarks(pa.string())
            ['version is kept as text, because it holds numbers, text']
        """
        kinds = sorted(self.kinds)
        if kept_as == TEXT == column_type(self.kinds) and kinds != [Kind.TEXT]:
            return [f"{self.name} is kept as text, because it holds {', '.join(kinds)}"]
        if kept_as == DOUBLE and self._rewritten:
            shown = f"{shortened(self._rewritten)} as {float(self._rewritten)}"
            remedy = f"{self.name}:text keeps it as it is written"
            return [f"{self.name} is kept as numbers, {shown}; {remedy}"]
        return []

    def unkept(self) -> list[str]:
        """The sentence that counts the values that cannot be kept, if there are any."""
        if not self.num_unkept:
            return []
        count = f"{self.num_unkept:,} values of {self.name} cannot be kept, and are null"
        return [f"{count}; the first is in {self._first_unkept}"]
