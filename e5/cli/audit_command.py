"""Say whether vectors are right, and if not, what was done to them.

    e5 audit vectors.parquet --text-column text --vector-column embedding
    e5 audit OUT                                       # a folder of shards or an index of our own
    e5 audit --url http://127.0.0.1:8080 --dialect openai --model e5-mini

Vectors of a sample are compared with those that E5_WEIGHTS would give by each known mistake. An
endpoint is asked for the vectors of the audit's own texts, alone and together. Nothing is sent
anywhere but to the URLs that are named.

Exit status: 0 if the vectors are right, 1 if they are wrong or the audit failed, 2 if the verdict
is unknown or the options do not go together.
"""

import argparse
import asyncio
import json
import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from e5.audit import DIALECTS
from e5.cli.options import absolute, caller_errors, command_parser, print_output
from e5.errors import InputError, one_line
from e5.prompts import DEFAULT_TASK
from e5.settings import Settings

if TYPE_CHECKING:
    from e5.audit import AuditReport, Gathered, VectorSource

_FILE_OPTIONS = ("text_column", "vector_column", "id_column", "delimiter", "escape", "encoding")
_URL_OPTIONS = ("dialect", "model", "query_name", "key_env")
_OPTIONS = {
    "corpus": "FILE_OR_FOLDER",
    "texts": "FILE_OR_FOLDER",
    "vectors": "--vector-column",
    "text_columns": "--text-column",
    "api_key": "--key-env",
    **{
        name: f"--{name.replace('_', '-')}"
        for name in (*_FILE_OPTIONS[1:], *_URL_OPTIONS, "url", "task", "sample", "reference")
    },
}
_MAX_NAMED = 3  # rows that are left out, in a line


def audit_command(arguments: Sequence[str]) -> int:
    """Gather a sample, judge it, and print the verdict."""
    options = _parse(arguments)
    from e5.audit import judge

    with caller_errors(
        _OPTIONS | (dict.fromkeys(("texts", "vectors"), "--url") if options.url else {})
    ):
        if options.sample < 1:
            raise InputError("sample", str(options.sample), "use 1 or more")
        if options.url is None:
            gathered = _files(options)
            source = _source(options)
        else:
            address = _address(options)
            source = _source(options)
            gathered = _endpoint(options, address, source)
        report = judge(gathered, source, task=options.task)
    notes = _notes(gathered)
    if options.json:
        print_output(json.dumps(report.to_dict(), allow_nan=False))
        print(*notes, sep="\n", end="\n" * bool(notes), file=sys.stderr)
    else:
        print_output("\n".join([*_table(report, gathered), *notes, report.advice]))
    return report.exit_code if gathered.batched is None else 1


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = command_parser("audit", __doc__)
    add = parser.add_argument
    location = "A Parquet, JSON or CSV file, or a folder of them; a folder of shards, or an index."
    add("location", metavar="FILE_OR_FOLDER", nargs="?", help=location)
    texts = "The columns of the texts, which are joined with a space; the default is text."
    add("--text-column", nargs="+", action="extend", metavar="COLUMN", help=texts)
    vectors = "The column of the vectors; the default is embedding."
    add("--vector-column", metavar="COLUMN", help=vectors)
    add("--id-column", metavar="COLUMN", help="The column of the ids; else an id is file:row.")
    add("--delimiter", help="The delimiter of CSV; the default is a comma, or a tab in .tsv.")
    add("--escape", help="The character before a quote inside quotes in CSV, often \\.")
    add("--encoding", help="The encoding of CSV and JSON; the default is utf-8.")
    add("--url", help="The endpoint to audit, in place of FILE_OR_FOLDER.")
    add("--dialect", choices=tuple(DIALECTS), help="The wire format of the endpoint.")
    add("--model", help="The model's name at the endpoint.")
    query_name = (
        "What the endpoint calls queries: a model's name (openai, ollama), a prompt's name (tei) "
        "or a role. Without it, the audit writes the prompt into the queries for these three."
    )
    add("--query-name", metavar="NAME", help=query_name)
    add("--key-env", metavar="VAR", help="The environment variable that holds the endpoint's key.")
    roles = ("query", "document", "auto")
    role = "What the texts are for; with auto, the default, each may be a query or a document."
    add("--role", choices=roles, default="auto", help=role)
    task = "The task of the queries: web search by default, '' if they have no prompt."
    add("--task", help=task)
    sample = "How many rows are judged; the default is 64."
    add("--sample", type=int, metavar="ROWS", default=64, help=sample)
    reference = (
        "A service of ours that computes in place of E5_WEIGHTS: http://... or replicate:..."
    )
    add("--reference", metavar="URL", help=f"{reference} It knows fewer mistakes.")
    add("--json", action="store_true", help="Print one JSON object, for programs.")
    options = parser.parse_args(arguments)
    if (options.location is None) == (options.url is None):
        parser.error("name a FILE_OR_FOLDER, or an endpoint by --url")
    if options.url is not None and options.dialect is None:
        parser.error("--url needs --dialect")
    others, purpose = (_FILE_OPTIONS, "files") if options.url else (_URL_OPTIONS, "--url")
    for name in others:
        if getattr(options, name) is not None:
            parser.error(f"--{name.replace('_', '-')} is for {purpose}")
    return options


