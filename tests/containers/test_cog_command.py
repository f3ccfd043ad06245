"""Cog's own command line, where it is installed: it builds our cog.yaml and asks the image."""

import json
import shutil
import subprocess
from pathlib import Path

import pytest
from containers import ROOT, docker

pytestmark = pytest.mark.skipif(
    shutil.which("cog") is None, reason="Cog's command line is not installed"
)
ON_A_CPU = ["-e", "E5_DEVICE=cpu", "-e", "E5_WEIGHTS=weights/e5-mini", "-e", "E5_DTYPE=float32"]


def cog(*arguments: str, text: str | None = None) -> str:
    done = subprocess.run(["cog", *arguments], cwd=ROOT, input=text, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-4000:]
    return done.stdout


@pytest.fixture(scope="module")
def image() -> str:
    cog("build", "-t", "e5-by-cog")
    return "e5-by-cog"


def test_the_doctor_finds_nothing() -> None:
    cog("doctor")


def test_the_label_has_our_schema(image: str) -> None:
    label = '{{index .Config.Labels "run.cog.openapi_schema"}}'
    schema = json.loads(docker("inspect", "--format", label, image))
    assert schema == json.loads((ROOT / "tests" / "openapi_schema.json").read_text())


def test_inputs_by_option_by_json_and_by_file_are_the_same(image: str, tmp_path: Path) -> None:
    file = tmp_path / "text.txt"
    file.write_text("Frozen water.")
    inputs = json.dumps({"query": "snow", "document": "Frozen water."})
    asked = ["predict", image, *ON_A_CPU]
    given = ["-i", "query=snow", "-i", "document=Frozen water."]
    answers = [
        cog(*asked, *given),
        cog(*asked, *given[:2], "-i", f"document=@{file}"),
        cog(*asked, "--json", "@-", text=inputs),
    ]
    assert json.loads(answers[0])["usage"]["truncated"] == [False, False]
    assert answers[0] == answers[1] == answers[2]


def test_separate_weights_give_two_images() -> None:
    cog("build", "--separate-weights", "-t", "e5-by-cog-apart")
    assert docker("images", "--quiet", "e5-by-cog-apart")
