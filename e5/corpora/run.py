"""Makes a folder of shards hold exactly the documents of a corpus, with any runner.

Puts the steps in order: what there is, what differs, what is to be done, and who does it. Knows
nothing of command lines, or of how and where units are done.
"""

import logging
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

import numpy as np
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from e5.corpora.column_types import NULL, TEXT, common_type, from_name
from e5.corpora.corpus import Corpus
from e5.corpora.documents import DeadLetter
from e5.corpora.filesystem import only_writer
from e5.corpora.inventory import Difference, Inventory, compare
from e5.corpora.loop import Model, Summary
from e5.corpora.manifest import VECTOR_RULES, Manifest
from e5.corpora.plan import ROWS_PER_SHARD, ReusableVectors, Unit, plan
from e5.corpora.scan import Scan, documents_at, scan
from e5.corpora.shard_folder import ShardFolder
from e5.errors import InputError

logger = logging.getLogger(__name__)

PASSES = 3  # over a corpus whose files change meanwhile
DUPLICATES = "duplicates"  # the name of their dead letters


class Runner(Protocol):
    """What does the units: `Loop` in this process, `Cluster` on many machines."""

    def describe(self) -> Model:
        """The model that computes.

        Raises:
            E5Error: if it cannot be loaded.
        """

    def embed_units(
        self, units: Sequence[Unit], corpus: Corpus, folder: ShardFolder
    ) -> Iterator[Summary]:
        """Do units of a corpus in a folder; yields the summary of each finished unit.

        Raises:
            E5Error: for a failure that no document caused; it stops the run.
        """


@dataclass(frozen=True)
class Report:
    """The result of a run.

    Attributes:
        summary: figures of the units that this run did.
        elapsed: seconds from the first unit to the last.
        documents: number of those that the folder holds.
        removed: number of those that it held and the corpus no longer has.
        dead_letters: number of those in the folder, of all runs.
        duplicates: `file:row` of rows whose id comes again later, and the id.
        changing: files that changed in every pass; the folder holds what could be read of them.
    """

    summary: Summary
    elapsed: float
    documents: int
    removed: int
    dead_letters: int
    duplicates: list[str] = field(default_factory=list)
    changing: list[str] = field(default_factory=list)


def embed_corpus(
    corpus: Corpus,
    folder: ShardFolder,
    runner: Runner,
    *,
    rows_per_shard: int = ROWS_PER_SHARD,
    reuse: Sequence[ShardFolder] = (),
    allow_empty: bool = False,
) -> Report:
    """Make a folder hold a corpus's documents. It can be stopped at any moment, and called again.

    Args:
        corpus: where documents are.
        folder: where vectors go, and how they are made.
        runner: does the units.
        rows_per_shard: the most vectors of a shard; as many are in memory.
        reuse: other folders that vectors may be taken from.
        allow_empty: empty the folder if the corpus is empty.

    Raises:
        InputError: for a corpus, a folder or rules that cannot be used, or while another run writes
            to the folder.
        E5Error: if the model cannot be loaded, or the runner gives up.
        OSError: if the folder cannot be written.
    """
    if rows_per_shard < 1:
        raise InputError("rows_per_shard", str(rows_per_shard), "use 1 or more")
    files = corpus.files()
    model = runner.describe()  # once: a cluster loads it for the answer
    run = _Run(corpus, folder, runner, model, rows_per_shard, reuse, allow_empty)
    run.check(files)  # before anything is written
    with only_writer(folder.location):
        for _ in range(PASSES):
            before, files = files, run.once(files)
            if files == before:
                break
    return run.report()


