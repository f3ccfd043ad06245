"""Serve the clients of OpenAI, Cohere, Voyage and text-embeddings-inference.

    E5_WEIGHTS=weights/e5-mini e5 gateway            the model in this process
    e5 gateway --backend http://127.0.0.1:5000       a Cog server of this project

HOST and PORT say where it listens; the default is 127.0.0.1 and 8080. E5_WEIGHTS and the other
settings choose the model. With --backend, E5_WEIGHTS is where the tokenizer is for /tokenize.
E5_DRAIN_SECONDS is how long /ready says 503 after SIGTERM, before the gateway ends.
"""

import argparse
import logging
import os
import re
import socket
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from e5.cli.address import begin_to_listen, bound_socket, url_host
from e5.cli.options import caller_errors, command_parser, read_lines
from e5.errors import InputError, shortened
from e5.settings import Settings

if TYPE_CHECKING:
    from e5.audit import VectorAuditor
    from e5.gateway import Backend

# In a browser's words: lower case, without a path, without a port that goes without saying.
ORIGIN = re.compile(r"\*|null|(?!https://.*:443$|http://.*:80$)[a-z][a-z0-9+.-]*://[^\sA-Z/?#@*]+")


def gateway_command(arguments: Sequence[str]) -> int:
    """Serve until SIGTERM."""
    options = _parse(arguments)
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
    logging.getLogger("httpx2").setLevel(logging.WARNING)
    with bound_socket(os.environ, default_port=8080) as bound, caller_errors({}, ValueError):
        import uvloop

        uvloop.run(_serve(options, bound))
    return 0


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = command_parser("gateway", __doc__)
    parser.add_argument(
        "--backend",
        metavar="URL",
        help="What computes: http://... of a Cog server, replicate:owner/name[:version] or "
        "replicate-deployment:owner/name. The default is the model in this process.",
    )
    keys = "A file with one key a line; - for the standard input. By default none is needed."
    parser.add_argument("--keys", metavar="FILE", type=Path, help=keys)
    alias = "Another name for the model, for clients that insist on one. May be repeated."
    parser.add_argument("--alias", metavar="NAME=MODEL", action="append", default=[], help=alias)
    cors = (
        "Web pages of these origins may ask from a browser: https://notes.example.org, "
        "app://obsidian.md, or * for all pages. The default is none."
    )
    parser.add_argument(
        "--cors", metavar="ORIGIN", action="extend", nargs="+", default=[], help=cors
    )
    index = "The folder of an index that build-index made; adds POST /search."
    parser.add_argument("--index", metavar="INDEX", help=index)
    return parser.parse_args(arguments)


async def _serve(options: argparse.Namespace, bound: socket.socket) -> None:
    keys = [] if options.keys is None else _read_keys(options.keys)
    aliases = dict(_alias(text) for text in options.alias)
    origins = [_origin(text) for text in options.cors]
    from e5.gateway import Backend, Gateway, InProcessBackend, ModelNames, RemoteBackend, serve

    settings = Settings.from_env() if options.backend is None else _settings_before_a_service()
    index = None
    if options.index is not None:
        from e5.corpora import Index

        index = Index(options.index)
    backend: Backend = (
        InProcessBackend.load(settings)
        if options.backend is None
        else await RemoteBackend.find(options.backend, weights=settings.weights)
    )
    info = await backend.info()
    if index is not None:
        index.check_model(info.name)
    names = ModelNames(info.name, aliases)
    auditor = _auditor(backend)
    gateway = Gateway(backend, names, keys=keys, origins=origins, index=index, auditor=auditor)
    begin_to_listen(bound)
    url = f"http://{url_host(bound)}:{bound.getsockname()[1]}"
    print(f"serving {info.name} on {url}", file=sys.stderr)
    await serve(gateway, bound, drain_seconds=settings.drain_seconds)


def _auditor(backend: "Backend") -> "VectorAuditor | None":
    """What judges vectors with the model in this process; None where that is elsewhere."""
    from e5.gateway import InProcessBackend

    if not isinstance(backend, InProcessBackend):
        return None
    from e5.audit import LocalSource, VectorAuditor

    embedder, settings = backend.embedder, Settings.from_env()
    return VectorAuditor(lambda: LocalSource(embedder, settings, rounding=2e-5, loads_more=False))


def _read_keys(file: Path) -> list[str]:
    """The keys in a file, without blanks at their ends; a header must be able to hold each."""
    keys = {number: key.strip() for number, key in read_lines(file, "--keys", "key").items()}
    for number, key in keys.items():
        if not (key.isascii() and key.isprintable()):
            received = f"{file}, whose line {number} has a character that no header holds"
            raise InputError("--keys", received, "make keys of ASCII's letters, digits and signs")
    return list(keys.values())


def _settings_before_a_service() -> Settings:
    """Those that are of use there; the others may be set for the service, in the same shell."""
    names = ("E5_WEIGHTS", "E5_DRAIN_SECONDS")
    return Settings.from_env({name: os.environ.get(name, "") for name in names})


def _alias(text: str) -> tuple[str, str]:
    name, separator, model = text.partition("=")
    if not (name and separator and model):
        raise InputError("--alias", shortened(text), "write NAME=MODEL")
    return name, model


def _origin(text: str) -> str:
    """An origin as browsers write it."""
    if not ORIGIN.fullmatch(text):
        remedy = (
            "write what a browser sends, such as https://notes.example.org (in lower case, without "
            "a path), or '*' in quotes"
        )
        raise InputError("--cors", shortened(text), remedy)
    return text
