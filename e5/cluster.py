"""The same units on many machines: Ray Data hands them to a pool of actors, one GPU each.

An actor reads, tokenises and writes one unit while it computes another. One that dies is replaced
and its units are done again; a document that keeps killing whoever computes it becomes a dead
letter. Knows nothing of how a unit is done, which is `step`'s.
"""

import logging
import os
import threading
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch

# Else Ray leaves a token file in the home folder.
os.environ.setdefault("RAY_AUTH_MODE", "disabled")
import ray
import ray.data
from ray.exceptions import RayError

from e5.corpus import Corpus, DeadLetter, Unit
from e5.embedder import Embedder
from e5.errors import E5Error, EngineError, InputError
from e5.journal import Journal
from e5.settings import Settings
from e5.shards import Output, Recipe
from e5.step import Prepared, Summary, compute, prepare, tokenize, write
from e5.vectors import Vectors

logger = logging.getLogger(__name__)

WHOLE_ATTEMPTS = 2  # at a unit as a whole, before its documents are tried one by one
TRIES = 2  # at a document that was alone with its worker when that died
# Of an actor; each document that kills costs TRIES of them, each unit with one, two more.
RESTARTS = 64


@dataclass(frozen=True)
class Cluster:
    """Where the actors run.

    Attributes:
        address: of a running Ray cluster; None starts one on this machine.
        min_workers: actors kept.
        max_workers: actors at most; the pool grows and shrinks between the two.
        gpus: of each actor; 0 for CPU.
    """

    address: str | None = None
    min_workers: int = 1
    max_workers: int = 1
    gpus: float = 0

    @classmethod
    def of(cls, address: str | None, workers: str, settings: Settings) -> "Cluster":
        """By the words of a command line.

        Args:
            address: of a running cluster, or None.
            workers: `4`, or `1:8` for a pool that grows and shrinks.
            settings: each worker has a GPU unless they say `cpu`, or this machine starts the
                cluster and has none.

        Raises:
            InputError: for numbers of workers that make no sense.
        """
        least, colon, most = workers.partition(":")
        most = most if colon else least
        if not (least.isdecimal() and most.isdecimal() and 0 < int(least) <= int(most)):
            raise InputError("--workers", repr(workers), "use a number such as 4, or 1:8")
        cpu = settings.device == "cpu" or not (address or torch.cuda.is_available())
        return cls(address, int(least), int(most), gpus=0 if cpu else 1)

    def connect(self) -> None:
        """Join the cluster, or start one.

        Raises:
            EngineError: where there is none at the address.
        """
        environment = {"py_modules": [os.path.dirname(__file__)]} if self.address else {}
        try:
            ray.init(
                self.address or "local",  # else Ray would join whatever runs on this machine
                runtime_env=environment,
                log_to_driver=False,
                logging_level=logging.WARNING,
            )
        except (RayError, ConnectionError, RuntimeError, ValueError) as error:
            raise EngineError(f"--ray-address: no cluster at {self.address} ({error}).") from error
        logging.getLogger("ray.data").setLevel(logging.ERROR)
        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = False  # ours counts documents
        context.print_on_execution_start = False

    def model(self, settings: Settings) -> tuple[str, int]:
        """Name and hidden size of the model that a worker would load; waits for a free GPU.

        Raises:
            EngineError: where it cannot be loaded there.
        """
        try:
            answer = ray.get(ray.remote(num_gpus=self.gpus)(_describe).remote(settings))
        except RayError as error:
            raise _gave_up(error) from error
        if isinstance(answer, str):
            raise EngineError(answer)
        name, hidden_size = answer
        return str(name), int(hidden_size)

    def embed_units(
        self, units: Sequence[Unit], corpus: Corpus, settings: Settings, output: Output, model: str
    ) -> Iterator[Summary]:
        """Embed units on the cluster's actors; yields what each finished one came to.

        Args:
            units: to be done.
            corpus: what they are runs of.
            settings: of each actor's embedder.
            output: where shards go; a place that every machine reaches.
            model: name and fingerprint that each actor's embedder must have.

        Raises:
            EngineError: where the cluster gives up.
        """
        if not units:
            return
        Journal.forgive(output.location)
        items = [asdict(unit) for unit in units]
        pool = ray.data.ActorPoolStrategy(
            min_size=self.min_workers,
            max_size=self.max_workers,
            max_tasks_in_flight_per_actor=2,
            max_concurrent_calls_per_actor=2,  # one unit is read and written beside another
            enable_true_multi_threading=True,
        )
        with warnings.catch_warnings():  # there is no other way yet to say how often to restart
            warnings.filterwarnings("ignore", "`ray_remote_args` is deprecated")
            done = ray.data.from_items(items, override_num_blocks=len(items)).map(
                Worker,  # type: ignore[arg-type]  # a class is instantiated once an actor
                fn_constructor_args=(corpus, settings, output.location, output.recipe, model),
                compute=pool,
                num_gpus=self.gpus,
                max_restarts=RESTARTS,
                max_task_retries=RESTARTS,
            )
        try:
            for row in done.iter_rows():
                yield Summary(**row)
        except RayError as error:
            raise _gave_up(error) from error