class _Run:
    """One run: passes over the corpus, until nothing changed meanwhile."""

    def __init__(
        self,
        corpus: Corpus,
        folder: ShardFolder,
        runner: Runner,
        model: Model,
        rows_per_shard: int,
        reuse: Sequence[ShardFolder],
        allow_empty: bool,
    ) -> None:
        self._corpus, self._folder, self._runner, self._model = corpus, folder, runner, model
        self._rows_per_shard, self._reuse, self._allow_empty = rows_per_shard, reuse, allow_empty
        self._total, self._elapsed, self._removed = Summary(), 0.0, 0
        self._duplicates: list[str] = []
        self._changing: list[str] = []

    def check(self, files: dict[str, str]) -> Manifest:
        """The manifest, if corpus and folder can be used."""
        model = self._model
        manifest = self._folder.check(model.name, model.dimensions, self._corpus)
        for other in self._reuse:
            theirs = other.manifest()
            if theirs is None:
                received = f"{other.location}, which holds no vectors of this project"
                raise InputError("reuse", received, "name a folder of shards")
            if difference := theirs.difference(manifest, (*VECTOR_RULES, "normalize")):
                rule, was, now = difference
                received = f"{other.location}, made with {rule} {was}, for {now}"
                raise InputError("reuse", received, "leave it out")
        if not files and not self._allow_empty:
            raise self._empty()
        return manifest

    def once(self, files: dict[str, str]) -> dict[str, str]:
        """One pass over these files; they as they are after it."""
        manifest = self.check(files)
        is_known = files or manifest.shards
        if is_known and manifest.files == files and manifest.shards == self._folder.shards():
            logger.info("nothing has changed since the last run")
            return files
        found = scan(self._corpus, files, self._folder.recipe.cut, self._folder.write_dead_letters)
        there = self._folder.inventory()
        if len(there) and not len(found.inventory) and not self._allow_empty:
            raise self._empty()
        manifest = replace(manifest, keep=self._kept(manifest, found, is_new=not len(there)))
        self._folder.begin(manifest)
        difference = compare(found.inventory, there)
        self._folder.delete_dead_letters(but=[*found.letters, DUPLICATES])
        self._tell_duplicates(found, difference)
        units = self._units(found, there, difference)
        documents = len(found.inventory) - len(difference.duplicates)
        self._do(units, documents, len(difference.removed))
        now = self._corpus.files()
        self._changing = [name for name in now | files if now.get(name) != files.get(name)]
        if self._changing:
            logger.warning("%d files changed meanwhile", len(self._changing))
        else:
            self._folder.end(manifest, files)
        return now

    def report(self) -> Report:
        """What it came to."""
        return Report(
            self._total,
            self._elapsed,
            len(self._folder.inventory()),
            self._removed,
            self._folder.num_dead_letters(),
            self._duplicates,
            self._changing,
        )

    def _units(self, found: Scan, there: Inventory, difference: Difference) -> list[Unit]:
        others = (self._folder.replaced(), *self._reuse)
        stocks = [ReusableVectors(self._folder.location, there)]
        stocks += [ReusableVectors(other.location, other.inventory()) for other in others]
        units = plan(found.inventory, found.marks, there, difference, stocks, self._rows_per_shard)
        # A shard that loses vectors which another one needs is kept until the end.
        ours = self._folder.location
        needed = {
            source.shard
            for unit in units
            for source in unit.sources
            if source.folder == ours and source.shard != unit.shard
        }
        aside = self._folder.keep_replaced(sorted(needed & {unit.shard for unit in units}))
        elsewhere = self._folder.replaced().location
        for unit in units:
            unit.sources[:] = [
                replace(source, folder=elsewhere, shard=aside[source.shard])
                if source.folder == ours and source.shard in aside and source.shard != unit.shard
                else source
                for source in unit.sources
            ]
        return units

    def _do(self, units: Sequence[Unit], documents: int, removed: int) -> None:
        left = sum(unit.num_documents for unit in units)
        if left < documents:
            logger.info("%d of %d documents are there already", documents - left, documents)
        started, total = time.perf_counter(), self._total
        with (
            logging_redirect_tqdm(),
            tqdm(
                None, "embedding", documents, initial=documents - left, unit="doc", disable=None
            ) as bar,
        ):
            for summary in self._runner.embed_units(units, self._corpus, self._folder):
                total += summary
                rate = total.tokens / (time.perf_counter() - started)
                bar.set_postfix_str(f"{rate:,.0f} tokens/s", refresh=False)
                bar.update(summary.documents + summary.dead_letters)
        self._elapsed += time.perf_counter() - started
        self._removed += removed

    def _tell_duplicates(self, found: Scan, difference: Difference) -> None:
        places = difference.duplicates
        wanted = np.unique(np.concatenate([places, difference.winners]))
        found_again = documents_at(self._corpus, found, wanted)
        rows = {place: (document.id, row) for place, document, row in found_again}
        letters = []
        self._duplicates = []
        for lost, won in zip(places.tolist(), difference.winners.tolist(), strict=True):
            if lost in rows and won in rows:
                name, row = rows[lost]
                self._duplicates.append(f"{row} ({name})")
                reason = f"{row}: its id comes again in {rows[won][1]}, which counts"
                letters.append(DeadLetter(name, reason))
        self._folder.write_dead_letters(DUPLICATES, letters)

    def _kept(self, manifest: Manifest, found: Scan, *, is_new: bool) -> dict[str, str]:
        if is_new:
            return {
                column: str(TEXT if kind == NULL else kind) for column, kind in found.kinds.items()
            }
        for column, kind in found.kinds.items():
            known = from_name(manifest.keep[column])
            if common_type(known, kind) != known:
                received = f"{column!r}, which now holds {kind}; the folder has {known}"
                remedy = "name another folder, and give this one as --reuse"
                raise InputError("keep", received, remedy)
        return dict(manifest.keep)

    def _empty(self) -> InputError:
        received = f"{self._corpus.location}, which holds no documents"
        remedy = "mount it or fill it; with --allow-empty the vectors made of it are deleted"
        return InputError("corpus", received, remedy)
