"""Serve the clients of OpenAI, Cohere, Voyage and text-embeddings-inference.

    E5_WEIGHTS=weights/e5-mini e5 gateway            the model in this process
    e5 gateway --backend http://127.0.0.1:5000       a Cog server of this project
    e5 gateway --engines all                         the model on each card of this machine

HOST and PORT say where it listens; the default is 127.0.0.1 and 8080. E5_WEIGHTS and the other
settings choose the model. With --backend, E5_WEIGHTS is the folder of the tokenizer for /tokenize.
E5_DRAIN_SECONDS is how long /ready says 503 after SIGTERM, before the gateway ends.
"""

import argparse
import asyncio
import logging
import os
import re
import socket
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from e5.cli.address import begin_to_listen, bound_socket, url_host
from e5.cli.options import caller_errors, command_parser, read_lines
from e5.errors import InputError, shortened
from e5.serving import FrontConfig
from e5.settings import Settings

if TYPE_CHECKING:
    from e5.audit import VectorAuditor
    from e5.embedder import Embedder

# As browsers write it: in lower case, without a path, and without the scheme's own port.
ORIGIN = re.compile(r"\*|null|(?!https://.*:443$|http://.*:80$)[a-z][a-z0-9+.-]*://[^\sA-Z/?#@*]+")

_OPTIONS = {
    "aliases": "--alias",
    "engines": "--engines",
    "fronts": "--fronts",
    "index": "--index",
    "url": "--backend",
}


def gateway_command(arguments: Sequence[str]) -> int:
    """Serve until SIGTERM."""
    options = _parse(arguments)
    front = None if options.front is None else FrontConfig.from_json(options.front)
    origin = "%(name)s" if front is None else f"{front.name} %(name)s"
    logging.basicConfig(level=logging.INFO, format=f"%(levelname)s {origin}: %(message)s")
    logging.getLogger("httpx2").setLevel(logging.WARNING)
    with caller_errors(_OPTIONS, ValueError):
        if front is not None:
            front.tie_to_parent()
            _run(options, front.listener, front)
            return 0
        with bound_socket(os.environ, default_port=8080) as bound:
            if options.engines is None and options.fronts is None:
                _run(options, bound)
                return 0
            return _run_processes(options, bound)


def _run(
    options: argparse.Namespace, bound: socket.socket, front: FrontConfig | None = None
) -> None:
    import uvloop

    uvloop.run(_serve(options, bound, front))


def _run_processes(options: argparse.Namespace, bound: socket.socket) -> int:
    """Run engines and fronts; options that the fronts could not use are refused before that."""
    if options.backend is not None:
        received = "a value together with --backend, which names who computes"
        remedy = "leave one of them out; run several gateways before a service"
        raise InputError("--fronts" if options.engines is None else "--engines", received, remedy)
    keys, _, _ = _checked(options)
    given = [f"--alias={text}" for text in options.alias]
    given += [f"--cors={text}" for text in options.cors]
    given += [] if options.index is None else [f"--index={options.index}"]

    from e5.serving import run_processes

    def front_command(folder: Path) -> list[str]:
        arguments = [sys.executable, "-m", "e5", "gateway", *given]
        if keys:  # their file may be a pipe, or changed when a front is started again
            (folder / "keys").write_text("\n".join(keys), encoding="ascii")
            arguments.append(f"--keys={folder / 'keys'}")
        return arguments

    return run_processes(
        bound,
        Settings.from_env(),
        engines=options.engines,
        fronts=options.fronts,
        front_command=front_command,
        announce=partial(_announce, bound=bound),
    )


