"""The package keeps its structure. What is checked is computed from the files themselves."""

import ast
import builtins
import doctest
import importlib
import inspect
import re
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator
from graphlib import TopologicalSorter
from itertools import pairwise
from pathlib import Path

import pytest

import e5
from e5.errors import ERRORS_BY_NAME

PROJECT = Path(__file__).parent.parent
FILES = {
    ".".join(path.relative_to(PROJECT).with_suffix("").parts).removesuffix(".__init__"): path
    for path in (PROJECT / "e5").rglob("*.py")
}
MODULES = sorted(name for name in FILES if FILES[name].stem != "__init__")
ALL_BUT_EMBEDDER = [name for name in MODULES if name != "e5.embedder"]
SUBPACKAGES = sorted(path.parent.name for path in (PROJECT / "e5").glob("*/__init__.py"))
# The other subpackages that each may import; all may import the core.
MAY_IMPORT = {
    "audit": {"client", "corpora"},
    "gateway": {"client", "serving"},
    "cog": {"serving"},
    "cli": set(SUBPACKAGES),
}
DOCUMENTS = [PROJECT / "README.md", *sorted((PROJECT / "docs").glob("*.md"))]
PROGRAMS = [PROJECT / "predict.py", *sorted((PROJECT / "scripts").rglob("*.py"))]
TESTS = sorted((PROJECT / "tests").rglob("*.py"))
HEAVY = {
    *("torch", "transformers", "tokenizers", "pydantic", "cog", "pyarrow", "lancedb", "ray"),
    *("langchain_core", "llama_index", "haystack", "mteb", "starlette", "uvicorn"),
    *(
        "accelerate",
        "bitsandbytes",
        "sympy",
    ),  # sympy comes with torch's compiler, which takes as long as torch
}


def imported_names(source: str) -> set[str]:
    """Dotted names of everything that a source imports, at its top or inside a function."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "a relative import"
            assert node.module is not None
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def imported(file: Path) -> set[str]:
    return imported_names(file.read_text(encoding="utf-8"))


def modules_imported(name: str) -> set[str]:
    """The modules and packages of e5 that a module imports."""
    found = set()
    for full in imported(FILES[name]):
        if full.split(".")[0] == "e5":
            module = full if full in FILES else full.rpartition(".")[0]
            assert module in FILES, f"{name} imports {full}, which does not exist"
            found.add(module)
    return found


def subpackage_of(dotted: str) -> str | None:
    """The subpackage that a module or a name is in; None for the core."""
    parts = dotted.split(".")
    if parts[:2] == ["e5", "__main__"]:
        return "cli"  # `python -m e5` is the command line
    return parts[1] if len(parts) > 1 and parts[0] == "e5" and parts[1] in SUBPACKAGES else None


def public_names(package: str) -> list[str]:
    names: list[str] = getattr(importlib.import_module(package), "__all__", [])
    return names


def is_public(dotted: str) -> bool:
    """Whether users may import a name: `e5` or a subpackage exports it, or it is an adapter's."""
    package, _, name = dotted.rpartition(".")
    if package == "e5.adapters" or package.startswith("e5.adapters."):
        return True
    return dotted == "e5" or (package in FILES and name in public_names(package))


def test_there_are_modules_to_check() -> None:
    assert {"client", "cog", "corpora", "gateway", "serving"} <= set(SUBPACKAGES)
    assert "e5.embedder" in MODULES
    assert "e5.serving.service" in MODULES
    assert subpackage_of("e5.embedder") is None
    assert subpackage_of("e5.serving.service") == "serving"
    assert "e5.packing" in modules_imported("e5.forward")
    assert is_public("e5.Client")
    assert is_public("e5.client.Client")
    assert not is_public("e5.client.client.Client")
    assert not is_public("e5.embedder.Embedder")


