"""Embeds a corpus: files of documents -> a folder of shards, with any runner.

Puts the steps in order: list the files, find the unfinished units, give them to the runner. Knows
nothing of command lines, or of how and where units are embedded.
"""

import logging
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from e5.corpora.corpus import Corpus, Unit
from e5.corpora.loop import Model, Summary
from e5.corpora.shards import ShardFolder
from e5.errors import InputError

logger = logging.getLogger(__name__)

ROWS_PER_SHARD = 4096  # with 4096 float16 dimensions a shard has 28 MB


class Runner(Protocol):
    """What runs the units: `Loop` in this process, `Cluster` on many machines."""

    def describe(self) -> Model:
        """The model that computes.

        Raises:
            E5Error: if it cannot be loaded.
        """

    def embed_units(
        self, units: Sequence[Unit], corpus: Corpus, folder: ShardFolder
    ) -> Iterator[Summary]:
        """Embed units of a corpus into a folder; yields the summary of each finished unit.

        Raises:
            E5Error: for a failure that no document caused; it stops the run.
        """


@dataclass(frozen=True)
class Report:
    """The result of a run.

    Attributes:
        summary: figures of the units that this run did.
        elapsed: seconds from the first unit to the last.
        dead_letters: number of those in the folder, of all runs.
    """

    summary: Summary
    elapsed: float
    dead_letters: int


def embed_corpus(
    corpus: Corpus, folder: ShardFolder, runner: Runner, *, rows_per_shard: int = ROWS_PER_SHARD
) -> Report:
    """Embed what the folder lacks. It can be stopped at any moment and called again.

    Args:
        corpus: where documents are.
        folder: where vectors go, and how they are made.
        runner: embeds the units.
        rows_per_shard: rows of a file in one shard; a whole unit of this size is in memory.

    Raises:
        InputError: for a corpus, a folder or rules that cannot be used.
        E5Error: if the model cannot be loaded, or the runner gives up.
        OSError: if the folder cannot be written.
    """
    if rows_per_shard < 1:
        raise InputError("rows_per_shard", str(rows_per_shard), "use 1 or more")
    files = corpus.files()
    model = runner.describe()
    folder.begin(model.name, model.dimensions, corpus, files, rows_per_shard)
    units = corpus.plan(files, rows_per_shard)
    left = folder.unfinished(units)
    all_rows, left_rows = (sum(unit.num_rows for unit in some) for some in (units, left))
    if left_rows < all_rows:
        logger.info("%d of %d rows are done already", all_rows - left_rows, all_rows)
    total, started = Summary(), time.perf_counter()
    with (
        logging_redirect_tqdm(),
        tqdm(
            None, "embedding", all_rows, initial=all_rows - left_rows, unit="doc", disable=None
        ) as bar,
    ):
        for summary in runner.embed_units(left, corpus, folder):
            total += summary
            rate = total.tokens / (time.perf_counter() - started)
            bar.set_postfix_str(f"{rate:,.0f} tokens/s", refresh=False)
            bar.update(summary.documents + summary.dead_letters)
    return Report(total, time.perf_counter() - started, folder.num_dead_letters())