def _announce(name: str, *, bound: socket.socket) -> None:
    url = f"http://{url_host(bound)}:{bound.getsockname()[1]}"
    print(f"serving {name} on {url}", file=sys.stderr)


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = command_parser("gateway", __doc__)
    parser.add_argument(
        "--backend",
        metavar="URL",
        help="What computes: http://... of a Cog server, replicate:owner/name[:version] or "
        "replicate-deployment:owner/name. The default is the model in this process.",
    )
    keys = "A file with one key a line; - for the standard input. By default no key is needed."
    parser.add_argument("--keys", metavar="FILE", type=Path, help=keys)
    alias = "Another name for the model, for clients that accept only some. May be repeated."
    parser.add_argument("--alias", metavar="NAME=MODEL", action="append", default=[], help=alias)
    cors = (
        "Web pages of these origins may send requests: https://notes.example.org, "
        "app://obsidian.md, or * for all pages. The default is none."
    )
    parser.add_argument(
        "--cors", metavar="ORIGIN", action="extend", nargs="+", default=[], help=cors
    )
    index = "The folder of an index that build-index made; adds POST /search."
    parser.add_argument("--index", metavar="INDEX", help=index)
    engines = (
        "Run the model in N processes: one on each card, or without cards on their share of the "
        "cores; all for every card. The default is one process that does everything."
    )
    parser.add_argument("--engines", metavar="N|all", help=engines)
    fronts = (
        "Answer HTTP in N processes on one port, before the engines. The default is two for each "
        "engine, and at most one for each core."
    )
    parser.add_argument("--fronts", metavar="N", help=fronts)
    parser.add_argument("--front", help=argparse.SUPPRESS)  # how these processes are started
    return parser.parse_args(arguments)


async def _serve(
    options: argparse.Namespace, bound: socket.socket, front: FrontConfig | None
) -> None:
    keys, aliases, origins = _checked(options)
    from e5.gateway import Backend, Gateway, InProcessBackend, ModelNames, RemoteBackend, serve

    settings = Settings.from_env() if options.backend is None else _settings_before_a_service()
    index = None
    if options.index is not None:
        from e5.corpora import Index

        index = Index(options.index)
    backend: Backend
    auditor = None
    if front is not None:
        from e5.gateway import EnginesBackend  # it needs the tokenizer's library

        backend = await EnginesBackend.connect(
            list(map(Path, front.engines)), Path(settings.weights)
        )
    elif options.backend is not None:
        backend = await RemoteBackend.find(options.backend, weights=settings.weights)
    else:
        backend = in_process = InProcessBackend.load(settings)
        auditor = _auditor(in_process.model, settings)
    info = await backend.info()
    if index is not None:
        index.check_model(info.name)
    gateway = Gateway(
        backend,
        ModelNames(info.name, aliases),
        keys=keys,
        origins=origins,
        index=index,
        auditor=auditor,
        front=front,
    )
    begin_to_listen(bound)
    pulses = [] if front is None else [asyncio.create_task(front.pulse())]
    if front is None:  # the parent of fronts announces when all can answer
        _announce(info.name, bound=bound)
    await serve(gateway, bound, drain_seconds=settings.drain_seconds)
    for pulse in pulses:
        pulse.cancel()


def _checked(options: argparse.Namespace) -> tuple[list[str], dict[str, str], list[str]]:
    """The keys, aliases and origins."""
    keys = [] if options.keys is None else _read_keys(options.keys)
    aliases = dict(_alias(text) for text in options.alias)
    return keys, aliases, [_origin(text) for text in options.cors]


def _auditor(embedder: "Embedder", settings: Settings) -> "VectorAuditor":
    """The auditor of vectors, with the model in this process."""
    from e5.audit import LocalSource, VectorAuditor

    return VectorAuditor(lambda: LocalSource(embedder, settings, rounding=2e-5, loads_more=False))


def _read_keys(file: Path) -> list[str]:
    """The keys in a file, without blanks at their ends; each must fit into a header."""
    keys = {number: key.strip() for number, key in read_lines(file, "--keys", "key").items()}
    for number, key in keys.items():
        if not (key.isascii() and key.isprintable()):
            received = f"{file}, whose line {number} has a character that no header holds"
            raise InputError("--keys", received, "make keys of ASCII's letters, digits and signs")
    return list(keys.values())


def _settings_before_a_service() -> Settings:
    """The settings that a gateway before a service uses; the same shell may set others for that."""
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
