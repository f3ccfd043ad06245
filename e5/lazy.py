"""Lazy exports: a package's public names, each imported from its module when it is first used.

So `import e5.corpora` costs nothing, and a name loads only what that name needs.
"""

import ast
import inspect
import sys
from collections.abc import Callable
from importlib import import_module
from typing import Any


def lazy_exports(
    package: str, extra: str | None = None
) -> tuple[list[str], Callable[[str], Any], Callable[[], list[str]]]:
    """The `__all__`, `__getattr__` and `__dir__` of a package (PEP 562), called by its `__init__`.

    The names are those that the `__init__` imports for type checkers, below `if TYPE_CHECKING:`.
    A name that needs packages which are not installed raises ModuleNotFoundError; `extra` is the
    extra of pyproject.toml that has them, which the error names.
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
            if extra:
                install = f'pip install "e5-mistral-service[{extra}]"'
                error.add_note(f"{package}.{name} needs more packages: run {install}")
            raise
        setattr(sys.modules[package], name, value)  # the next access does not call this function
        return value

    names = sorted(modules_by_name)
    return names, get, lambda: names
