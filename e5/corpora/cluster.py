"""Embeds units on many machines: Ray Data hands them to a pool of actors, one card each.

An actor reads, tokenises and writes one unit while it computes another. If an actor dies, it is
replaced and its units are done again. A document that workers died on twice becomes a dead letter.
"""

import logging
import os
import threading
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

# Otherwise Ray writes a token file into the home folder.
os.environ.setdefault("RAY_AUTH_MODE", "disabled")
import ray
import ray.data
from ray.exceptions import RayError

import e5
from e5.corpora.corpus import Corpus, Reading
from e5.corpora.journal import Journal
from e5.corpora.loop import Loop, UnitWork
from e5.corpora.manifest import fingerprint_of
from e5.corpora.plan import Unit
from e5.corpora.shard_folder import Recipe, ShardFolder
from e5.corpora.synchronize import Model, Summary
from e5.embedder import Embedder
from e5.errors import E5Error, EngineError
from e5.settings import Settings

logger = logging.getLogger(__name__)

UNIT_ATTEMPTS = 2  # at a unit as a whole, before its documents are tried one by one
DEATHS = 2  # of workers that computed one document alone, before it is a dead letter
# Of an actor. A document that workers die on costs DEATHS of them, its unit UNIT_ATTEMPTS more.
RESTARTS = 64


@dataclass(frozen=True)
class Cluster:
    """Embeds units on Ray's actors. A `Runner`.

    Attributes:
        settings: for each actor's embedder.
        address: of a running Ray cluster; None starts one on this machine.
        min_workers: the least number of actors.
        max_workers: the most; the pool grows and shrinks between the two.
    """

    settings: Settings
    address: str | None = None
    min_workers: int = 1
    max_workers: int = 1

    @property
    def gpus(self) -> float:
        """Cards of each actor: 0 for device `cpu`, or if Ray runs here without a card; else 1."""
        cpu = self.settings.device == "cpu" or not (self.address or torch.cuda.is_available())
        return 0 if cpu else 1

    def describe(self) -> Model:
        """The model that a worker would load. Joins the cluster, and waits for a free card.

        Raises:
            EngineError: if there is no cluster at the address.
            E5Error: as a worker raises it that cannot load a model.
        """
        self._connect()
        try:
            answer = ray.get(ray.remote(num_gpus=self.gpus)(_describe).remote(self.settings))
        except RayError as error:
            raise _gave_up(error) from error
        if failure := E5Error.from_dict(answer):
            raise failure
        assert isinstance(answer, Model)
        return answer

    def _connect(self) -> None:
        """Join the cluster, or start one, unless that is done already."""
        if ray.is_initialized():
            return
        package = str(Path(e5.__file__).parent)
        try:
            ray.init(
                self.address or "local",  # without it Ray joins any cluster that runs here
                runtime_env={"py_modules": [package]} if self.address else {},
                log_to_driver=False,
                logging_level=logging.WARNING,
            )
        except (RayError, ConnectionError, RuntimeError, ValueError) as error:
            raise EngineError(f"there is no Ray cluster at {self.address} ({error}).") from error
        logging.getLogger("ray.data").setLevel(logging.ERROR)
        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = False  # our own bar counts documents
        context.print_on_execution_start = False

    def embed_units(
        self, units: Sequence[Unit], corpus: Corpus, folder: ShardFolder
    ) -> Iterator[Summary]:
        """Do units on the cluster's actors, which must all reach the corpus and the folder.

        Raises:
            EngineError: for a failure that no document caused, or if the cluster gives up.
        """
        if not units:
            return
        self._connect()
        Journal.forget_attempts(folder.location)
        pool = ray.data.ActorPoolStrategy(
            min_size=self.min_workers,
            max_size=self.max_workers,
            max_tasks_in_flight_per_actor=2,
            max_concurrent_calls_per_actor=2,  # read or write one unit, compute another
            enable_true_multi_threading=True,
        )
        items = ray.data.from_items([{"unit": u} for u in units], override_num_blocks=len(units))
        with warnings.catch_warnings():  # there is no other way yet to set max_restarts
            warnings.filterwarnings("ignore", "`ray_remote_args` is deprecated")
            done = items.map(
                Worker,  # type: ignore[arg-type]  # Ray makes one instance per actor
                fn_constructor_args=(corpus, self.settings, folder.location, folder.recipe),
                compute=pool,
                num_gpus=self.gpus,
                max_restarts=RESTARTS,
                max_task_retries=RESTARTS,
            )
        try:
            for row in done.iter_rows():
                if failure := row.pop("failure"):
                    raise EngineError(failure)
                yield Summary(**row)
        except RayError as error:
            raise _gave_up(error) from error


def _gave_up(error: RayError) -> EngineError:
    logger.info("Ray gave up", exc_info=error)
    reason = str(error).strip().splitlines()[-1]
    return EngineError(f"the cluster gave up; run the command again to continue: {reason}")


class Worker:
    """One actor: loads an embedder and embeds whole units."""

    def __init__(self, corpus: Corpus, settings: Settings, location: str, recipe: Recipe) -> None:
        """Load the embedder; an EngineError if its fingerprint is not the manifest's."""
        self._folder = ShardFolder(location, recipe)
        self._embedder = Embedder.load(settings)
        manifest = self._folder.manifest()
        expected, loaded = "nothing" if manifest is None else manifest.model, self._embedder.name
        if fingerprint_of(expected) != fingerprint_of(loaded):
            raise EngineError(f"this worker loads {loaded}, the manifest has {expected}.")
        # An actor has two units at once. Each holds one of these locks, so that one is read while
        # the other is computed. A unit that must be alone holds both.
        self._reading, self._computing = threading.Lock(), threading.Lock()
        self._rows = Reading(corpus)

    def __call__(self, item: dict[str, Any]) -> dict[str, Any]:
        """Do a unit; returns the fields of its `Summary`, and `failure`: the reason, or "".

        The error is returned, because Ray would wrap it in its own, with advice on Ray's settings.
        """
        try:
            return asdict(self._embed(item["unit"])) | {"failure": ""}
        except (E5Error, OSError) as error:
            return asdict(Summary()) | {"failure": str(error)}

    def _embed(self, unit: Unit) -> Summary:
        journal = Journal.begin(self._folder.location, unit)
        is_whole = journal.attempts <= UNIT_ATTEMPTS
        with self._reading:
            work = UnitWork(unit, self._rows, self._folder, self._embedder)
            if is_whole:
                work.tokenize(range(len(work.documents)))
            else:
                with self._computing:
                    _one_by_one(work, journal)
        if is_whole:
            with self._computing:
                work.compute()
        summary = work.write()
        journal.remove()
        return summary


def _one_by_one(work: UnitWork, journal: Journal) -> None:
    """Tokenise and compute each document alone, noted in the journal before it is tried."""
    positions = range(len(work.documents))
    for i in sorted(positions, key=lambda i: -journal.deaths[str(i)]):
        if (deaths := journal.deaths[str(i)]) >= DEATHS:
            work.reject(i, f"the worker that computed it died, {deaths} times")
        else:
            journal.note(i)
            work.tokenize([i])
            work.compute()
    journal.note(None)


def _describe(settings: Settings) -> Model | dict[str, Any]:
    try:
        return Loop(lambda: Embedder.load(settings)).describe()
    except E5Error as error:  # returned, because Ray would add a traceback of its own
        return error.to_dict()
