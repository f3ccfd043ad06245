"""Makes a folder of shards hold exactly the documents of a corpus, with any runner.

Puts the steps in order: what there is, what differs, what is to be done, and who does it.
"""

import logging
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

import numpy as np
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from e5.corpora.column_types import ARROW_TYPES, KINDS_HELD, NULL, TEXT, column_type
from e5.corpora.corpus import Corpus
from e5.corpora.documents import DeadLetter
from e5.corpora.filesystem import only_writer
from e5.corpora.inventory import Difference, Inventory, compare
from e5.corpora.manifest import VECTOR_RULES, Manifest
from e5.corpora.plan import ROWS_PER_SHARD, Unit, plan
from e5.corpora.scan import Scan, documents_at, scan
from e5.corpora.shard_folder import ShardFolder
from e5.errors import InputError

logger = logging.getLogger(__name__)

PASSES = 3  # over a corpus whose files change during the run
DUPLICATES = "duplicates"  # the name of their dead letters
STAGES = ("read", "tokenize", "compute", "wait", "write")  # wait: the engine waits for a unit


@dataclass(frozen=True)
class Model:
    """The model of a runner: its name with fingerprint, and the dimensions of its vectors."""

    name: str
    dimensions: int


@dataclass
class Summary:
    """Figures of one unit or of a run."""

    documents: int = 0  # that were written
    computed: int = 0  # vectors that were computed
    reused: int = 0  # vectors that were taken from shards
    tokens: int = 0  # that were computed, prompts included
    truncated: int = 0  # texts that were truncated
    dead_letters: int = 0  # texts without a vector
    # Spent in each stage; stages overlap, so the sum may exceed the elapsed time.
    seconds: dict[str, float] = field(default_factory=lambda: dict.fromkeys(STAGES, 0.0))

    def __iadd__(self, other: "Summary") -> "Summary":
        """Add the figures of another summary."""
        for name, value in vars(other).items():
            if name != "seconds":
                setattr(self, name, getattr(self, name) + value)
        for stage, seconds in other.seconds.items():
            self.seconds[stage] += seconds
        return self


class Runner(Protocol):
    """What does the units: `Loop` in this process, `Cluster` on many machines."""

    def describe(self) -> Model:
        """The model that computes; an E5Error if it cannot be loaded."""

    def embed_units(
        self, units: Sequence[Unit], corpus: Corpus, folder: ShardFolder
    ) -> Iterator[Summary]:
        """Do units of a corpus in a folder; yields the summary of each finished unit.

        Raises:
            E5Error: for a failure that no document caused; it stops the run.
        """


@dataclass
class Report:
    """The result of a run."""

    summary: Summary = field(default_factory=Summary)  # of the units that this run did
    elapsed: float = 0.0  # seconds from the first unit to the last
    documents: int = 0  # number of documents that the folder holds
    removed: int = 0  # number of documents that it held and the corpus no longer has
    dead_letters: int = 0  # number of dead letters in the folder, of all runs
    # `file:row` of rows whose id comes again later, and the id.
    duplicates: list[str] = field(default_factory=list)
    # A sentence for each kept column with values that cannot be kept.
    unkept: list[str] = field(default_factory=list)
    # Files that changed in every pass; the folder holds what could be read of them.
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
    model = runner.describe()  # once, because a cluster loads the model for it
    run = _Run(corpus, folder, runner, model, rows_per_shard, reuse, allow_empty)
    # Refuse what cannot be used before anything is written. Each pass checks again, because another
    # run may have written before the lock is held, and an earlier pass writes the manifest.
    manifest = run.check(files)
    # Kept values are stored in the order of the folder's columns, whatever the order of these.
    run.corpus = replace(corpus, keep=tuple(manifest.keep))
    report = Report()
    with only_writer(folder.location):
        for _ in range(PASSES):
            before, files = files, run.do_pass(files, report)
            if files == before:
                break
    report.documents, report.dead_letters = len(folder.inventory()), folder.num_dead_letters()
    return report


