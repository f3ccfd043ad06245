"""The image and the extras: cog.yaml, requirements.txt and pyproject.toml say the same.

What a package needs is read from the metadata of the packages installed here, with markers
evaluated for the image's system. Knows nothing of what an index offers: scripts/lock asks that.
"""

import re
import sys
import tomllib
from collections import defaultdict
from collections.abc import Iterator
from fnmatch import fnmatchcase
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path, PurePosixPath

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import e5.settings

ROOT = Path(__file__).resolve().parent.parent
COG = yaml.safe_load((ROOT / "cog.yaml").read_text())
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PROJECT = PYPROJECT["project"]
EXTRAS: dict[str, list[str]] = {"": PROJECT["dependencies"], **PROJECT["optional-dependencies"]}
PINS = [
    line
    for line in (ROOT / "requirements.txt").read_text().splitlines()
    if not line.startswith("#")
]
LOCKED = {name: version for name, _, version in (pin.partition("==") for pin in PINS)}

# The image's system, whichever this one is.
SYSTEM = {
    "implementation_name": "cpython",
    "os_name": "posix",
    "platform_machine": "x86_64",
    "platform_python_implementation": "CPython",
    "platform_system": "Linux",
    "python_full_version": "3.11.0",
    "python_version": "3.11",
    "sys_platform": "linux",
}
DOCKERFILE = (ROOT / "Dockerfile").read_text()
TORCH_INDEX = "https://download.pytorch.org/whl"
CUDA = re.compile(r"triton|(cuda|nvidia)-.*")
BY_COG = {"cog", "coglet"}  # cog.yaml pins them: Cog drops both from requirements.txt


def asked(name: str, extra: str) -> Iterator[Requirement]:
    """What a package or its extra asks for: by pyproject.toml if it is ours, else as installed."""
    if name == PROJECT["name"]:
        yield from map(Requirement, EXTRAS[extra])
        return
    try:
        requires = distribution(name).requires or ()
    except PackageNotFoundError:
        if sys.version_info[:2] == (3, 11):
            raise
        return  # what only the image's Python needs is not installed under a newer one
    for requirement in map(Requirement, requires):
        if requirement.marker is None or requirement.marker.evaluate({**SYSTEM, "extra": extra}):
            yield requirement


def needed(*extras: str) -> dict[str, list[Requirement]]:
    """What the base and these extras install, less CUDA libraries: name -> what is asked of it."""
    found: dict[str, list[Requirement]] = defaultdict(list)
    seen = set()
    waiting = [(PROJECT["name"], extra) for extra in ("", *extras)]
    while waiting:
        if (node := waiting.pop()) in seen:
            continue
        seen.add(node)
        for requirement in asked(*node):
            name = canonicalize_name(requirement.name)
            if not CUDA.fullmatch(name):
                found[name].append(requirement)
                waiting += [(name, extra) for extra in ("", *requirement.extras)]
    found.pop(PROJECT["name"], None)
    return found


IMAGE = needed("serve")


def test_every_line_of_the_lock_is_one_exact_pin_that_cog_reads_whole() -> None:
    # Cog would cut off a marker, and the first part of a name with a dot.
    assert [pin for pin in PINS if not re.fullmatch(r"[a-z0-9-]+==[\w.]+", pin)] == []
    assert len(LOCKED) == len(PINS)


def test_the_lock_names_what_the_image_needs_and_nothing_else() -> None:
    assert {"torch", "numpy", "httpx2", "structlog"} < IMAGE.keys()  # structlog: cog asks for it
    assert IMAGE.keys() - BY_COG - LOCKED.keys() == set(), "run scripts/lock"
    assert LOCKED.keys() - IMAGE.keys() == set(), "run scripts/lock"


def test_the_packages_of_the_model_s_card_are_installed() -> None:
    assert {"cog", "torch", "transformers", "accelerate", "pydantic", "numpy"} <= IMAGE.keys()
    assert "bitsandbytes" not in IMAGE


