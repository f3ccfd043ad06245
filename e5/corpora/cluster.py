"""Embeds units on many machines: Ray Data hands them to a pool of actors, one GPU each.

An actor reads, tokenises and writes one unit while it computes another, with the functions of
`loop`. If an actor dies, it is replaced and its units are done again. A document that workers died
on twice becomes a dead letter.
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

# Otherwise Ray writes a token file into the home folder.
os.environ.setdefault("RAY_AUTH_MODE", "disabled")
import ray
import ray.data
from ray.exceptions import RayError

import e5
from e5.corpora.corpus import Corpus, Reading
from e5.corpora.documents import Passage
from e5.corpora.journal import Journal
from e5.corpora.loop import UnitInput, UnitVectors, compute, read, tokenize, write
from e5.corpora.manifest import fingerprint_of
from e5.corpora.plan import Unit
from e5.corpora.runner import Model, Summary
from e5.corpora.shard_folder import Recipe, ShardFolder
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
        """GPUs of each actor: 0 for device `cpu`, or if Ray runs here and finds no GPU; else 1."""
        cpu = self.settings.device == "cpu" or not (self.address or torch.cuda.is_available())
        return 0 if cpu else 1

    def describe(self) -> Model:
        """The model that a worker would load. Joins the cluster, and waits for a free GPU.

        Raises:
            EngineError: if there is no cluster at the address.
            E5Error: as a worker raises it that cannot load a model.
        """
        self._connect()
        try:
            model = ray.get(ray.remote(num_gpus=self.gpus)(_describe).remote(self.settings))
        except RayError as error:
            raise _gave_up(error) from error
        if isinstance(model, E5Error):
            raise model
        assert isinstance(model, Model)
        return model

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
        """Do units on the cluster's actors; yields the summary of each finished unit.

        Args:
            units: what is to be done.
            corpus: the corpus that the units are part of.
            folder: where shards go; every machine must reach it.

        Raises:
            EngineError: for a failure that no document caused, or if the cluster gives up.
        """
        if not units:
            return
        self._connect()
        Journal.forget_attempts(folder.location)
        items = [{"unit": unit} for unit in units]
        pool = ray.data.ActorPoolStrategy(
            min_size=self.min_workers,
            max_size=self.max_workers,
            max_tasks_in_flight_per_actor=2,
            max_concurrent_calls_per_actor=2,  # read or write one unit, compute another
            enable_true_multi_threading=True,
        )
        with warnings.catch_warnings():  # there is no other way yet to set max_restarts
            warnings.filterwarnings("ignore", "`ray_remote_args` is deprecated")
            done = ray.data.from_items(items, override_num_blocks=len(items)).map(
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
    return EngineError(f"the cluster gave up, run again to go on: {reason}")


class Worker:
    """One actor: loads an embedder and embeds whole units."""

    def __init__(self, corpus: Corpus, settings: Settings, location: str, recipe: Recipe) -> None:
        """Load the embedder.

        Raises:
            EngineError: if its fingerprint is not the manifest's.
        """
        self._folder = ShardFolder(location, recipe)
        self._embedder = Embedder.load(settings)
        manifest = self._folder.manifest()
        if manifest is None or manifest.fingerprint != fingerprint_of(self._embedder.name):
            expected = "nothing" if manifest is None else manifest.model
            raise EngineError(
                f"this worker loads {self._embedder.name}, the manifest has {expected}."
            )
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
        recipe = self._folder.recipe
        with self._reading:
            given = read(unit, self._rows, self._folder)
            if journal.attempts > UNIT_ATTEMPTS:
                with self._computing:
                    made = self._one_by_one(given, journal)
            else:
                tokenized = tokenize(given, given.documents, self._embedder, recipe)
        if journal.attempts <= UNIT_ATTEMPTS:
            with self._computing:
                made = compute(tokenized, self._embedder, given.summary)
        summary = write(given, made, self._folder)
        journal.remove()
        return summary

    def _one_by_one(self, given: UnitInput, journal: Journal) -> UnitVectors:
        """As `tokenize` and `compute`, but the journal notes each document before it is tried."""
        documents, recipe = given.documents, self._folder.recipe
        passages: dict[int, list[Passage]] = {}
        texts: list[str] = []
        vectors = [np.empty((0, self._embedder.dimensions), np.float32)]
        reasons: dict[str, str] = {}
        for i in sorted(range(len(documents)), key=lambda i: -journal.deaths[str(i)]):
            deaths, text = journal.deaths[str(i)], documents[i].text
            if deaths >= DEATHS:
                passages[i] = [Passage(text, 0, len(text))]
                reasons[text] = f"the worker that computed it died, {deaths} times"
                given.summary.computed += 1  # `write` subtracts what has no vector
                continue
            journal.note(i)
            tokenized = tokenize(given, [documents[i]], self._embedder, recipe)
            made = compute(tokenized, self._embedder, given.summary)
            (passages[i],) = made.passages
            texts += made.texts
            vectors.append(made.vectors)
            reasons |= made.reasons
        journal.note(None)
        ordered = [passages[i] for i in range(len(documents))]
        return UnitVectors(ordered, texts, np.concatenate(vectors), reasons)


def _describe(settings: Settings) -> Model | E5Error:
    try:
        embedder = Embedder.load(settings)
    except E5Error as error:  # returned, because Ray would add a traceback of its own
        return error
    return Model(embedder.name, embedder.dimensions)
