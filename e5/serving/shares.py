"""How the cards and the cores of a machine are shared out to engines and fronts."""

import logging
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from e5.checkpoint import checkpoint_files
from e5.errors import InputError, quoted
from e5.machine import CARDS_VARIABLE, available_host_bytes, find_cards, usable_cores
from e5.settings import Settings

logger = logging.getLogger(__name__)

ALL = "all"
MAX_PROCESSES = 256  # of a kind
FRONTS_PER_ENGINE = 2


@dataclass(frozen=True)
class Shares:
    """The processes that a machine runs.

    Attributes:
        engines: for each engine, the environment variables that differ from the parent's.
        num_fronts: the number of fronts.
    """

    engines: list[dict[str, str]]
    num_fronts: int


def divide_machine(
    engines: str | None,
    fronts: str | None,
    settings: Settings,
    *,
    cards: Callable[[], list[str]] = find_cards,
    cores: int | None = None,
    environ: Mapping[str, str] = os.environ,
) -> Shares:
    """Give each engine a card, if there are any, and a share of the cores.

    Args:
        engines: how many engines, or `all` for one on each card; by default as many as cards, or 1.
        fronts: how many fronts; by default two for each engine, and at most one for each core.
        settings: the settings of each engine.
        cards: finds the cards; see `find_cards`.
        cores: the number of cores; by default those that this process may run on.
        environ: may limit the threads of each engine by OMP_NUM_THREADS.

    Raises:
        InputError: about `engines` or `fronts`, if it is no number or there are more engines than
            cards; about `E5_DEVICE`, if it names one card.

    Example:
        >>> divide_machine("2", None, Settings(), cards=lambda: ["0", "1"], cores=16,
        ...                environ={})  # doctest: +NORMALIZE_WHITESPACE
        Shares(engines=[{'E5_THREADS': '8', 'CUDA_VISIBLE_DEVICES': '0', 'E5_DEVICE': 'cuda'},
                        {'E5_THREADS': '8', 'CUDA_VISIBLE_DEVICES': '1', 'E5_DEVICE': 'cuda'}],
               num_fronts=4)
    """
    wanted = None if engines in (None, ALL) else _number("engines", engines, f"{ALL}, or ")
    num_fronts = None if fronts is None else _number("fronts", fronts)
    if settings.device not in (None, "cpu", "cuda"):
        remedy = f"use cuda, and choose cards by {CARDS_VARIABLE}"
        raise InputError(
            "E5_DEVICE", f"{settings.device!r}, which one engine alone can use", remedy
        )
    found = [] if settings.device == "cpu" else cards()
    if not found and (engines == ALL or settings.device == "cuda"):
        received = f"{engines or 'no value'}, and no card can be used here"
        remedy = "use a number such as 2, with E5_DEVICE=cpu, for engines on the cores"
        raise InputError("engines", received, remedy)
    if found and wanted is not None and wanted > len(found):
        received = f"{wanted}, which are more engines than there are cards ({len(found)})"
        raise InputError("engines", received, f"use at most {len(found)}, or {ALL}")
    cores = cores or usable_cores()
    num_engines = wanted or len(found) or 1
    limit = environ.get("OMP_NUM_THREADS", "").partition(",")[0].strip()
    share = min(cores // num_engines, int(limit) if limit.isdecimal() else cores)
    threads = settings.threads or max(1, share)
    environments = [{"E5_THREADS": str(threads)} for _ in range(num_engines)]
    for environment, card in zip(environments, found, strict=False):
        environment |= {CARDS_VARIABLE: card, "E5_DEVICE": "cuda"}
    default = min(FRONTS_PER_ENGINE * num_engines, cores)
    return Shares(environments, num_fronts or default)


def _number(field: str, text: str | None, other: str = "") -> int:
    text = text or ""
    if not (text.isdecimal() and len(text) < 10 and 1 <= int(text) <= MAX_PROCESSES):
        remedy = f"use {other}a whole number from 1 to {MAX_PROCESSES}"
        raise InputError(field, quoted(text), remedy)
    return int(text)


def must_load_one_by_one(
    weights: Path, num_engines: int, *, free: Callable[[], float] = available_host_bytes
) -> bool:
    """Whether engines that load at the same time could need more than the free host memory.

    Raises:
        WeightsError: for a checkpoint that does not exist or lacks a file.
    """
    size = sum((weights / name).stat().st_size for name in checkpoint_files(weights))
    has, needs = free(), num_engines * size
    if num_engines == 1 or needs <= has:
        return False
    log = "%d times the weights (%.1f GB) are more than the free host memory (%.1f GB): "
    log += "the engines load one after the other"
    logger.warning(log, num_engines, needs / 1e9, has / 1e9)
    return True