def test_the_lock_has_the_versions_that_the_packages_ask_for() -> None:
    refused = [
        f"{name}=={LOCKED[name]} is not {requirement}"
        for name in LOCKED
        for requirement in IMAGE[name]
        if not requirement.specifier.contains(LOCKED[name], prereleases=True)
    ]
    assert refused == [], "run scripts/lock"


def test_the_lock_has_every_pin_of_pyproject() -> None:
    pins = {pin for texts in EXTRAS.values() for pin in texts if "==" in pin}
    shared = {pin for pin in pins if pin.partition("==")[0] in LOCKED}
    assert {"numpy", "tokenizers"} < {pin.partition("==")[0] for pin in shared}
    assert shared - set(PINS) == set(), "run scripts/lock"


def test_what_the_image_installs_directly_is_pinned_in_pyproject_but_for_torch() -> None:
    (unpinned,) = (text for text in EXTRAS[""] + EXTRAS["serve"] if "==" not in text)
    assert Requirement(unpinned).name == "torch"


def test_the_image_s_torch_is_one_that_cog_knows() -> None:
    # The last torch in Cog 0.23.1's own table, and a CUDA that the table pairs with it.
    assert (LOCKED["torch"], COG["build"]["cuda"]) == ("2.11.0", "12.6")


def test_cog_itself_is_pinned_where_cog_reads_it() -> None:
    assert BY_COG.isdisjoint(LOCKED)
    assert f"cog=={COG['build']['sdk_version']}" in EXTRAS["serve"]
    (install,) = COG["build"]["run"]
    assert install.split()[-1] in EXTRAS["serve"]
    assert install.split()[-1].startswith("coglet==")


def test_cog_yaml_names_the_predictor_the_requirements_and_the_lock_s_python() -> None:
    assert COG["run"] == "predict.py:Predictor"
    assert COG["build"]["gpu"] is True
    assert COG["build"]["python_requirements"] == "requirements.txt"
    python = COG["build"]["python_version"]
    assert f"--python-version {python} " in (ROOT / "scripts" / "lock").read_text()
    assert python == SYSTEM["python_version"]
    assert Requirement(f"python{PROJECT['requires-python']}").specifier.contains(python)


def test_the_image_serves_the_7b_model_by_default() -> None:
    environment = dict(entry.split("=", 1) for entry in COG["environment"])
    assert environment["E5_WEIGHTS"] == e5.settings.Settings().weights


@pytest.mark.parametrize("extras", [(), ("search",)])
def test_nothing_heavy_is_installed_where_no_model_runs(extras: tuple[str, ...]) -> None:
    heavy = {"accelerate", "cog", "coglet", "ray", "safetensors", "torch", "transformers"}
    assert heavy & needed(*extras).keys() == set()


@pytest.mark.parametrize("extra", ["benchmark", "cluster", "corpus", "test", "train"])
def test_what_runs_the_model_in_its_own_process_installs_it(extra: str) -> None:
    todo, reached = [extra], set()
    while todo:
        reached.add(name := todo.pop())
        for requirement in map(Requirement, EXTRAS[name]):
            if requirement.name == PROJECT["name"]:
                todo += requirement.extras
    assert "serve" in reached


def test_the_hub_s_client_that_downloads_weights_comes_with_transformers() -> None:
    assert "huggingface-hub" in {one.name for one in asked("transformers", "")}


def test_the_wheel_has_every_module_and_every_other_file_of_the_package() -> None:
    setuptools = PYPROJECT["tool"]["setuptools"]
    patterns = setuptools["packages"]["find"]["include"]
    folders = {path.parent.relative_to(ROOT) for path in (ROOT / "e5").rglob("*.py")}
    assert [folder for folder in folders if not (ROOT / folder / "__init__.py").exists()] == []
    for folder in folders:
        assert any(fnmatchcase(".".join(folder.parts), pattern) for pattern in patterns), folder
    for name in ["e5_mistral_service", "scripts.training", "tests", "weights"]:
        assert not any(fnmatchcase(name, pattern) for pattern in patterns), name

    files = {path for path in (ROOT / "e5").rglob("*") if path.is_file()}
    assert {path for path in files if path.suffix not in (".py", ".pyc")} == {
        path
        for package, names in setuptools["package-data"].items()
        for name in names
        for path in ROOT.joinpath(*package.split(".")).glob(name)
    }


