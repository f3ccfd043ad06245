"""Requests that schemathesis makes from three descriptions: our own, OpenAI's, and Hugging Face's.

The real server over real HTTP. OpenAI's and text-embeddings-inference's descriptions are in
tests/specs; what is not checked of them has its reason here.
"""

import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from gateway_server import GatewayServer, serve_gateway

pytestmark = pytest.mark.slow  # starts a server

SPECS = Path(__file__).parents[1] / "specs"
OURS = (
    *("not_a_server_error", "status_code_conformance", "content_type_conformance"),
    *("response_headers_conformance", "response_schema_conformance", "unsupported_method"),
    *("allow_header_conformance", "negative_data_rejection", "missing_required_header"),
    # Not positive_data_acceptance: two fields that are right alone may contradict each other.
)
# What a wrong request may get: 413 too, for a body of 32 MB that is wrong in other ways as well.
REFUSALS = ["400", "401", "403", "404", "405", "406", "409", "413", "415", "422", "428", "429"]
NAMES = ("text-embedding-ada-002", "text-embedding-3-small", "text-embedding-3-large")


@pytest.fixture(scope="module")
def gateway() -> Iterator[GatewayServer]:
    aliases = [word for name in NAMES for word in ("--alias", f"{name}=e5-mini")]
    with serve_gateway(*aliases) as running:
        yield running


FEW = 5
AGAIN = (  # paths that take what another one takes, or almost
    "^/(deployments|models|openai|projects|pipeline|hf-inference)/|^/v1/models/.name.:|/retrieval/"
    "|:(embed|count)|/publishers/.*:batch|^/(check|detokenize)|^/api/(emb.*s|ps)"
)


# Besides the values at the edges of every field, of which there are some 1,800 for our own.
@pytest.fixture(params=[FEW, pytest.param(40, marks=pytest.mark.long)])
def examples(request: pytest.FixtureRequest) -> int:
    """Random requests for each route, as far as they differ."""
    number: int = request.param
    return number


def check(
    description: str,
    url: str,
    checks: tuple[str, ...],
    folder: Path,
    examples: int,
    options: Sequence[str] = (),
) -> None:
    """The same requests in every run."""
    tool = Path(sys.executable).with_name("st")
    options = [*options, "--phases", "examples,coverage,fuzzing", "--no-color"]
    options += ["--max-examples", str(examples)]
    # On a busy machine, what it makes and what it waits for takes time.
    options += ["--suppress-health-check", "too_slow,filter_too_much", "--request-timeout", "120"]
    (folder / "schemathesis.toml").write_text(
        f"[checks.negative_data_rejection]\nexpected-statuses = {json.dumps(REFUSALS)}\n"
    )
    done = subprocess.run(
        [
            *(str(tool), "run", description, "--url", url, "--checks", ",".join(checks)),
            *(*options, "--generation-deterministic"),
        ],
        cwd=folder,  # it leaves files
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_our_own(gateway: GatewayServer, tmp_path: Path, examples: int) -> None:
    options = ["--exclude-path-regex", AGAIN] if examples == FEW else []
    check(f"{gateway.url}/openapi.json", gateway.url, OURS, tmp_path, examples, options)
    assert gateway.counted(status="200") > 100  # not all of it was refused
    assert gateway.counted(status="502") == 0


def test_text_embeddings_inference_s(gateway: GatewayServer, tmp_path: Path, examples: int) -> None:
    checks = ("not_a_server_error", "response_schema_conformance", "status_code_conformance")
    check(str(SPECS / "tei-embed.json"), gateway.url, checks, tmp_path, examples)


def test_openai_s(gateway: GatewayServer, tmp_path: Path, examples: int) -> None:
    description = json.loads((SPECS / "openai-embeddings.json").read_text())
    # It does not say what base64 looks like, which its own clients ask for by default.
    embedding = description["components"]["schemas"]["Embedding"]["properties"]["embedding"]
    numbers = dict(embedding)
    embedding.clear()
    embedding["anyOf"] = [numbers, {"type": "string"}]
    file = tmp_path / "openai.json"
    file.write_text(json.dumps(description))
    # Not status_code_conformance: it lists 200 and 429 alone.
    checks = ("not_a_server_error", "response_schema_conformance")
    check(str(file), f"{gateway.url}/v1", checks, tmp_path, examples)
