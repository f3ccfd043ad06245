"""Lazy exports: a package's public names, each imported from its module when it is first used.

So `import e5.corpora` costs nothing, and a name loads only what that name needs.
"""

import ast
import inspect
import re
import sys
from collections.abc import Callable
from contextlib import suppress
from importlib import import_module
from typing import Any

_DISTRIBUTION = "e5-mistral-service"


def lazy_exports(
    package: str,
) -> tuple[list[str], Callable[[str], Any], Callable[[], list[str]]]:
    """The `__all__`, `__getattr__` and `__dir__` of a package (PEP 562), called by its `__init__`.

    The names are those that the `__init__` imports for type checkers, below `if TYPE_CHECKING:`.
    A name that needs a package which is not installed raises ModuleNotFoundError, with a note about
    the extras of pyproject.toml that have the package.
    """
    modules_by_name = {
        alias.name: str(node.module)
        for block in ast.parse(inspect.getsource(sys.modules[package])).body
        if isinstance(block, ast.If)
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }

    def get(name: str) -> Any:
        if name not in modules_by_name:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        try:
            value = getattr(import_module(modules_by_name[name]), name)
        except ModuleNotFoundError as error:
            if extras := _extras_with(str(error.name).partition(".")[0]):
                install = " or ".join(f'pip install "{_DISTRIBUTION}[{each}]"' for each in extras)
                error.add_note(f"{package}.{name} needs it: run {install}")
            raise
        setattr(sys.modules[package], name, value)  # the next access does not call this function
        return value

    names = sorted(modules_by_name)
    return names, get, lambda: names


def _extras_with(module: str) -> list[str]:
    """The extras of the installed distribution that require a module, by name."""
    from importlib import metadata  # only an error needs it

    with suppress(metadata.PackageNotFoundError):
        required = re.compile(rf"{module.replace('_', '-')}\b(?!-).*extra == [\"']([a-z0-9-]+)")
        found = map(required.match, metadata.requires(_DISTRIBUTION) or [])
        return sorted({match[1] for match in found if match})
    return []