class TestImports:
    """The core imports no subpackage, and subpackages import others only downwards."""

    def test_there_is_no_circle(self) -> None:
        tuple(TopologicalSorter({name: modules_imported(name) for name in MODULES}).static_order())

    @pytest.mark.parametrize("module", MODULES)
    def test_a_module_imports_only_what_is_below_it(self, module: str) -> None:
        mine = subpackage_of(module)
        for other in modules_imported(module):
            assert other != "e5" or mine in ("cli", "corpora"), f"{module} imports all of e5"
            theirs = subpackage_of(other)
            if theirs is not None and theirs != mine:
                assert mine is not None, f"{module}, of the core, imports {other}"
                assert theirs in MAY_IMPORT.get(mine, set()), f"{module} imports {other}"

    @pytest.mark.parametrize(
        "file",
        [*FILES.values(), *PROGRAMS, *TESTS],
        ids=lambda file: str(file.relative_to(PROJECT)),
    )
    def test_only_a_subpackage_and_its_tests_import_its_private_modules(self, file: Path) -> None:
        folders = file.relative_to(PROJECT).parts[:-1]
        if folders[:2] in {("tests", "support"), ("scripts", "benchmarks")}:
            return  # tools of the subpackages' own tests, and measurements of single parts
        own = folders[1] if len(folders) > 1 else None
        if file == PROJECT / "predict.py":
            own = "cog"  # Cog's static parser needs the module that defines the output
        private = {
            full
            for full in imported(file)
            if subpackage_of(full) not in (None, own)
            and full.removeprefix("e5.") not in SUBPACKAGES
            and not is_public(full)
        }
        assert not private

    def test_only_predict_and_its_subpackage_import_cog(self) -> None:
        importers = {
            name
            for name, file in (FILES | {"predict": PROJECT / "predict.py"}).items()
            if any(full.split(".")[0] == "cog" for full in imported(file))
        }
        assert "predict" in importers
        assert all(name == "predict" or subpackage_of(name) == "cog" for name in importers)

    @pytest.mark.parametrize("library", ["accelerate", "bitsandbytes", "transformers"])
    def test_only_the_other_engine_imports_its_libraries(self, library: str) -> None:
        importers = {
            name
            for name, file in FILES.items()
            if any(full.split(".")[0] == library for full in imported(file))
        }
        assert importers <= {"e5.quantization", "e5.reference"}


class TestOnePath:
    """A text becomes a vector in `Embedder` alone."""

    @pytest.mark.parametrize("module", ALL_BUT_EMBEDDER)
    def test_no_other_module_builds_a_prompt(self, module: str) -> None:
        if module not in ("e5.prompts", "e5.prompt_tokenizer"):
            names = imported(FILES[module])
            assert not names & {"e5.prompts.query_prompt", "e5.prompts.document_prompt"}
            assert "e5.prompts" not in names

    @pytest.mark.parametrize("module", ALL_BUT_EMBEDDER)
    def test_no_other_module_looks_for_vectors_that_are_not_finite(self, module: str) -> None:
        if module not in ("e5.self_check", "e5.lora"):  # e5.lora looks at an adapter's tensors
            assert not re.search(r"isfinite|isnan|nan_to_num", FILES[module].read_text())

    def test_no_code_uses_the_parts_of_an_embedder(self) -> None:
        for file in [*(FILES[name] for name in ALL_BUT_EMBEDDER), *PROGRAMS]:
            found = re.search(r"embedder\.(_?engine|_?tokenizer)\b", file.read_text())
            assert found is None, f"{file}: {found}"


def names_defined(file: Path) -> Iterator[str]:
    """The public names that a module defines at its top level."""
    for node in ast.parse(file.read_text(encoding="utf-8")).body:
        names: list[str] = []
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            names = [node.name]
        elif isinstance(node, ast.Assign):
            names = [n.id for t in node.targets for n in ast.walk(t) if isinstance(n, ast.Name)]
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            names = [node.target.id]
        yield from (name for name in names if not name.startswith("_") and name != "logger")


