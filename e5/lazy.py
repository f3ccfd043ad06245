"""Lazy exports: a package's public names, each imported from its module when it is first used.

So `import e5.corpora` costs nothing, and a name loads only what that name needs.
"""

import sys
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any


def lazy_exports(
    package: str, modules_by_name: Mapping[str, str]
) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """The functions `__getattr__` and `__dir__` of a package (PEP 562).

    Args:
        package: its name.
        modules_by_name: the module that defines each public name.

    Example, in the package's `__init__.py`:
        >>> __getattr__, __dir__ = lazy_exports("e5", {"Settings": "e5.settings"})
        >>> __getattr__("Settings").__name__, __dir__()
        ('Settings', ['Settings'])
    """

    def get(name: str) -> Any:
        if name not in modules_by_name:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        value = getattr(import_module(modules_by_name[name]), name)
        setattr(sys.modules[package], name, value)  # the next access does not call this function
        return value

    return get, lambda: sorted(modules_by_name)