def _files(options: argparse.Namespace) -> "Gathered":
    from e5.audit import sample_files
    from e5.corpora import Corpus, TextFormat

    text_format = TextFormat(options.delimiter, options.escape, options.encoding or "utf-8")
    columns = tuple(options.text_column or ["text"])
    corpus = Corpus(absolute(options.location), columns, options.id_column, text_format=text_format)
    column = options.vector_column or "embedding"
    return sample_files(corpus, column, options.sample, options.role)


def _address(options: argparse.Namespace) -> Any:
    from e5.audit import EndpointAddress

    key = None
    if options.key_env is not None and (key := os.environ.get(options.key_env)) is None:
        raise InputError("key_env", f"{options.key_env}, which is not set", "set it to the key")
    return EndpointAddress(options.url, options.dialect, options.model, options.query_name, key)


def _endpoint(options: argparse.Namespace, address: Any, source: "VectorSource") -> "Gathered":
    from e5.audit import sample_endpoint

    task, prompts = DEFAULT_TASK if options.task is None else options.task, source.prompts
    return asyncio.run(
        sample_endpoint(
            address, task=task, prompts=prompts, count=options.sample, role=options.role
        )
    )


def _source(options: argparse.Namespace) -> "VectorSource":
    if options.reference is None:
        from e5.audit import LocalSource

        return LocalSource.load(Settings.from_env())
    from e5.audit import EncoderSource
    from e5.client import Client

    return EncoderSource.checked(Client(options.reference))


def _notes(gathered: "Gathered") -> list[str]:
    """Which rows are not in the sample, and the remarks about where it comes from."""
    lines = list(gathered.remarks)
    if gathered.left_out:
        named = [f"{row.id}: {row.reason}" for row in gathered.left_out[:_MAX_NAMED]]
        more = "; ..." if len(gathered.left_out) > _MAX_NAMED else ""
        lines.insert(0, f"left out: {len(gathered.left_out)} ({'; '.join(named)}{more})")
    return [one_line(line) for line in lines]


def _table(report: "AuditReport", gathered: "Gathered") -> list[str]:
    """The verdict for a person."""
    width = max(map(len, ["verdict", *report.shares]))
    lines = [f"{'verdict':{width}}    rows  cosine"]
    for verdict, share in report.shares.items():
        cosines = [row.cosine for row in report.rows if row.verdict == verdict]
        shown = f"{100 * share:.3g} %"
        lines.append(f"{verdict:{width}}  {shown:>6}  {sum(cosines) / len(cosines):.4f}")
    lines.append("")
    num_rows = f"{len(report.rows)} row{'s' * (len(report.rows) != 1)}"
    stored = f", stored as {', '.join(report.storage)}" if report.storage else ""
    lines.append(f"{num_rows} of {len(gathered.sample.vectors[0])} dimensions{stored}")
    if report.exit_code:
        lines.append(
            f"cosine with the right vectors: {report.cosine_right:.4f} "
            f"({100 * report.share:.3g} % of rows); the next hypothesis is "
            f"{report.margin:.4f} farther away"
        )
    if report.ndcg is not None:
        lines.append(f"nDCG@10 of the sample's neighbours, by these vectors: {report.ndcg:.3f}")
    if report.alternatives:
        nearest = report.verdict in ("unknown", "another_model")
        same = "nearest" if nearest else "not to be told apart here"
        lines.append(f"{same}: {_grouped(report.alternatives)}")
    return lines


def _grouped(names: Sequence[str]) -> str:
    """Names of hypotheses, those that differ in a value as one.

    Example:
        >>> _grouped(["lowercased", "truncated 512", "truncated 1024"])
        'lowercased, truncated 512 1024'
    """
    values = dict[str, list[str]]()
    for name in names:
        label, _, value = name.rpartition(" ") if name[-1:].isdigit() else (name, "", "")
        values.setdefault(label, []).append(value)
    return ", ".join(" ".join([label, *filter(None, each)]) for label, each in values.items())
