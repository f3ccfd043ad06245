"""Search an index of scripts/build_index.

    ./scripts/search index "how do I rename many files" --top 5
    ./scripts/search index "tea in winter" --where "year >= 2020 and lang = 'en'" --hybrid
    ./scripts/search index --queries queries.txt --url http://127.0.0.1:5000

The query is embedded by E5_WEIGHTS, or by a running service, which must have the weights and rules
that the index was made by. --queries prints a line of JSON for each line of a file.
"""

import argparse
import json
import shutil
import signal
import sys
from collections.abc import Sequence
from datetime import date
from pathlib import Path

from commands.options import as_options, plain
from e5.client.client import Client
from e5.corpora.hits import Hit
from e5.corpora.index import Index
from e5.encoder import Encoder
from e5.errors import E5Error, InputError
from e5.settings import Settings

OPTIONS = {
    "index": "INDEX",
    "model": "E5_WEIGHTS",
    "queries[0]": "QUERY",
    "task": "--task",
    "top": "--top",
    "where": "--where",
    "url": "--url",
}
VALUES_WIDTH = 24  # of a kept value in the table


def main() -> int:
    """Embed the query, print what is nearest to it."""
    arguments = _arguments()
    options = OPTIONS | ({"model": "--url"} if arguments.url else {})
    try:
        texts = _queries(arguments)
        if arguments.queries is not None:
            file = arguments.queries
            options |= {f"queries[{i}]": f"{file}, query {i + 1}" for i in range(len(texts))}
        with as_options(options):
            index = Index(arguments.index)
            found = index.find_all(
                _encoder(arguments.url),
                texts,
                task=arguments.task,
                top=arguments.top,
                where=arguments.where,
                hybrid=arguments.hybrid,
                per_document=arguments.per_document,
            )
    except (E5Error, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    if arguments.queries is not None:
        for text, hits in zip(texts, found, strict=True):
            print(_json({"query": text, "hits": [hit.as_dict() for hit in hits]}))
    elif arguments.json:
        print(_json([hit.as_dict() for hit in found[0]]))
    else:
        print(_as_table(found[0]))
    return 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="search",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("index", metavar="INDEX", help="folder of the index; a path or a URI")
    parser.add_argument("query", metavar="QUERY", nargs="?")
    parser.add_argument("--queries", metavar="FILE", type=Path, help="one query a line, instead")
    parser.add_argument("--task", help="default: the task of the documents, else web search")
    parser.add_argument("--top", type=int, default=10, help="how many documents; default 10")
    parser.add_argument("--where", metavar="SQL", help="a condition over the columns of documents")
    parser.add_argument("--hybrid", action="store_true", help="look for the query's words too")
    parser.add_argument(
        "--per-document", action="store_true", help="only the best passage of each document"
    )
    parser.add_argument(
        "--url",
        help="of a running service that embeds the query, or replicate:owner/name; "
        "default: E5_WEIGHTS in this process",
    )
    parser.add_argument("--json", action="store_true", help="print for programs")
    arguments = parser.parse_args()
    if (arguments.query is None) == (arguments.queries is None):
        parser.error("name one QUERY, or a file of them by --queries")
    return arguments


def _queries(arguments: argparse.Namespace) -> list[str]:
    """The query, or the lines of the file that are not blank."""
    if arguments.queries is None:
        return [arguments.query]
    try:
        text: str = arguments.queries.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        received = f"{arguments.queries}, which is not UTF-8"
        raise InputError("--queries", received, "convert it") from error
    lines = [line for line in text.splitlines() if line.strip()]
    if not lines:
        received = f"{arguments.queries}, which is empty"
        raise InputError("--queries", received, "write one query a line")
    return lines


def _encoder(url: str | None) -> Encoder:
    if url is not None:
        return Client(url)
    from e5.embedder import Embedder  # brings torch

    return Embedder.load(Settings.from_env())


def _json(value: object) -> str:
    def other(value: object) -> str:
        if isinstance(value, date):
            return value.isoformat()
        raise TypeError(type(value).__name__)

    return json.dumps(value, default=other)


def _as_table(hits: Sequence[Hit]) -> str:
    width = shutil.get_terminal_size((120, 24)).columns
    cells = [
        {"id": plain(hit.id)}
        | {name: "" if value is None else plain(str(value)) for name, value in hit.values.items()}
        for hit in hits
    ]
    widths = {name: len(name) for name in (cells[0] if cells else {"id": ""})}
    for row in cells:
        for name, value in row.items():
            limit = 40 if name == "id" else VALUES_WIDTH
            widths[name] = min(limit, max(widths[name], len(value)))
    head = "  ".join(f"{name:{size}}" for name, size in widths.items())
    lines = [f"rank  score  {head}  text"[:width]]
    for rank, (hit, row) in enumerate(zip(hits, cells, strict=True), 1):
        values = "  ".join(f"{row[name][:size]:{size}}" for name, size in widths.items())
        lines.append(f"{rank:4}  {hit.score:5.1f}  {values}  {plain(hit.text)}"[:width])
    return "\n".join(lines)


if __name__ == "__main__":
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # end quietly in `... | head`
    sys.exit(main())
