"""The house keeps its plan. What is checked is computed from the files themselves."""

import ast
import doctest
import importlib
import inspect
import re
import subprocess
import sys
from graphlib import TopologicalSorter
from itertools import pairwise
from pathlib import Path

import pytest

import e5

PROJECT = Path(__file__).parent.parent
FILES = {
    ".".join(path.relative_to(PROJECT).with_suffix("").parts).removesuffix(".__init__"): path
    for path in (PROJECT / "e5").rglob("*.py")
}
MODULES = sorted(name for name in FILES if FILES[name].stem != "__init__")
ELSEWHERE = [name for name in MODULES if name != "e5.embedder"]
WINGS_BELOW = {("gateway", "client"), ("gateway", "serving")}  # wing, and one that it may import
TESTS = sorted((PROJECT / "tests").rglob("*.py"))
HEAVY = {
    *("torch", "transformers", "tokenizers", "pydantic", "cog", "pyarrow", "lancedb", "ray"),
    *("langchain_core", "llama_index", "haystack", "mteb", "starlette", "uvicorn"),
    *("accelerate", "sympy"),  # sympy comes with torch's compiler, which takes as long as torch
}


def imported(file: Path) -> set[str]:
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


def modules_imported(name: str) -> set[str]:
    """The modules of e5 that a module imports; those that are names of a module, as that module."""
    found = set()
    for full in imported(FILES[name]):
        if full.split(".")[0] == "e5":
            module = full if full in FILES else full.rpartition(".")[0]
            assert module in FILES, f"{name} imports {full}, which is nowhere"
            found.add(module)
    return found


def wing(module: str) -> str | None:
    """The wing that a module stands in; None for the hall."""
    parts = module.split(".")
    return parts[1] if len(parts) == 3 or module in {f"e5.{w}" for w in wings()} else None


def wings() -> set[str]:
    return {path.name for path in (PROJECT / "e5").iterdir() if (path / "__init__.py").is_file()}


def test_there_are_modules_to_check() -> None:
    assert {"client", "corpora", "serving"} <= wings()
    assert "e5.embedder" in MODULES
    assert "e5.serving.service" in MODULES
    assert wing("e5.embedder") is None
    assert wing("e5.serving.service") == "serving"
    assert "e5.packing" in modules_imported("e5.forward")


def test_there_is_no_circle() -> None:
    tuple(TopologicalSorter({name: modules_imported(name) for name in MODULES}).static_order())


@pytest.mark.parametrize("module", MODULES)
def test_the_hall_knows_no_wing_and_wings_know_others_only_downwards(module: str) -> None:
    for other in modules_imported(module):
        assert other != "e5" or module.startswith("e5.corpora."), "the package's own door"
        mine, theirs = wing(module), wing(other)
        if theirs is not None and theirs != mine:
            assert mine is not None, f"{module}, of the hall, imports {other}"
            assert (mine, theirs) in WINGS_BELOW, f"{module} imports {other}"


def test_only_the_edge_imports_cog() -> None:
    edge = {"predict": PROJECT / "predict.py"}
    importers = {
        name
        for name, file in (FILES | edge).items()
        if any(full.split(".")[0] == "cog" for full in imported(file))
    }
    assert importers == {"predict"}


class TestOneRoad:
    """A text becomes a vector in `Embedder` alone."""

    @pytest.mark.parametrize("module", ELSEWHERE)
    def test_nobody_else_builds_a_prompt(self, module: str) -> None:
        if module != "e5.prompts":
            names = imported(FILES[module])
            assert not names & {"e5.prompts.query_prompt", "e5.prompts.document_prompt"}
            assert "e5.prompts" not in names

    @pytest.mark.parametrize("module", ELSEWHERE)
    def test_nobody_else_looks_for_vectors_that_are_not_finite(self, module: str) -> None:
        if module != "e5.self_check":
            assert not re.search(r"isfinite|isnan|nan_to_num", FILES[module].read_text())

    def test_nobody_reaches_through_it(self) -> None:
        edges = [PROJECT / "predict.py", *(PROJECT / "scripts").rglob("*.py")]
        for file in [*(FILES[name] for name in ELSEWHERE), *edges]:
            found = re.search(r"embedder\.(_?engine|_?tokenizer)\b", file.read_text())
            assert found is None, f"{file}: {found}"


