"""Prints rows as tables."""

from collections.abc import Mapping, Sequence
from typing import Any


def print_table(rows: Sequence[Mapping[str, Any]]) -> None:
    """Print rows as aligned columns, without the values that are themselves tables."""
    shown = [{k: v for k, v in row.items() if not isinstance(v, dict)} for row in rows]
    columns = list(dict.fromkeys(key for row in shown for key in row))
    widths = [
        max(len(column), *(len(str(row.get(column, ""))) for row in shown)) for column in columns
    ]
    for cells in (columns, *([row.get(column, "") for column in columns] for row in shown)):
        print("  ".join(str(cell).ljust(width) for cell, width in zip(cells, widths, strict=True)))
    print(flush=True)
