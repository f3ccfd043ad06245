"""The same units on many machines: Ray Data hands them to a pool of actors, one GPU each.

An actor reads, tokenises and writes one unit while it computes another. One that dies is replaced
and its units are done again; a document on which a worker dies twice becomes a dead letter. Knows
nothing of how a unit is done, which is `loop`'s.
"""

import logging
import os
import threading
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

# Else Ray leaves a token file in the home folder.
os.environ.setdefault("RAY_AUTH_MODE", "disabled")
import ray
import ray.data
from ray.exceptions import RayError

import e5
from e5.corpora.corpus import Corpus, DeadLetter, Document, Unit
from e5.corpora.journal import Journal
from e5.corpora.loop import Model, Prepared, Summary, compute, prepare, tokenize, write
from e5.corpora.manifest import fingerprint_of
from e5.corpora.shards import Recipe, ShardFolder
from e5.embedder import Computed, Embedder
from e5.errors import E5Error, EngineError, TextError
from e5.settings import Settings
from e5.vectors import Vectors

logger = logging.getLogger(__name__)

WHOLE_ATTEMPTS = 2  # at a unit as a whole, before its documents are tried one by one
TRIES = 2  # at a document that was alone with its worker when that died
# Of an actor; each document that kills costs TRIES of them, each unit with one, two more.
RESTARTS = 64


@dataclass(frozen=True)
class Cluster:
    """Embeds units on Ray's actors. A `Runner`.

    Attributes:
        settings: of each actor's embedder.
        address: of a running Ray cluster; None starts one on this machine.
        min_workers: actors kept.
        max_workers: actors at most; the pool grows and shrinks between the two.
    """

    settings: Settings
    address: str | None = None
    min_workers: int = 1
    max_workers: int = 1

    @property
    def gpus(self) -> float:
        """Of each actor: one; none where settings say `cpu`, or this machine has none."""
        cpu = self.settings.device == "cpu" or not (self.address or torch.cuda.is_available())
        return 0 if cpu else 1

    def describe(self) -> Model:
        """The model that a worker would load. Joins the cluster, and waits for a free GPU.

        Raises:
            EngineError: where there is no cluster at the address, or no model for its workers.
        """
        self._connect()
        try:
            answer = ray.get(ray.remote(num_gpus=self.gpus)(_describe).remote(self.settings))
        except RayError as error:
            raise _gave_up(error) from error
        if isinstance(answer, str):
            raise EngineError(answer)
        assert isinstance(answer, Model)
        return answer

    def _connect(self) -> None:
        """Join the cluster, or start one; once."""
        if ray.is_initialized():
            return
        package = str(Path(e5.__file__).parent)
        try:
            ray.init(
                self.address or "local",  # else Ray would join whatever runs on this machine
                runtime_env={"py_modules": [package]} if self.address else {},
                log_to_driver=False,
                logging_level=logging.WARNING,
            )
        except (RayError, ConnectionError, RuntimeError, ValueError) as error:
            raise EngineError(f"there is no Ray cluster at {self.address} ({error}).") from error
        logging.getLogger("ray.data").setLevel(logging.ERROR)
        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = False  # ours counts documents
        context.print_on_execution_start = False

    def embed_units(
        self, units: Sequence[Unit], corpus: Corpus, folder: ShardFolder
    ) -> Iterator[Summary]:
        """Embed units on the cluster's actors; yields what each finished one came to.

        Args:
            units: to be done.
            corpus: what they are runs of.
            folder: where shards go; a place that every machine reaches.

        Raises:
            EngineError: for what is no document's fault, or where the cluster gives up.
        """
        if not units:
            return
        self._connect()
        Journal.forgive(folder.location)
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
    return EngineError(f"the cluster gave up, run again to go on: {reason}")


class Worker:
    """One actor: an embedder that does whole units."""

    def __init__(self, corpus: Corpus, settings: Settings, location: str, recipe: Recipe) -> None:
        """Load the embedder.

        Raises:
            EngineError: for one that is another than the manifest's.
        """
        self._folder = ShardFolder(location, recipe)
        self._embedder = Embedder.load(settings)
        manifest = self._folder.manifest()
        if manifest is None or manifest.fingerprint != fingerprint_of(self._embedder.name):
            theirs = "nothing" if manifest is None else manifest.model
            raise EngineError(
                f"this worker loads {self._embedder.name}, the manifest has {theirs}."
            )
        self._corpus = corpus
        # Two units are here at once; each in one of these, so that the engine is never idle, or in
        # both, to be alone.
        self._reading, self._computing = threading.Lock(), threading.Lock()

    def __call__(self, item: dict[str, Any]) -> dict[str, Any]:
        """Do a unit; a row of a `Summary`'s fields, and of why there is none.

        Ray would bury an exception under its own, with advice on Ray's settings.
        """
        try:
            return asdict(self._embed(Unit(**item))) | {"failure": ""}
        except (E5Error, OSError) as error:
            return asdict(Summary()) | {"failure": str(error)}

    def _embed(self, unit: Unit) -> Summary:
        journal = Journal.begin(self._folder.location, unit)
        if self._folder.holds(unit):  # by an actor that died before it could say so
            journal.remove()
            return Summary()
        if journal.attempts <= WHOLE_ATTEMPTS:
            with self._reading:
                task = self._folder.recipe.task
                prepared = prepare(unit, self._corpus, self._embedder, task)
            with self._computing:
                computed = compute(prepared.sequences, self._embedder, prepared.summary)
        else:
            with self._reading, self._computing:
                prepared, computed = self._one_by_one(unit, journal)
        summary = write(prepared, computed, self._folder)
        journal.remove()
        return summary

    def _one_by_one(self, unit: Unit, journal: Journal) -> tuple[Prepared, Computed]:
        """As `prepare` and `compute`, with the journal saying which document is being tried."""
        rows = list(self._corpus.read(unit))
        documents = {i: row for i, row in enumerate(rows) if isinstance(row, Document)}
        dead = {i: row for i, row in enumerate(rows) if isinstance(row, DeadLetter)}
        vectors: dict[int, Vectors] = {}
        faults: dict[int, TextError] = {}
        summary = Summary()
        for i in sorted(documents, key=lambda i: -journal.tries[str(i)]):  # suspects first
            if journal.tries[str(i)] >= TRIES:
                reason = f"the worker that computed it died, {journal.tries[str(i)]} times"
                dead[i] = DeadLetter(documents.pop(i).id, reason)
                continue
            journal.trying(i)
            sequences = tokenize([documents[i]], self._embedder, self._folder.recipe.task, summary)
            computed = compute(sequences, self._embedder, summary)
            vectors[i] = computed.vectors
            if computed.faults:
                faults[i] = computed.faults[0]
        journal.trying(None)
        places = {i: place for place, i in enumerate(sorted(documents))}
        letters = [dead[i] for i in sorted(dead)]
        prepared = Prepared(unit, [documents[i] for i in places], [], letters, summary)
        empty = np.empty((0, self._embedder.dimensions), np.float32)
        return prepared, Computed(
            np.concatenate([empty, *(vectors[i] for i in places)]),
            {places[i]: fault for i, fault in faults.items()},
        )


def _describe(settings: Settings) -> Model | str:
    try:
        embedder = Embedder.load(settings)
    except E5Error as error:  # Ray would send it with a traceback of its own
        return str(error)
    return Model(embedder.name, embedder.dimensions)
