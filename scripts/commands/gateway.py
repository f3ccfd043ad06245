"""The gateway: OpenAI's, Cohere's, Voyage's and text-embeddings-inference's clients at one service.

    E5_WEIGHTS=weights/e5-mini ./scripts/gateway          the model in this process
    ./scripts/gateway --backend http://127.0.0.1:5000     a Cog server of this project

HOST and PORT say where it listens; default 127.0.0.1 and 8080.
"""

import argparse
import logging
import os
import sys
from pathlib import Path

import uvloop

from e5.errors import E5Error, InputError, shortened
from e5.gateway import (
    Backend,
    Gateway,
    InProcessBackend,
    ModelNames,
    RemoteBackend,
    Searchable,
    serve,
)
from e5.settings import Settings


def main() -> int:
    """Serve until SIGTERM; 1 with one sentence where that cannot begin."""
    parser = argparse.ArgumentParser(
        prog="gateway",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "--backend",
        metavar="URL",
        help="http://... of a Cog server, replicate:owner/name[:version] or "
        "replicate-deployment:owner/name; default: the model in this process, by E5_WEIGHTS",
    )
    parser.add_argument(
        "--keys", metavar="FILE", type=Path, help="one key a line; none: all may ask"
    )
    parser.add_argument(
        "--alias",
        metavar="NAME=MODEL",
        action="append",
        default=[],
        help="another name for the model, for clients that insist on one; may be repeated",
    )
    parser.add_argument(
        "--index", metavar="INDEX", help="of scripts/build_index; adds POST /search"
    )
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
    logging.getLogger("httpx2").setLevel(logging.WARNING)
    try:
        uvloop.run(_run(arguments))
    except (E5Error, OSError, ValueError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


async def _run(arguments: argparse.Namespace) -> None:
    host, port = os.environ.get("HOST", "127.0.0.1"), _port(os.environ.get("PORT", "8080"))
    keys = _keys(arguments.keys)
    aliases = dict(_alias(text) for text in arguments.alias)
    index = _index(arguments.index)
    backend: Backend = (
        InProcessBackend.load(Settings.from_env())
        if arguments.backend is None
        else await RemoteBackend.find(arguments.backend)
    )
    info = await backend.info()
    if index is not None:
        index.check_model(info.name)
    gateway = Gateway(backend, ModelNames(info.name, aliases), keys=keys, index=index)
    print(f"serving {info.name} on http://{host}:{port}", file=sys.stderr)
    await serve(gateway, host=host, port=port)


def _port(text: str) -> int:
    if not text.isdecimal() or not 0 < int(text) < 2**16:
        raise InputError("PORT", repr(text[:20]), "use 1 to 65535")
    return int(text)


def _keys(file: Path | None) -> list[str]:
    """The lines of the file that are not blank; at least one, or nobody could ask."""
    if file is None:
        return []
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        cannot = f"{file}, which cannot be read ({type(error).__name__})"
        raise InputError("--keys", cannot, "name a text file with one key a line") from error
    keys = [line.strip() for line in lines if line.strip()]
    if not keys:
        raise InputError("--keys", f"{file}, which holds no key", "write one key a line")
    return keys


def _alias(text: str) -> tuple[str, str]:
    name, separator, model = text.partition("=")
    if not (name and separator and model):
        raise InputError("--alias", shortened(text), "write NAME=MODEL")
    return name, model


def _index(location: str | None) -> Searchable | None:
    if location is None:
        return None
    from e5.corpora.index import Index

    return Index(location)


if __name__ == "__main__":
    sys.exit(main())
