"""The command `e5`: chooses a subcommand, imports its module only then, and prints its errors."""

import resource
import sys
from argparse import SUPPRESS, ArgumentParser, RawDescriptionHelpFormatter
from collections.abc import Sequence
from importlib import import_module

from e5.cli.extras import SUBCOMMANDS, missing_extras

_FEW_OPEN_FILES, _MANY_OPEN_FILES = 1000, 4096
_RESUMABLE = ("embed-corpus", "build-index", "download-weights")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command line, by default that of the process; returns the exit status.

    Raises:
        SystemExit: with status 2 if the arguments cannot be understood, with 0 after `--help`.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    chosen, rest = _parser().parse_args(given[:1] or ["--help"]), given[1:]
    if chosen.version:
        from importlib.metadata import version

        print(f"e5-mistral-service {version('e5-mistral-service')}")
        return 0
    _allow_open_files()
    from e5.errors import E5Error

    try:
        if not {"-h", "--help"} & set(rest) and (sentence := missing_extras(chosen.command, rest)):
            raise E5Error(sentence)
        name = f"{chosen.command.replace('-', '_')}_command"
        status: int = getattr(import_module(f"e5.cli.{name}"), name)(rest)
    except (E5Error, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        remedy = "; what is finished is kept, run it again to continue"
        print(f"interrupted{remedy if chosen.command in _RESUMABLE else ''}", file=sys.stderr)
        return 130
    return status


def _allow_open_files() -> None:
    """Raise the limit of open files of this process, if it is low, as far as the system lets it.

    macOS allows 256, which are too few for Cog's server, for many callers and for a large index.
    """
    limit, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    if limit != resource.RLIM_INFINITY and limit < _FEW_OPEN_FILES:
        wanted = _MANY_OPEN_FILES if most == resource.RLIM_INFINITY else min(most, _MANY_OPEN_FILES)
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, most))


def _parser() -> ArgumentParser:
    width = max(map(len, SUBCOMMANDS))
    lines = [f"  {name:{width}}  {text}" for name, text in SUBCOMMANDS.items()]
    parser = ArgumentParser(
        prog="e5",
        usage="e5 [-h] [--version] COMMAND ...",
        description="E5-Mistral embeddings: texts in, vectors out.",
        epilog="\n".join(["commands:", *lines, "", "`e5 COMMAND --help` describes its options."]),
        formatter_class=RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="store_true", help="print the version and exit")
    parser.add_argument("command", nargs="?", choices=SUBCOMMANDS, help=SUPPRESS)
    return parser
