"""Makes `Embedder.load` give the engine that the variable SIMULATED names (`benchmarks.simulated`).

Python imports this module at the start of every process that has this folder in PYTHONPATH. So the
commands that are measured are the product's own, with whatever processes they start.
"""

import os
import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any


class _EmbedderFinder(MetaPathFinder):
    """Finds `e5.embedder` as Python does, and changes it once it is loaded."""

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Find that module only."""
        spec = PathFinder.find_spec(name, path, target) if name == "e5.embedder" else None
        if spec is not None and spec.loader is not None:
            execute = spec.loader.exec_module

            def execute_and_change(module: ModuleType) -> None:
                execute(module)
                module.Embedder.load = _load

            spec.loader.exec_module = execute_and_change  # type: ignore[method-assign]
        return spec


def _load(settings: Any) -> object:
    from benchmarks.simulated import simulated_embedder  # it imports e5.embedder

    return simulated_embedder(os.environ["SIMULATED"], settings)


if os.environ.get("SIMULATED", "real") != "real":
    sys.meta_path.insert(0, _EmbedderFinder())
