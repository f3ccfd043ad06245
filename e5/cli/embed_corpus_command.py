"""Embed the documents of a corpus into a folder of Parquet shards.

    e5 embed-corpus documents.jsonl vectors --text-column title text

The corpus is a Parquet, JSON or CSV file, or a folder of them. Stop the command at any moment and
run it again: it continues. Run it again after the corpus has changed: the shards then hold the
corpus's documents, and only texts that they did not have are computed. Rows that cannot be embedded
are dead letters: OUT/_dead-letters says why. E5_WEIGHTS and the other settings choose the model.

Exit status: 0 if every document has its vector; 1 if the work ended early, for the reason in the
last line; 3 if there are dead letters.
"""

import argparse
import logging
import sys
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from e5.cli.options import absolute, caller_errors, command_parser
from e5.errors import InputError, one_line
from e5.settings import Settings

if TYPE_CHECKING:
    from e5.corpora import Report, Runner

_FIELDS = "id_column task dimensions rows_per_shard workers keep reuse passages overlap"
_OPTIONS = {
    "corpus": "IN",
    "shards": "OUT",
    "text_columns": "--text-column",
    **{f: f"--{f.replace('_', '-')}" for f in f"{_FIELDS} delimiter escape encoding".split()},
}
MAX_NAMED = 5  # rows or files in one of the last lines


def embed_corpus_command(arguments: Sequence[str]) -> int:
    """Embed what has no vector yet, then print what was done."""
    options = _parse(arguments)
    logging.basicConfig(format="%(message)s")
    logging.getLogger("e5.corpora").setLevel(logging.INFO)
    with caller_errors(_OPTIONS):
        report = _embed(options)
    _print_report(report, options.out)
    return 1 if report.changing else 3 if report.dead_letters else 0


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = command_parser("embed-corpus", __doc__)
    add = parser.add_argument
    add("corpus", metavar="IN", help="The corpus, a file or a folder; a path or a URI (s3://...).")
    add("out", metavar="OUT", help="The folder of shards; a path or a URI.")
    add("--id-column", help="The column of the ids; without it an id is file:row.")
    # `--keep a --keep=-b` is the way to name a column that begins with a hyphen.
    columns: dict[str, Any] = {"nargs": "+", "action": "extend", "metavar": "COLUMN"}
    texts = "The columns of the texts, which are joined with a space; the default is text."
    add("--text-column", **columns, help=texts)
    task = "Embed every text with this task's prompt; by default without one."
    add("--task", default="", help=task)
    add("--normalize", action="store_true", help="L2-normalise the vectors.")
    add("--dimensions", type=int, help="Keep the first n dimensions; the default is all.")
    stored = "What the vectors are stored as"
    dtypes = ("float32", "float16", "int8", "binary")
    add("--dtype", choices=dtypes, default="float16", help=f"{stored}; the default is float16.")
    add("--rows-per-shard", type=int, help="The maximum rows of a shard; the default is 4096.")
    keep = "Columns that are copied into the shards and the index; folders (lang=en) are columns "
    keep += "too. COLUMN:text names a type (text, integer, number, boolean, date)."
    add("--keep", **columns | {"metavar": "COLUMN[:TYPE]"}, default=[], help=keep)
    passages = "Split documents into passages of at most so many tokens."
    add("--passages", type=int, metavar="TOKENS", help=passages)
    overlap = "The maximum tokens that a passage shares with the one before; the default is 0."
    add("--overlap", type=int, metavar="TOKENS", help=overlap)
    reuse = "Other folders of shards; vectors of equal texts are taken from them."
    add("--reuse", nargs="+", default=[], metavar="OTHER_OUT", help=reuse)
    add("--allow-empty", action="store_true", help="If IN holds no documents, empty OUT.")
    add("--delimiter", help="The delimiter of CSV; the default is a comma, or a tab in .tsv.")
    add("--escape", help="The character before a quote inside quotes in CSV, often \\.")
    add("--encoding", default="utf-8", help="The encoding of CSV and JSON; the default is utf-8.")
    runner = "What computes: a loop in this process, the default, or a Ray cluster."
    add("--runner", choices=("loop", "ray"), default="loop", help=runner)
    add("--ray-address", help="A running Ray cluster; the default starts one on this machine.")
    workers = "The number of Ray workers, one card each, or the least and the most (1:8)"
    add("--workers", metavar="N|MIN:MAX", help=f"{workers}; the default is 1.")
    options = parser.parse_args(arguments)
    if options.runner == "loop" and (options.workers or options.ray_address):
        parser.error("--workers and --ray-address are for --runner ray")
    if options.overlap is not None and options.passages is None:
        parser.error("--overlap is for --passages")
    return options


