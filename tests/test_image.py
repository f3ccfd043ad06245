"""The image: cog.yaml, requirements.txt and pyproject.toml say the same."""

import re
import tomllib
from pathlib import Path

import yaml
from packaging.requirements import Requirement

import e5.settings

ROOT = Path(__file__).resolve().parent.parent
COG = yaml.safe_load((ROOT / "cog.yaml").read_text())
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
PINNED = {
    requirement.name: requirement
    for line in (ROOT / "requirements.txt").read_text().splitlines()
    if line and not line.startswith("#")
    for requirement in [Requirement(line)]
}
DECLARED = {Requirement(text).name: Requirement(text) for text in PROJECT["dependencies"]}


def test_every_requirement_of_the_image_is_pinned_exactly() -> None:
    assert all(re.fullmatch(r"==[\w.]+", str(pin.specifier)) for pin in PINNED.values())


def test_the_image_installs_what_the_project_declares_in_the_same_versions() -> None:
    assert PINNED.keys() | {"cog"} == DECLARED.keys()
    for name in PINNED.keys() - {"torch"}:
        assert PINNED[name].specifier == DECLARED[name].specifier


def test_the_image_s_torch_is_one_the_code_supports_and_cog_knows() -> None:
    version = str(PINNED["torch"].specifier).removeprefix("==")
    assert DECLARED["torch"].specifier.contains(version)
    # The last torch in Cog 0.23.1's own table, and a CUDA that the table pairs with it.
    assert (version, COG["build"]["cuda"]) == ("2.11.0", "12.6")


def test_cog_itself_is_pinned_where_cog_reads_it() -> None:
    assert str(DECLARED["cog"].specifier) == f"=={COG['build']['sdk_version']}"


def test_cog_yaml_names_the_predictor_the_requirements_and_a_supported_python() -> None:
    assert COG["run"] == "predict.py:Predictor"
    assert COG["build"]["gpu"] is True
    assert COG["build"]["python_requirements"] == "requirements.txt"
    assert Requirement(f"python{PROJECT['requires-python']}").specifier.contains(
        COG["build"]["python_version"]
    )


def test_the_image_serves_the_7b_model_by_default() -> None:
    environment = dict(entry.split("=", 1) for entry in COG["environment"])
    assert environment["E5_WEIGHTS"] == e5.settings.Settings().weights


def test_nothing_that_the_image_needs_is_left_out_of_it() -> None:
    ignored = {line.strip("/ ") for line in (ROOT / ".dockerignore").read_text().splitlines()}
    assert not {"e5", "weights", "predict.py", "requirements.txt", "cog.yaml"} & ignored