# What differs in `adapter` and `adapters`, `stored` and `storage`, `server` and `serving`.
ENDING = re.compile(r"(e|s|es|ed|er|ers|or|ors|ing|age|ages)?$")


def stem(name: str) -> str:
    return ENDING.sub("", name, count=1)


class TestNames:
    """A name stands for one thing."""

    def test_no_public_name_is_defined_in_two_modules(self) -> None:
        modules_by_name = defaultdict(list)
        for module in MODULES:
            for name in set(names_defined(FILES[module])):
                modules_by_name[name].append(module)
        assert not {name: found for name, found in modules_by_name.items() if len(found) > 1}

    def test_names_of_modules_that_differ_by_an_ending_are_found(self) -> None:
        for one, other in (("adapter", "adapters"), ("stored", "storage"), ("server", "serving")):
            assert stem(one) == stem(other)
        assert stem("packing") != stem("errors")

    @pytest.mark.parametrize("folder", ["", *SUBPACKAGES])
    def test_no_two_modules_of_a_folder_differ_only_by_an_ending(self, folder: str) -> None:
        paths = (PROJECT / "e5" / folder).iterdir()
        names = [p.stem for p in paths if p.suffix == ".py" or (p / "__init__.py").is_file()]
        by_stem = defaultdict(list)
        for name in names:
            by_stem[stem(name)].append(name)
        assert all(len(found) == 1 for found in by_stem.values()), by_stem


class TestPublicNames:
    """What users import, lazily."""

    def test_those_of_e5_are_these(self) -> None:
        assert e5.__all__ == [
            "AsyncClient",
            "Client",
            "E5Error",
            "Embedder",
            "Encoder",
            "EngineError",
            "FieldError",
            "FileError",
            "InputError",
            "NonFiniteError",
            "OutOfMemoryError",
            "QueueFullError",
            "RequestTooLargeError",
            "ServiceError",
            "Settings",
            "SettingsError",
            "TASKS",
            "Task",
            "TextError",
            "TokenizerError",
            "WeightsError",
        ]
        assert all(inspect.isclass(getattr(e5, name)) for name in e5.__all__ if name != "TASKS")

    @pytest.mark.parametrize(
        ("package", "names"),
        [
            ("e5", {"Client", "Embedder"}),
            ("e5.audit", {"AuditReport", "Sample", "audit", "sample_endpoint", "sample_files"}),
            ("e5.client", {"AsyncClient", "Client"}),
            ("e5.corpora", {"Cluster", "Corpus", "Index", "Loop", "ShardFolder", "embed_corpus"}),
            ("e5.gateway", {"Gateway"}),
            ("e5.serving", {"Answer", "EmbedRequest", "Service"}),
        ],
    )
    def test_they_are_sorted_and_each_is_there(self, package: str, names: set[str]) -> None:
        module = importlib.import_module(package)
        exported = public_names(package)
        assert names <= set(exported)
        assert exported == sorted(set(exported))
        assert set(exported) <= set(dir(module))
        for name in exported:
            assert getattr(module, name) is not None
        with pytest.raises(AttributeError, match=f"module '{package}' has no attribute 'Embeder'"):
            module.Embeder  # noqa: B018

    @pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
    def test_the_documents_use_no_others(self, document: Path) -> None:
        blocks = re.findall(r"```python\n(.*?)```", document.read_text(encoding="utf-8"), re.DOTALL)
        names = {name for block in blocks for name in imported_names(block)}
        ours = {name for name in names if name.split(".")[0] == "e5"}
        assert not {name for name in ours if not is_public(name)}


RAISES = re.compile(r"^Raises:\n((?:    .*(?:\n|\Z)|\n)+)", re.MULTILINE)


def errors_raised(docstring: str) -> set[str]:
    """The errors that a docstring names under `Raises:`."""
    sections = RAISES.findall(docstring)
    return {n for text in sections for n in re.findall(r"^    (\w+): ", text, re.MULTILINE)}


