"""What scripts/demo prints to go on with can be typed as it stands there."""

import json
import os
import re
import shutil
import signal
import subprocess
from pathlib import Path

import numpy as np
import pytest
from checkpoints import load
from server import kill_group

ROOT = Path(__file__).parent.parent
QUERY, DOCUMENTS = "what is snow", ["Frozen water.", "A kind of car."]


def shell(command: str) -> str:
    done = subprocess.run(["bash", "-c", command], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl")
def test_with_serve_the_page_curl_and_python_work_as_printed_until_ctrl_c(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with log.open("w") as errors:
        demo = subprocess.Popen(
            [ROOT / "scripts/demo", "--serve"],
            env={**os.environ, "E5_DTYPE": "float32", "E5_DEVICE": "cpu"},
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=errors,
            start_new_session=True,
        )
    try:
        assert demo.stdout is not None
        printed = ""
        while "Ctrl-C" not in printed:
            line = demo.stdout.readline().decode()
            assert line, log.read_text()
            printed += line
        [page] = re.findall(r"^A page .*: (http://127\.0\.0\.1:\d+/)$", printed, re.MULTILINE)
        [curl] = re.findall(r"^curl .*", printed, re.MULTILINE)
        [python] = re.findall(r"^\S*python -c .*", printed, re.MULTILINE)

        embedder = load(ROOT / "weights/e5-mini")
        queries = embedder.encode_query([QUERY])
        [answer] = json.loads(shell(curl))["data"]
        [vector] = embedder.encode_query([QUERY], dimensions=8, normalize=True)
        np.testing.assert_allclose(answer["embedding"], vector, atol=1e-5)
        scores = np.array(re.findall(r"[\d.]+", shell(python)), float)
        expected = embedder.similarity(queries, embedder.encode_document(DOCUMENTS))[0]
        np.testing.assert_allclose(scores, expected, atol=1e-3)
        assert "<title>E5-Mistral" in shell(f"curl -s {page}")

        os.killpg(demo.pid, signal.SIGINT)  # as a terminal does it
        rest, _ = demo.communicate(timeout=60)
        assert (demo.returncode, rest) == (0, b""), log.read_text()
        refused = subprocess.run(["curl", "-s", page], capture_output=True)
        assert refused.returncode == 7  # "Failed to connect to host"
    finally:
        kill_group(demo)


def test_an_option_that_does_not_exist_starts_nothing() -> None:
    done = subprocess.run([ROOT / "scripts/demo", "--sreve"], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.endswith("demo: error: unrecognized arguments: --sreve\n")
