"""The house keeps its plan: imports point down, the edge is thin, the public list is frozen."""

import ast
import doctest
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

import e5

PROJECT = Path(__file__).parent.parent
MODULES = sorted(path.stem for path in (PROJECT / "e5").glob("*.py") if path.stem != "__init__")

# A module imports from lower levels only, or along one of `ALSO`. Whoever adds a module says where
# it stands.
LEVELS = {
    "errors": 0,
    "settings": 0,
    "prompts": 0,
    "vectors": 0,
    "packing": 1,
    "tokenizer": 1,
    "types": 1,
    "storage": 1,
    "formats": 2,
    "corpus": 3,
    "attention": 2,
    "model": 3,
    "engine": 4,
    "weights": 4,
    "embedder": 5,
    "batcher": 5,
    "shards": 4,
    "journal": 4,
    "index": 5,
    "step": 6,
    "cluster": 7,
}
ALSO = {("settings", "errors"), ("tokenizer", "packing")}


def imported_modules(file: Path) -> set[str]:
    """Dotted names of all that a file imports, at its top or inside a function."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file.name}: a relative import"
            assert node.module is not None
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def rooms_imported(file: Path) -> set[str]:
    """The modules of `e5` among them."""
    return {
        parts[1]
        for parts in (name.split(".") for name in imported_modules(file))
        if parts[0] == "e5" and len(parts) > 1
    }


def test_every_module_has_its_level() -> None:
    assert set(LEVELS) == set(MODULES)


@pytest.mark.parametrize("module", MODULES)
def test_imports_point_down(module: str) -> None:
    for imported in rooms_imported(PROJECT / "e5" / f"{module}.py"):
        assert imported in LEVELS, f"{module} imports {imported}, which is no module of e5"
        assert LEVELS[imported] < LEVELS[module] or (module, imported) in ALSO, (
            f"{module} (level {LEVELS[module]}) imports {imported} (level {LEVELS[imported]})"
        )


def test_only_the_edge_imports_cog() -> None:
    files = [*(PROJECT / "e5").glob("*.py"), PROJECT / "predict.py"]
    importers = {
        file.name
        for file in files
        if any(name.split(".")[0] == "cog" for name in imported_modules(file))
    }
    assert importers == {"predict.py"}


@pytest.mark.parametrize("module", ["__init__", *MODULES])
def test_every_module_says_what_it_does(module: str) -> None:
    tree = ast.parse((PROJECT / "e5" / f"{module}.py").read_text(encoding="utf-8"))
    docstring = ast.get_docstring(tree)
    assert docstring is not None
    first_line = docstring.splitlines()[0]
    assert len(first_line) > 20
    assert first_line[-1] in ".:"


def test_the_package_has_no_logic_of_its_own() -> None:
    tree = ast.parse((PROJECT / "e5" / "__init__.py").read_text(encoding="utf-8"))
    docstring, *rest, public = tree.body
    assert isinstance(docstring, ast.Expr)
    assert all(isinstance(statement, ast.ImportFrom) for statement in rest)
    assert isinstance(public, ast.Assign)


def test_the_public_names_are_these() -> None:
    assert e5.__all__ == [
        "TASKS",
        "E5Error",
        "Embedder",
        "EngineError",
        "InputError",
        "NonFiniteError",
        "OutOfMemoryError",
        "QueueFullError",
        "RequestTooLargeError",
        "Settings",
        "SettingsError",
        "Task",
        "TokenizerError",
        "WeightsError",
    ]
    assert all(hasattr(e5, name) for name in e5.__all__)


def test_the_library_needs_neither_pydantic_nor_cog() -> None:
    code = "import sys, e5; print(sorted({'pydantic', 'cog', 'predict'} & set(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=PROJECT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "[]\n"


@pytest.mark.parametrize("module", ["errors", "packing", "prompts", "settings", "types", "vectors"])
def test_examples_in_docstrings_give_what_they_say(module: str) -> None:
    result = doctest.testmod(importlib.import_module(f"e5.{module}"), raise_on_error=True)
    assert result.attempted > 0
    assert result.failed == 0
