"""The command line: `e5 serve`, `e5 gateway` and the other subcommands, which only translate."""

from typing import TYPE_CHECKING

from e5.lazy import lazy_exports

if TYPE_CHECKING:
    from e5.cli.entry import main as main

__all__, __getattr__, __dir__ = lazy_exports(__name__)
