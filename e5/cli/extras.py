"""The subcommands, and the extras of pyproject.toml that each command line needs.

Needs the standard library alone, of any Python 3: scripts/launch runs this file before anything is
installed. `python3 e5/cli/extras.py gateway --backend URL` prints `gateway`.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.util import find_spec

SUBCOMMANDS = {
    "serve": "Answer predictions over HTTP, as the Cog image does.",
    "gateway": "Serve the clients of OpenAI, Cohere, Voyage and text-embeddings-inference.",
    "predict": "Make one prediction and print it.",
    "embed-corpus": "Embed the documents of a corpus into a folder of Parquet shards.",
    "build-index": "Make an index of a folder of shards, or update it.",
    "search": "Search an index.",
    "audit": "Say whether vectors are right, and if not, what was done to them.",
    "download-weights": "Download the weights of a model, or verify a checkpoint.",
}

# The modules that each extra installs.
_SERVE = "accelerate cog coglet huggingface_hub orjson safetensors tokenizers torch transformers"
_CORPUS = f"{_SERVE} fsspec pyarrow semantic_text_splitter"
MODULES_BY_EXTRA = {
    "serve": _SERVE.split(),
    "corpus": _CORPUS.split(),
    "cluster": f"{_CORPUS} ray".split(),
    "search": ["fsspec", "lancedb", "pyarrow"],
    "gateway": ["httptools", "orjson", "prometheus_client", "starlette", "uvicorn", "uvloop"],
}


def needed_extras(command: str, arguments: Sequence[str]) -> list[str]:
    """The extras that a subcommand needs for these arguments.

    Example:
        >>> needed_extras("gateway", ["--backend", "http://127.0.0.1:5000"])
        ['gateway']
        >>> needed_extras("embed-corpus", ["in", "out", "--runner=ray"])
        ['cluster']
    """
    options = {text.partition("=")[0] for text in arguments if text.startswith("--")}
    if command == "gateway":
        model = ["serve"] if "--backend" not in options else []
        return ["gateway", *model, *(["search"] if "--index" in options else [])]
    if command == "search":
        return ["search"] if "--url" in options else ["serve", "search"]
    if command == "audit":
        return [
            *(["serve"] if "--reference" not in options else []),
            *(["search"] if "--url" not in options else []),
        ]
    if command == "build-index":
        return ["search"]
    if command == "embed-corpus":
        is_ray = "--runner=ray" in "=".join(arguments)  # in one argument or in two
        return ["cluster" if is_ray else "corpus"]
    return ["serve"]


def missing_extras(command: str, arguments: Sequence[str]) -> str | None:
    """One sentence that says which extras to install; None if nothing is missing."""
    extras = [
        extra
        for extra in needed_extras(command, arguments)
        if any(find_spec(name) is None for name in MODULES_BY_EXTRA[extra])
    ]
    if not extras:
        return None
    install = f'pip install "e5-mistral-service[{",".join(extras)}]"'
    return f"e5 {command} needs more packages: run {install}"


if __name__ == "__main__":
    print(",".join(needed_extras(sys.argv[1], sys.argv[2:])))