@dataclass
class _Run:
    """What `embed_corpus` was called with, and the model."""

    corpus: Corpus
    folder: ShardFolder
    runner: Runner
    model: Model
    rows_per_shard: int
    reuse: Sequence[ShardFolder]
    allow_empty: bool

    def check(self, files: dict[str, str]) -> Manifest:
        """The manifest; an InputError if the corpus or a folder cannot be used."""
        manifest = self.folder.check(self.model.name, self.model.dimensions, self.corpus)
        for other in self.reuse:
            theirs = other.manifest()
            if theirs is None:
                received = f"{other.location}, which holds no vectors of this project"
                raise InputError("reuse", received, "name a folder of shards")
            if difference := theirs.difference(manifest, (*VECTOR_RULES, "normalize")):
                rule, was, now = difference
                received = f"{other.location}, made with {rule} {was}, not {now}"
                raise InputError("reuse", received, "leave it out")
        if not files:
            self._check_empty()
        return manifest

    def do_pass(self, files: dict[str, str], report: Report) -> dict[str, str]:
        """Make the folder hold these files; returns the corpus's files as they are afterwards.

        The order makes it safe to be killed at any moment. From `begin` to `end` the manifest names
        no files, so the next run compares again, with the shards themselves, each of which a unit
        replaces whole. Deleted dead letters are written again by the units that the next run
        finds, and a vector that another shard needs is backed up before any shard is replaced.
        """
        manifest = self.check(files)
        is_known = files or manifest.shards
        if is_known and manifest.files == files and manifest.shards == self.folder.shards():
            logger.info("nothing has changed since the last run")
            return files
        write_dead_letters = self.folder.write_dead_letters
        found = scan(self.corpus, files, self.folder.recipe.passage_size, write_dead_letters)
        stored = self.folder.inventory()
        if len(stored) and not len(found.inventory):
            self._check_empty()
        manifest = replace(manifest, keep=_kept(manifest, found, is_new=not len(stored)))
        for column in found.kept:
            for remark in column.remarks(ARROW_TYPES[manifest.keep[column.name]]):
                logger.warning("%s", remark)
        report.unkept = [sentence for column in found.kept for sentence in column.unkept()]
        self.folder.begin(manifest)
        difference = compare(found.inventory, stored)
        self.folder.delete_dead_letters(except_for=[*found.dead_letters, DUPLICATES])
        report.duplicates = self._report_duplicates(found, difference)
        units = self._units(found, stored, difference)
        self._do(units, len(found.inventory) - len(difference.duplicates), report)
        report.removed += len(difference.removed)
        now = self.corpus.files(quiet=True)
        report.changing = [name for name in now | files if now.get(name) != files.get(name)]
        if report.changing:
            logger.warning("%d files changed during the run", len(report.changing))
        else:
            self.folder.end(manifest, files)
        return now

    def _check_empty(self) -> None:
        if not self.allow_empty:
            received = f"{self.corpus.location}, which holds no documents"
            remedy = "mount it or fill it; with --allow-empty the vectors made of it are deleted"
            raise InputError("corpus", received, remedy)

    def _units(self, found: Scan, stored: Inventory, difference: Difference) -> list[Unit]:
        backups, ours = self.folder.backups(), self.folder.location
        reusable = {ours: stored}
        for other in (backups, *self.reuse):
            reusable[other.location] = other.inventory(allow_release_1=True)
        rows = self.rows_per_shard
        units = plan(found.inventory, found.read_positions, stored, difference, reusable, rows)
        # A shard that loses vectors which another one needs is backed up until the end.
        written = {unit.shard for unit in units}
        lost = [
            (unit, i)
            for unit in units
            for i, source in enumerate(unit.sources)
            if source.folder == ours and source.shard != unit.shard and source.shard in written
        ]
        copies = self.folder.back_up(sorted({unit.sources[i].shard for unit, i in lost}))
        for unit, i in lost:
            copy = copies[unit.sources[i].shard]
            unit.sources[i] = replace(unit.sources[i], folder=backups.location, shard=copy)
        return units

    def _do(self, units: Sequence[Unit], documents: int, report: Report) -> None:
        done = documents - sum(unit.num_documents for unit in units)
        if done:
            logger.info("%d of %d documents have their vectors already", done, documents)
        started, total = time.perf_counter(), report.summary
        with (
            logging_redirect_tqdm(),
            tqdm(None, "embedding", documents, initial=done, unit="doc", disable=None) as bar,
        ):
            for summary in self.runner.embed_units(units, self.corpus, self.folder):
                total += summary
                rate = total.tokens / (time.perf_counter() - started)
                bar.set_postfix_str(f"{rate:,.0f} tokens/s", refresh=False)
                bar.update(summary.documents + summary.dead_letters)
        report.elapsed += time.perf_counter() - started

    def _report_duplicates(self, found: Scan, difference: Difference) -> list[str]:
        """Write dead letters of the duplicates; returns `file:row` and id of each."""
        pairs = np.stack([difference.duplicates, difference.latest], axis=1)
        read = documents_at(self.corpus, found, np.unique(pairs))
        documents = {position: (document.id, row) for position, document, row in read}
        dead_letters, duplicates = [], []
        for duplicate, latest in pairs.tolist():
            if duplicate in documents and latest in documents:  # else the file has just changed
                name, row = documents[duplicate]
                duplicates.append(f"{row} ({name})")
                reason = f"{row}: its id comes again in {documents[latest][1]}, which counts"
                dead_letters.append(DeadLetter(name, reason))
        self.folder.write_dead_letters(DUPLICATES, dead_letters)
        return duplicates


def _kept(manifest: Manifest, found: Scan, *, is_new: bool) -> dict[str, str]:
    """The types of the kept columns: those of a folder, or of a new one those of the corpus."""
    if is_new:
        kinds = {column.name: column_type(column.kinds) for column in found.kept}
        return {name: str(TEXT if kind == NULL else kind) for name, kind in kinds.items()}
    for column in found.kept:
        known = ARROW_TYPES[manifest.keep[column.name]]
        if others := sorted(column.kinds - KINDS_HELD[known]):
            received = (
                f"{column.name!r}, which now holds {', '.join(others)}; the folder has {known}"
            )
            remedy = "name another folder, and give this one as --reuse"
            raise InputError("keep", received, remedy)
    return dict(manifest.keep)