@pytest.mark.parametrize("module", sorted(FILES))
def test_every_module_says_what_it_does(module: str) -> None:
    docstring = ast.get_docstring(ast.parse(FILES[module].read_text(encoding="utf-8")))
    assert docstring is not None
    first_line = docstring.splitlines()[0]
    assert len(first_line) > 20
    assert first_line[-1] in ".:?!,"


@pytest.mark.parametrize("module", MODULES)
def test_every_module_says_what_it_does_not_know(module: str) -> None:
    docstring = ast.get_docstring(ast.parse(FILES[module].read_text(encoding="utf-8")))
    assert docstring is not None
    told = re.search(r"knows? nothing|does not know|knows no ", " ".join(docstring.split()), re.I)
    assert told, f"{module} does not say what it does not know"


@pytest.mark.parametrize("module", sorted(FILES))
def test_no_file_is_two_rooms(module: str) -> None:
    assert len(FILES[module].read_text().splitlines()) <= 300


@pytest.mark.parametrize("file", TESTS, ids=lambda file: file.name)
def test_no_file_of_tests_is_too_long(file: Path) -> None:
    assert len(file.read_text().splitlines()) <= 400


@pytest.mark.parametrize("module", MODULES)
def test_every_module_has_its_tests(module: str) -> None:
    *folders, name = module.split(".")[1:]
    assert (PROJECT / "tests" / Path(*folders) / f"test_{name}.py").is_file()


def test_the_public_names_are_these() -> None:
    assert e5.__all__ == [
        "TASKS",
        "AsyncClient",
        "Client",
        "E5Error",
        "Embedder",
        "Encoder",
        "EngineError",
        "InputError",
        "NonFiniteError",
        "OutOfMemoryError",
        "QueueFullError",
        "RequestTooLargeError",
        "ServiceError",
        "Settings",
        "SettingsError",
        "Task",
        "TokenizerError",
        "WeightsError",
    ]
    assert all(inspect.isclass(getattr(e5, name)) for name in e5.__all__ if name != "TASKS")
    assert set(e5.__all__) <= set(dir(e5))
    with pytest.raises(AttributeError, match=r"module 'e5' has no attribute 'Embeder'"):
        e5.Embeder  # noqa: B018


LOAD = "import e5; e5.Embedder.load(e5.Settings(weights='weights/e5-mini'))"


def loaded_by(code: str) -> set[str]:
    """The top-level names of all modules that are loaded once some code has run."""
    code = f"import sys; {code}; print(*{{name.split('.')[0] for name in sys.modules}})"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=PROJECT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("code", "needed"),
    [
        ("import e5", set()),
        ("from e5 import Settings, TASKS, InputError, Encoder", set()),
        ("from e5 import Client", {"pydantic"}),
        ("import e5.corpora.index", {"pydantic", "pyarrow", "lancedb"}),
        ("from e5.serving.request import EmbedRequest", {"pydantic"}),
        ("from e5.serving.answer import Output", {"pydantic"}),
        (LOAD, {"torch", "tokenizers", "pydantic"}),
        ("import predict", {"torch", "tokenizers", "pydantic", "cog"}),
    ],
)
def test_nobody_pays_for_what_is_not_asked_for(code: str, needed: set[str]) -> None:
    assert loaded_by(code) & HEAVY <= needed


PURE = ["checkpoint", "errors", "packing", "prompts", "settings", "texts", "vectors"]
PURE += ["gateway.page", "serving.answer", "serving.writing", "serving.request", "serving.waiting"]
PURE += [
    f"corpora.{name}"
    for name in ("hits", "inventory", "kinds", "lance", "manifest", "numbers", "passages", "scan")
]
PURE += ["corpora.storage", "graphs", "mistral"]


@pytest.mark.parametrize("module", PURE)
def test_examples_in_docstrings_give_what_they_say(
    module: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(PROJECT)
    found = importlib.import_module(f"e5.{module}")
    names = {"Path": Path} if module == "checkpoint" else {}
    result = doctest.testmod(found, raise_on_error=True, extraglobs=names)
    assert result.attempted > 0
    assert result.failed == 0


def test_versions_of_the_package_and_of_its_history_agree() -> None:
    declared = re.search(r'^version = "(.+)"$', (PROJECT / "pyproject.toml").read_text(), re.M)
    assert declared is not None
    releases = re.findall(r"^## (\d\S+)", (PROJECT / "CHANGELOG.md").read_text(), re.M)
    assert releases[0] == declared[1]
    assert all(newer != older for newer, older in pairwise(releases))