def test_users_can_import_every_error_that_a_docstring_names() -> None:
    named = set()
    for file in FILES.values():
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                named |= errors_raised(ast.get_docstring(node) or "")
    assert {"InputError", "WeightsError"} <= named
    assert named & ERRORS_BY_NAME.keys() <= set(e5.__all__)
    others = {name for name in named - ERRORS_BY_NAME.keys() if not hasattr(builtins, name)}
    defined = {name for module in MODULES for name in names_defined(FILES[module])}
    assert others <= defined


@pytest.mark.parametrize("module", sorted(FILES))
def test_every_module_says_what_it_does(module: str) -> None:
    docstring = ast.get_docstring(ast.parse(FILES[module].read_text(encoding="utf-8")))
    assert docstring is not None
    first_line = docstring.splitlines()[0]
    assert len(first_line) > 20
    assert first_line[-1] in ".:?!,"


@pytest.mark.parametrize("module", [name for name in MODULES if name != "e5.__main__"])
def test_every_module_has_its_tests(module: str) -> None:
    *folders, name = module.split(".")[1:]
    assert (PROJECT / "tests" / Path(*folders) / f"test_{name}.py").is_file()


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
        # Importing a package costs nothing; the names of one use no others' libraries.
        ("import e5, e5.audit, e5.client, e5.corpora, e5.gateway, e5.serving", set()),
        ("from e5 import Settings, TASKS, InputError, Encoder", set()),
        ("from e5 import Client", {"pydantic"}),
        ("from e5.corpora import Index", {"pydantic", "pyarrow", "lancedb"}),
        ("from e5.serving import FrontConfig", set()),
        ("from e5.serving import run_processes", {"pydantic", "tokenizers"}),  # the parent
        ("from e5.serving import EmbedRequest", {"pydantic"}),
        ("from e5.serving import Engines, Service", {"pydantic", "tokenizers"}),
        ("from e5.cog.output import Output", {"pydantic"}),
        (f"import e5.reference, e5.quantization; {LOAD}", {"torch", "tokenizers", "pydantic"}),
        ("import predict", {"torch", "tokenizers", "pydantic", "cog"}),
    ],
)
def test_an_import_loads_only_the_libraries_that_it_needs(code: str, needed: set[str]) -> None:
    assert loaded_by(code) & HEAVY <= needed


# Their examples need a running service, the 7B model, files or another framework.
NOT_RUN = {
    *("e5.engine", "e5.client.batch", "e5.client.prediction", "e5.client.remote"),
    *("e5.client.client", "e5.client.async_client", "e5.corpora.index", "e5.corpora.loop"),
    *("e5.serving.engines", "e5.serving.service", "e5.adapters.haystack", "e5.adapters.langchain"),
    *("e5.adapters.llamaindex", "e5.adapters.mteb", "e5.corpora.cluster", "e5.corpora.run"),
}


def with_examples() -> list[str]:
    return [
        name
        for name in MODULES
        if name not in NOT_RUN and ">>> " in FILES[name].read_text(encoding="utf-8")
    ]


@pytest.mark.parametrize("module", with_examples())
def test_examples_in_docstrings_give_what_they_say(
    module: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(PROJECT)
    result = doctest.testmod(importlib.import_module(module), raise_on_error=True)
    assert result.attempted > 0
    assert result.failed == 0


def test_versions_of_the_package_and_of_its_history_agree() -> None:
    declared = re.search(r'^version = "(.+)"$', (PROJECT / "pyproject.toml").read_text(), re.M)
    assert declared is not None
    releases = re.findall(r"^## \[?(\d[^\s\]]*)", (PROJECT / "CHANGELOG.md").read_text(), re.M)
    assert releases[0] == declared[1]
    assert all(newer != older for newer, older in pairwise(releases))
