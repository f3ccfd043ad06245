"""Embed a corpus: Parquet, JSON or CSV files -> a folder of Parquet shards that mirrors them.

    ./scripts/embed_corpus documents.jsonl vectors --text-column title text

Stop it at any moment, run it again: it goes on where it was. Run it again after IN has changed: OUT
then holds IN's documents, and only texts that it did not have are computed. Rows that cannot be
embedded go to OUT/_dead-letters with the reason. By E5_WEIGHTS and the service's other settings.

Exit status: 0 every document has its vector; 1 nothing more was done, the last line says why;
3 done, but for the dead letters.
"""

import argparse
import logging
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import get_args

from commands.options import absolute, as_options, plain
from e5.corpora.corpus import Corpus
from e5.corpora.formats import TextFormat
from e5.corpora.loop import Loop
from e5.corpora.passages import PassageSize
from e5.corpora.plan import ROWS_PER_SHARD
from e5.corpora.runner import Runner
from e5.corpora.shard_folder import DEAD_LETTERS, Recipe, ShardFolder
from e5.corpora.synchronize import Report, embed_corpus
from e5.corpora.vector_encoding import Dtype
from e5.embedder import Embedder
from e5.errors import E5Error, InputError
from e5.settings import Settings

OPTIONS = {
    "corpus": "IN",
    "shards": "OUT",
    "text_columns": "--text-column",
    "id_column": "--id-column",
    "task": "--task",
    "dimensions": "--dimensions",
    "rows_per_shard": "--rows-per-shard",
    "workers": "--workers",
    "keep": "--keep",
    "reuse": "--reuse",
    "passages": "--passages",
    "overlap": "--overlap",
    "delimiter": "--delimiter",
    "escape": "--escape",
    "encoding": "--encoding",
}
NAMED = 5  # duplicates in the last lines; the others are among the dead letters