def _embed(options: argparse.Namespace) -> "Report":
    from e5.corpora import Corpus, PassageSize, Recipe, ShardFolder, TextFormat, embed_corpus

    keep = [kept_column(text) for text in options.keep]
    corpus = Corpus(
        absolute(options.corpus),
        tuple(options.text_column or ["text"]),
        options.id_column,
        tuple(column for column, _ in keep),
        TextFormat(options.delimiter, options.escape, options.encoding),
        {column: name for column, name in keep if name is not None},
    )
    size = None
    if options.passages is not None:
        size = PassageSize(options.passages, options.overlap or 0)
    recipe = Recipe(options.task, options.normalize, options.dimensions, options.dtype, size)
    rows = {} if options.rows_per_shard is None else {"rows_per_shard": options.rows_per_shard}
    return embed_corpus(
        corpus,
        ShardFolder(absolute(options.out), recipe),
        _runner(options),
        **rows,
        reuse=[ShardFolder(absolute(location)) for location in options.reuse],
        allow_empty=options.allow_empty,
    )


def _runner(options: argparse.Namespace) -> "Runner":
    settings = Settings.from_env()
    if options.runner == "loop":
        from e5.corpora import Loop
        from e5.embedder import Embedder

        return Loop(partial(Embedder.load, settings))
    from e5.corpora import Cluster

    settings = replace(settings, weights=Path(settings.weights).resolve())
    least, most = worker_bounds(options.workers or "1")
    print("waiting for a worker to load the model", file=sys.stderr)
    return Cluster(settings, options.ray_address, least, most)


def kept_column(text: str) -> tuple[str, str | None]:
    """The column and the type's name in `version:text`; None without a type.

    Example:
        >>> kept_column("version:text"), kept_column("dc:title"), kept_column("dc:title:text")
        (('version', 'text'), ('dc:title', None), ('dc:title', 'text'))
    """
    from e5.corpora import NAMED_TYPES

    column, _, name = text.rpartition(":")
    return (column, name) if column and name in NAMED_TYPES else (text, None)


def worker_bounds(text: str) -> tuple[int, int]:
    """The least and the most workers of a pool, from `4` or `1:8`.

    Raises:
        InputError: for numbers that make no pool.

    Example:
        >>> worker_bounds("4"), worker_bounds("1:8")
        ((4, 4), (1, 8))
    """
    least, colon, most = text.partition(":")
    most = most if colon else least
    if not (least.isdecimal() and most.isdecimal() and 0 < int(least) <= int(most)):
        raise InputError("workers", repr(text), "use a number such as 4, or 1:8")
    return int(least), int(most)


def _print_report(report: "Report", out: str) -> None:
    from e5.corpora import DEAD_LETTERS

    summary, elapsed = report.summary, max(report.elapsed, 1e-9)
    stages = [f"{stage} {seconds:.1f}" for stage, seconds in summary.seconds.items()]
    print(
        f"{summary.documents:,} documents, {summary.tokens:,} tokens in {report.elapsed:.2f} s "
        f"({summary.tokens / elapsed:,.0f} tokens/s), {summary.truncated:,} truncated, "
        f"{report.dead_letters:,} dead letters\n"
        f"{out} holds {report.documents:,} documents; {summary.computed:,} vectors computed, "
        f"{summary.reused:,} reused; {report.removed:,} documents removed\n"
        f"seconds of each stage, which overlap: {', '.join(stages)}"
    )
    if report.duplicates:
        named = ", ".join(one_line(row) for row in report.duplicates[:MAX_NAMED])
        more = ", ..." if len(report.duplicates) > MAX_NAMED else ""
        number = f"{len(report.duplicates):,} rows"
        reason = "a later row has the same id"
        print(f"{number} got no vector, because {reason}: {named}{more}", file=sys.stderr)
    for sentence in report.unkept:
        print(one_line(sentence), file=sys.stderr)
    if report.dead_letters:
        print(f"{report.dead_letters:,} dead letters in {out}/{DEAD_LETTERS}", file=sys.stderr)
    if report.changing:
        files = ", ".join(one_line(file) for file in report.changing[:MAX_NAMED])
        remedy = "run the command again when they no longer change"
        print(f"{files}: changed during the run; {remedy}", file=sys.stderr)
