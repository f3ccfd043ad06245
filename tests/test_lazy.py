"""A package's public names are imported when they are first used, and not before."""

import importlib
import sys
from pathlib import Path

import pytest

INIT = """
from typing import TYPE_CHECKING

from e5.lazy import lazy_exports

if TYPE_CHECKING:
    from a_package.inner import NAME as NAME
    from a_package.gone import GONE as GONE

__all__, __getattr__, __dir__ = lazy_exports(__name__)
"""


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A package whose only module counts how often it is imported."""
    folder = tmp_path / "a_package"
    folder.mkdir()
    (folder / "__init__.py").write_text(INIT)
    (folder / "inner.py").write_text("NAME = object()\n")
    monkeypatch.syspath_prepend(tmp_path)
    for name in ("a_package", "a_package.inner"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    return "a_package"


def test_a_name_is_imported_when_it_is_first_used(package: str) -> None:
    module = importlib.import_module(package)
    assert "a_package.inner" not in sys.modules
    first = module.NAME
    assert "a_package.inner" in sys.modules
    assert module.NAME is first
    assert vars(module)["NAME"] is first  # so that the next use costs nothing


def test_dir_lists_the_names_before_they_are_imported(package: str) -> None:
    module = importlib.import_module(package)
    assert dir(module) == module.__all__ == ["GONE", "NAME"]
    assert "a_package.inner" not in sys.modules


def test_any_other_name_is_an_attribute_error(package: str) -> None:
    module = importlib.import_module(package)
    with pytest.raises(AttributeError, match="module 'a_package' has no attribute 'OTHER'"):
        module.OTHER  # noqa: B018
    assert not hasattr(module, "OTHER")


def test_a_module_that_is_missing_is_named(package: str) -> None:
    module = importlib.import_module(package)
    with pytest.raises(ModuleNotFoundError, match=r"a_package\.gone") as raised:
        module.GONE  # noqa: B018
    assert not hasattr(raised.value, "__notes__")  # no extra has it


@pytest.mark.parametrize(
    ("missing", "extras"),
    [
        ("torch", ["serve"]),
        ("prometheus_client", ["gateway"]),
        ("lancedb.query", ["search"]),
        ("pyarrow", ["corpus", "search"]),
    ],
)
def test_a_package_that_is_missing_is_named_with_the_extras_that_have_it(
    missing: str, extras: list[str], package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a_package" / "gone.py").write_text(f"import {missing}\n")
    monkeypatch.setitem(sys.modules, missing.partition(".")[0], None)  # as if not installed
    monkeypatch.setitem(sys.modules, missing, None)
    module = importlib.import_module(package)
    with pytest.raises(ModuleNotFoundError) as raised:
        module.GONE  # noqa: B018
    commands = " or ".join(f'pip install "e5-mistral-service[{each}]"' for each in extras)
    assert raised.value.__notes__ == [f"a_package.GONE needs it: run {commands}"]