def _gave_up(error: RayError) -> EngineError:
    logger.info("Ray gave up", exc_info=error)
    reason = str(error).strip().splitlines()[-1]
    return EngineError(f"the cluster gave up, run again to go on: {reason}")


class Worker:
    """One actor: an embedder that does whole units."""

    def __init__(
        self, corpus: Corpus, settings: Settings, location: str, recipe: Recipe, model: str
    ) -> None:
        """Load the embedder.

        Raises:
            EngineError: for one that is another than the manifest's.
        """
        self._embedder = Embedder.load(settings)
        if self._embedder.name != model:
            raise EngineError(f"this worker loads {self._embedder.name}, the others {model}.")
        self._corpus = corpus
        self._output = Output(location, recipe)
        # Two units are here at once; each in one of these, so that the engine is never idle, or in
        # both, to be alone.
        self._reading, self._computing = threading.Lock(), threading.Lock()

    def __call__(self, item: dict[str, Any]) -> dict[str, Any]:
        """Do a unit; a row of a `Summary`'s fields."""
        try:
            return asdict(self._embed(Unit(**item)))
        except E5Error as error:  # not all of them can be sent from process to process
            raise EngineError(str(error)) from None

    def _embed(self, unit: Unit) -> Summary:
        journal = Journal.begin(self._output.location, unit)
        if self._output.holds(unit):  # by an actor that died before it could say so
            journal.remove()
            return Summary()
        if journal.attempts <= WHOLE_ATTEMPTS:
            with self._reading:
                task = self._output.recipe.task
                prepared = prepare(unit, self._corpus, self._embedder, task)
            with self._computing:
                vectors = compute(prepared.token_ids, self._embedder, prepared.summary)
        else:
            with self._reading, self._computing:
                prepared, vectors = self._one_by_one(unit, journal)
        summary = write(prepared, vectors, self._output)
        journal.remove()
        return summary

    def _one_by_one(self, unit: Unit, journal: Journal) -> tuple[Prepared, Vectors]:
        """As `prepare` and `compute`, with the journal saying which document is being tried."""
        rows = list(self._corpus.read(unit))
        rows_done: dict[int, Vectors] = {}
        summary = Summary()
        for i in sorted(range(len(rows)), key=lambda i: -journal.tries[str(i)]):  # suspects first
            row = rows[i]
            if isinstance(row, DeadLetter):
                continue
            if journal.tries[str(i)] >= TRIES:
                reason = f"the worker that computed it died, {journal.tries[str(i)]} times"
                rows[i] = DeadLetter(row.id, reason)
                continue
            journal.trying(i)
            token_ids = tokenize([row], self._embedder, self._output.recipe.task, summary)
            rows_done[i] = compute(token_ids, self._embedder, summary)
        journal.trying(None)
        kept = sorted(rows_done)
        prepared = Prepared(
            unit=unit,
            documents=[row for row in rows if not isinstance(row, DeadLetter)],
            token_ids=[],
            dead=[row for row in rows if isinstance(row, DeadLetter)],
            summary=summary,
        )
        empty = np.empty((0, self._embedder.engine.hidden_size), np.float32)
        return prepared, np.concatenate([empty, *(rows_done[i] for i in kept)])


def _describe(settings: Settings) -> tuple[str, int] | str:
    try:
        embedder = Embedder.load(settings)
    except E5Error as error:
        return str(error)
    return embedder.name, embedder.engine.hidden_size
