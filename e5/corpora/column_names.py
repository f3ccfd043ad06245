"""Names of an index's columns: those of the corpus, whatever they are <-> those that LanceDB takes.

LanceDB refuses some names (`doc.id`, `_rowid`, the empty one) and misreads others (`*`, `_score`).
A column of such a name is stored under another one, such as `kept_3`, and the metadata of its field
has its own. Indexes of earlier releases have no such metadata: each column has its own name there.
"""

import re
from collections.abc import Mapping

import pyarrow as pa

from e5.errors import MAX_SHOWN, shortened

# Names that are stored as they are.
PLAIN = re.compile(r"(?!(?:kept_\d+|shard|embedding)\Z)[^\W\d_]\w*")
OWN_NAME = b"e5.name"  # the key of a field's metadata
# What can hold or be a name in SQL: a string, a number, a name in one of two quotes or in none.
TOKEN = re.compile(
    r"""'(?:[^']|'')*'|\d[\w.]*|`(?:[^`]|``)*`|"(?:[^"]|"")*"|[@$#]?[^\W\d]\w*(?:\.\w+)*"""
)


def as_stored(columns: pa.Schema) -> pa.Schema:
    """The same columns under names that LanceDB takes.

    Example:
        >>> as_stored(pa.schema({"id": pa.string(), "doc.id": pa.int64()})).names
        ['id', 'kept_1']
    """
    return pa.schema(
        field
        if PLAIN.fullmatch(field.name)
        else field.with_name(f"kept_{i}").with_metadata({OWN_NAME: field.name})
        for i, field in enumerate(columns)
    )


def stored_names(schema: pa.Schema) -> dict[str, str]:
    """The names that columns are stored under, by their own names."""
    own = ((field.metadata or {}).get(OWN_NAME, field.name.encode()).decode() for field in schema)
    return dict(zip(own, schema.names, strict=True))


def in_sql(name: str) -> str:
    """A column's name as a condition has it, in an error: in backticks unless it is plain.

    Example:
        >>> in_sql("year"), in_sql("doc.id")
        ('year', '`doc.id`')
    """
    shown = name.replace("`", "``")
    shown = shortened(shown) if len(shown) > MAX_SHOWN else shown
    return shown if PLAIN.fullmatch(name) else f"`{shown}`"


def with_stored_names(condition: str, stored: Mapping[str, str]) -> str:
    """A condition in SQL over columns' own names, as one over the names that they are stored under.

    A name stands in backticks or double quotes. One of letters, digits, `_` and `.` needs none, nor
    does one with `@`, `$` or `#` before them.

    Example:
        >>> with_stored_names("doc.id > 3 and `a b` = 'doc.id'", {"doc.id": "kept_1"})
        "`kept_1` > 3 and `a b` = 'doc.id'"
    """

    def replaced(found: re.Match[str]) -> str:
        written, quote = found[0], found[0][0]
        name = written[1:-1].replace(quote * 2, quote) if quote in '`"' else written
        is_value = quote == "'" or quote.isdigit()
        other = name if is_value else stored.get(name, name)
        return written if other == name else f"`{other}`"

    return TOKEN.sub(replaced, condition)
