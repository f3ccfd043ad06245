"""Search an index for the documents nearest to a query.

    e5 search index "how do I rename many files" --top 5
    e5 search index "tea in winter" --where "year >= 2020 and lang = 'en'" --hybrid
    e5 search index --queries queries.txt --url http://127.0.0.1:5000

The query is embedded by the model in E5_WEIGHTS, or by a running service with --url. It must be the
model that made the index. With --queries a line of JSON is printed for each line of a file.
"""

import argparse
import json
import shutil
from collections.abc import Sequence
from operator import methodcaller
from pathlib import Path
from typing import TYPE_CHECKING, Any

from e5.cli.options import caller_errors, command_parser, print_output, read_lines
from e5.errors import one_line
from e5.settings import Settings

if TYPE_CHECKING:
    from e5.corpora import Hit
    from e5.encoder import Encoder

_OPTIONS = {
    "index": "INDEX",
    "model": "E5_WEIGHTS",
    "queries[0]": "QUERY",
    "task": "--task",
    "top": "--top",
    "where": "--where",
    "url": "--url",
}
MAX_ID_WIDTH, MAX_COLUMN_WIDTH = 40, 24  # characters of an id and of a kept column in the table


def search_command(arguments: Sequence[str]) -> int:
    """Embed the queries, find the nearest documents, and print them."""
    options = _parse(arguments)
    from e5.corpora import Index

    names = _OPTIONS | ({"model": "--url"} if options.url else {})
    texts = [options.query]
    if options.queries is not None:
        lines = read_lines(options.queries, "--queries", "query")
        texts = list(lines.values())
        names |= {f"queries[{i}]": f"{options.queries}, line {n}" for i, n in enumerate(lines)}
    with caller_errors(names):
        found = Index(options.index).find_all(
            _encoder(options.url),
            texts,
            task=options.task,
            top=options.top,
            where=options.where,
            hybrid=options.hybrid,
            per_document=options.per_document,
        )
    dicts = [[hit.as_dict() for hit in hits] for hits in found]
    if options.queries is not None:
        answers = zip(texts, dicts, strict=True)
        printed = "\n".join(_to_json({"query": text, "hits": hits}) for text, hits in answers)
    else:
        printed = _to_json(dicts[0]) if options.json else _as_table(found[0])
    print_output(printed)
    return 0


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = command_parser("search", __doc__)
    add = parser.add_argument
    add("index", metavar="INDEX", help="The folder of the index; a path or a URI.")
    add("query", metavar="QUERY", nargs="?", help="The text to search with.")
    queries = "A file with one query a line, in place of QUERY; - for the standard input."
    add("--queries", metavar="FILE", type=Path, help=queries)
    task = "The default is the documents' task, or web search if they have none."
    add("--task", help=f"The task of the query. {task}")
    add("--top", type=int, default=10, help="The number of documents; the default is 10.")
    add("--where", metavar="SQL", help="A condition on kept columns that every hit fulfils.")
    hybrid = "Rank by the words of the query (BM25) as well as by its vector."
    add("--hybrid", action="store_true", help=hybrid)
    add("--per-document", action="store_true", help="Print only each document's best passage.")
    add("--url", help="A service that embeds the query: http://... or replicate:owner/name.")
    add("--json", action="store_true", help="Print JSON, for programs.")
    options = parser.parse_args(arguments)
    if (options.query is None) == (options.queries is None):
        parser.error("name one QUERY, or a file of them by --queries")
    return options


def _encoder(url: str | None) -> "Encoder":
    if url is not None:
        from e5.client import Client

        return Client(url)
    from e5.embedder import Embedder

    return Embedder.load(Settings.from_env())


def _to_json(value: Any) -> str:
    """JSON of values with dates in them; null for NaN and infinity, which JSON cannot express."""
    written = json.dumps(value, default=methodcaller("isoformat"))
    return json.dumps(json.loads(written, parse_constant=lambda _: None))


def _as_table(hits: "Sequence[Hit]") -> str:
    """The table for a person, each row cut off at the width of the terminal."""
    width = shutil.get_terminal_size((120, 24)).columns
    rows = [
        {"id": _in_a_cell(hit.id)}
        | {
            name: "" if value is None else _in_a_cell(str(value))
            for name, value in hit.values.items()
        }
        for hit in hits
    ]
    names = {name: _in_a_cell(name) for name in (rows[0] if rows else {"id": ""})}
    widths = {}
    for name, shown in names.items():
        limit = MAX_ID_WIDTH if name == "id" else MAX_COLUMN_WIDTH
        widths[name] = min(limit, max(len(cell) for cell in (shown, *(row[name] for row in rows))))
    head = "  ".join(f"{names[name][:size]:{size}}" for name, size in widths.items())
    lines = [f"rank  score  {head}  text"]
    for rank, (hit, row) in enumerate(zip(hits, rows, strict=True), 1):
        cells = "  ".join(f"{row[name][:size]:{size}}" for name, size in widths.items())
        lines.append(f"{rank:4}  {hit.score:5.1f}  {cells}  {_in_a_cell(hit.text)}")
    return "\n".join(line[:width] for line in lines)


def _in_a_cell(text: str) -> str:
    """One line without runs of blanks, which cannot move the cursor."""
    return " ".join(one_line(text).split())
