"""Answer predictions over HTTP, as the Cog image does.

    E5_WEIGHTS=weights/e5-mini e5 serve

HOST and PORT say where it listens; the default is 127.0.0.1 and 5000. E5_WEIGHTS and the other
settings choose the model.
"""

import os
import resource
import sys
from collections.abc import Mapping, Sequence
from typing import NoReturn

from e5.cli.address import bound_socket, url_host
from e5.cli.options import HOME, absolute, command_parser
from e5.errors import InputError
from e5.settings import Settings

NUM_SLOTS = 256  # as @concurrent in predict.py, which only the image reads
# Cog keeps two files open for each slot, and one for each caller; Python needs some.
MIN_OPEN_FILES = 3 * NUM_SLOTS + 100


def serve_command(arguments: Sequence[str]) -> NoReturn:
    """Become Cog's server.

    Raises:
        InputError: for a HOST or PORT that cannot be listened on, and for too few open files.
    """
    command_parser("serve", __doc__).parse_args(arguments)
    _check_open_files()
    with bound_socket(os.environ, default_port=5000) as bound:
        host, port = url_host(bound), str(bound.getsockname()[1])
    environment = _environment(os.environ, port)
    os.chdir(HOME)  # Cog looks for a schema in its folder: the caller's may hold another service's
    command = [sys.executable, "-m", "cog.server.http", "--host", host]
    os.execve(sys.executable, command, environment)


def _check_open_files() -> None:
    """Refuse to start where Cog's server would end because it may not open enough files.

    Raises:
        InputError: with the limit, which `e5` has raised as far as the system lets it.
    """
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if limit != resource.RLIM_INFINITY and limit < MIN_OPEN_FILES:
        received = f"{limit} open files, and Cog's {NUM_SLOTS} slots need {MIN_OPEN_FILES}"
        remedy = "allow 1024 (ulimit -n 1024, docker run --ulimit nofile=1024)"
        raise InputError("ulimit -n", received, remedy)


def _environment(environ: Mapping[str, str], port: str) -> dict[str, str]:
    """The environment variables of Cog's server."""
    paths = {
        "E5_WEIGHTS": environ.get("E5_WEIGHTS", "").strip() or str(Settings.weights),
        "E5_ADAPTER": environ.get("E5_ADAPTER", "").strip(),
    }
    return {
        **environ,
        **{name: absolute(path) for name, path in paths.items() if path},
        "COG_PREDICT_TYPE_STUB": "predict.py:Predictor",
        "COG_MAX_CONCURRENCY": str(NUM_SLOTS),
        "LOG_FORMAT": environ.get("LOG_FORMAT") or "console",
        "PORT": port,
        # Cog starts its worker as plain `python`, which must be this one and find this package.
        "PATH": os.pathsep.join([os.path.dirname(sys.executable), environ.get("PATH", "")]),
        "PYTHONPATH": os.pathsep.join(filter(None, [str(HOME), environ.get("PYTHONPATH")])),
        "PYTHONSAFEPATH": "1",
    }