def is_in_image(path: str) -> bool:
    """Docker's rule: the last line that matches the path, or a folder above it, decides."""
    kept = True
    for line in (ROOT / ".dockerignore").read_text().splitlines():
        if line and not line.startswith("#"):
            escaped = re.escape(line.removeprefix("!").strip("/"))
            pattern = escaped.replace(r"\*\*/", "(.*/)?").replace(r"\*", "[^/]*")
            names = [path, *map(str, PurePosixPath(path).parents)]
            if any(re.fullmatch(pattern, name) for name in names):
                kept = line.startswith("!")
    return kept


def test_the_image_has_the_package_the_predictor_the_probe_and_the_weights() -> None:
    modules = [str(path.relative_to(ROOT)) for path in (ROOT / "e5").rglob("*.py")]
    assert len({module.split("/")[1] for module in modules}) < len(modules)  # wings were found
    weights = [str(path.relative_to(ROOT)) for path in (ROOT / "weights" / "e5-mini").iterdir()]
    others = ["predict.py", "cog.yaml", "requirements.txt", "scripts/probe"]
    others += ["weights/e5-mistral-7b-instruct/model-00001-of-00002.safetensors"]
    assert [path for path in [*modules, *weights, *others] if not is_in_image(path)] == []


@pytest.mark.parametrize(
    "path",
    [
        ".git/config",
        ".venv/bin/python",
        ".mypy_cache/3.11/e5",
        "docs/index.md",
        "e5/serving/__pycache__/answer.cpython-311.pyc",
        "e5_mistral_service.egg-info/PKG-INFO",
        "scripts/search",
        "scripts/lock",
        "tests/serving/test_request.py",
    ],
)
def test_the_image_has_nothing_that_only_developers_need(path: str) -> None:
    assert not is_in_image(path)


def test_the_dockerfile_installs_the_torch_of_cog_s_image_and_that_of_the_demo() -> None:
    server = {"TORCH_VERSION": LOCKED["torch"]}
    server["TORCH_INDEX"] = f"{TORCH_INDEX}/cu{COG['build']['cuda'].replace('.', '')}"
    arguments = re.findall(r"^ARG (TORCH_\w+)=(.*)$", DOCKERFILE, re.MULTILINE)
    assert dict(arguments) == server
    (demo,) = set(re.findall(r"torch==\d[\d.]*", DOCKERFILE))
    assert demo in (ROOT / "scripts" / "install").read_text()
    assert f"{TORCH_INDEX}/cpu " in DOCKERFILE


@pytest.mark.parametrize("path", ["compose.yaml", "compose.demo.yaml"])
def test_the_compose_files_build_targets_of_the_dockerfile(path: str) -> None:
    targets = set(re.findall(r"^FROM \S+ AS (\S+)$", DOCKERFILE, re.MULTILINE))
    assert {"gateway", "demo", "server"} < targets
    services = yaml.safe_load((ROOT / path).read_text())["services"].values()
    built = {service["build"]["target"] for service in services if "build" in service}
    assert "gateway" in built <= targets
    assert all(service["restart"] == "unless-stopped" for service in services)
    (health,) = (service["healthcheck"]["test"] for service in services if "healthcheck" in service)
    assert health[-1] == "--end"


def test_each_file_that_the_dockerfile_copies_is_there() -> None:
    copied = re.findall(r"^COPY (?!--from)(.*) \S+$", DOCKERFILE, re.MULTILINE)
    for path in " ".join(copied).split():
        assert (ROOT / path).exists()
        assert is_in_image(path)
