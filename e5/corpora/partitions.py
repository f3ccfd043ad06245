"""Hive's partition columns: the folders `lang=en/year=2024` of a file -> columns of its rows."""

from collections.abc import Container
from urllib.parse import unquote

from e5.corpora.column_types import FolderText
from e5.errors import InputError

NO_VALUE = "__HIVE_DEFAULT_PARTITION__"  # the value of a folder for rows that have none


def partition_columns(file: str, wanted: Container[str]) -> dict[str, FolderText | None]:
    """The wanted columns that folders of a file's path name, with the value of all its rows.

    Names and values are percent-decoded.

    Raises:
        InputError: for a column that two folders name, or a value that is not UTF-8.

    Example:
        >>> partition_columns("lang=en/city=S%C3%A3o Paulo/2024/part-0.parquet", ["city", "year"])
        {'city': 'São Paulo'}
    """
    columns: dict[str, FolderText | None] = {}
    for folder in file.split("/")[:-1]:
        name, equals, written = folder.partition("=")
        name = unquote(name)
        if not equals or name not in wanted:
            continue
        if name in columns:
            raise InputError(file, f"two folders that name {name!r}", "rename one of them")
        try:
            value = FolderText(unquote(written, errors="strict"))
            value.encode()
        except UnicodeError as error:
            received = f"the folder {folder!r}, whose value is not UTF-8"
            raise InputError(file, received, "rename the folder") from error
        columns[name] = None if value == NO_VALUE else value
    return columns