def main() -> int:
    """Embed what is not embedded yet, print what it came to."""
    arguments = _arguments()
    logging.basicConfig(format="%(message)s")
    logging.getLogger("e5.corpora").setLevel(logging.INFO)
    try:
        with as_options(OPTIONS):
            report = _embed(arguments)
    except (E5Error, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("stopped; run it again to go on", file=sys.stderr)
        return 130
    summary, elapsed = report.summary, max(report.elapsed, 1e-9)
    print(
        f"{summary.documents:,} documents, {summary.tokens:,} tokens in {report.elapsed:.2f} s "
        f"({summary.tokens / elapsed:,.0f} tokens/s), {summary.truncated:,} truncated, "
        f"{report.dead_letters:,} dead letters"
    )
    print(
        f"{arguments.out} holds {report.documents:,} documents; {summary.computed:,} vectors "
        f"computed, {summary.reused:,} reused; {report.removed:,} documents removed"
    )
    stages = [f"{stage} {spent:.1f}" for stage, spent in summary.seconds.items()]
    print(f"seconds, side by side: {', '.join(stages)}")
    if report.duplicates:
        named = ", ".join(plain(row) for row in report.duplicates[:NAMED])
        more = ", ..." if len(report.duplicates) > NAMED else ""
        number = f"{len(report.duplicates):,} rows have an id that comes again later"
        print(f"{number}; the last row of an id counts: {named}{more}", file=sys.stderr)
    if report.dead_letters:
        where = f"{arguments.out}/{DEAD_LETTERS}"
        print(f"{report.dead_letters:,} dead letters in {where}", file=sys.stderr)
    if report.changing:
        files = ", ".join(plain(file) for file in report.changing[:NAMED])
        print(f"{files}: still changing; run it again when they rest", file=sys.stderr)
        return 1
    return 3 if report.dead_letters else 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="embed_corpus",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("corpus", metavar="IN", help="a file or folder; a path or a URI (s3://...)")
    parser.add_argument("out", metavar="OUT", help="folder of shards; a path or a URI")
    parser.add_argument("--id-column", help="default: file:row")
    parser.add_argument(
        "--text-column", nargs="+", default=["text"], help="several are joined with a blank"
    )
    parser.add_argument(
        "--task", default="", help="every text is a query of this task; default none"
    )
    parser.add_argument("--normalize", action="store_true", help="L2-normalise")
    parser.add_argument("--dimensions", type=int, help="keep the first n; default all")
    parser.add_argument("--dtype", choices=get_args(Dtype), default="float16")
    parser.add_argument("--rows-per-shard", type=int, default=ROWS_PER_SHARD)
    parser.add_argument(
        "--keep", nargs="+", default=[], metavar="COLUMN", help="carried through to OUT and INDEX"
    )
    parser.add_argument(
        "--passages", type=int, metavar="TOKENS", help="cut documents into passages"
    )
    parser.add_argument("--overlap", type=int, metavar="TOKENS", help="of passages; default 0")
    parser.add_argument(
        "--reuse", nargs="+", default=[], metavar="OTHER_OUT", help="take vectors from there too"
    )
    parser.add_argument(
        "--allow-empty", action="store_true", help="if IN holds no documents, empty OUT"
    )
    parser.add_argument("--delimiter", help="of CSV; default a comma, in .tsv a tab")
    parser.add_argument("--escape", help="before a quote inside quotes, in CSV: often \\")
    parser.add_argument("--encoding", default="utf-8", help="of CSV and JSON; default utf-8")
    parser.add_argument("--runner", choices=("loop", "ray"), default="loop", help="who computes")
    parser.add_argument(
        "--engine", dest="runner", choices=("loop", "ray"), help="the old name of --runner"
    )
    parser.add_argument("--ray-address", help="of a running cluster; default: one on this machine")
    parser.add_argument("--workers", metavar="N|MIN:MAX", help="of Ray, one GPU each; default 1")
    arguments = parser.parse_args()
    if any(word.split("=")[0] == "--engine" for word in sys.argv[1:]):
        print("--engine is now called --runner; the next release drops it", file=sys.stderr)
    if arguments.runner == "loop" and (arguments.workers or arguments.ray_address):
        parser.error("--workers and --ray-address are for --runner ray")
    if arguments.overlap is not None and arguments.passages is None:
        parser.error("--overlap is for --passages")
    return arguments


def _embed(arguments: argparse.Namespace) -> Report:
    corpus = Corpus(
        absolute(arguments.corpus),
        tuple(arguments.text_column),
        arguments.id_column,
        tuple(arguments.keep),
        TextFormat(arguments.delimiter, arguments.escape, arguments.encoding),
    )
    cut = None
    if arguments.passages is not None:
        cut = PassageSize(arguments.passages, arguments.overlap or 0)
    recipe = Recipe(arguments.task, arguments.normalize, arguments.dimensions, arguments.dtype, cut)
    return embed_corpus(
        corpus,
        ShardFolder(absolute(arguments.out), recipe),
        _runner(arguments),
        rows_per_shard=arguments.rows_per_shard,
        reuse=[ShardFolder(absolute(location)) for location in arguments.reuse],
        allow_empty=arguments.allow_empty,
    )


def _runner(arguments: argparse.Namespace) -> Runner:
    settings = Settings.from_env()
    if arguments.runner == "loop":
        return Loop(partial(Embedder.load, settings))
    from e5.corpora.cluster import Cluster

    settings = replace(settings, weights=Path(settings.weights).resolve())
    least, most = workers(arguments.workers or "1")
    print("waiting for a worker to load the model", file=sys.stderr)
    return Cluster(settings, arguments.ray_address, least, most)


def workers(text: str) -> tuple[int, int]:
    """`4` or `1:8`, as the least and the most workers of a pool.

    Raises:
        InputError: for numbers that make no pool.

    Example:
        >>> workers("4"), workers("1:8")
        ((4, 4), (1, 8))
    """
    least, colon, most = text.partition(":")
    most = most if colon else least
    if not (least.isdecimal() and most.isdecimal() and 0 < int(least) <= int(most)):
        raise InputError("workers", repr(text), "use a number such as 4, or 1:8")
    return int(least), int(most)


if __name__ == "__main__":
    sys.exit(main())
