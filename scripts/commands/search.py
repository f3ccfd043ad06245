"""Search an index of scripts/build_index.

    ./scripts/search index "how do I rename many files" --top 5

The query is embedded by E5_WEIGHTS, which must be the weights and rules that the index was made by.
"""

import argparse
import json
import shutil
import signal
import sys
from collections.abc import Sequence
from dataclasses import asdict

from commands.options import as_options
from e5.corpora.index import Hit, Index
from e5.corpora.storage import UNREADABLE
from e5.embedder import Embedder
from e5.errors import E5Error
from e5.settings import Settings

OPTIONS = {
    "index": "INDEX",
    "model": "E5_WEIGHTS",
    "queries[0]": "QUERY",
    "task": "--task",
    "top": "--top",
}


def main() -> int:
    """Embed the query, print what is nearest to it."""
    parser = argparse.ArgumentParser(
        prog="search", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("index", metavar="INDEX", help="folder of the index; a path or a URI")
    parser.add_argument("query", metavar="QUERY")
    parser.add_argument("--task", help="default: the task of the documents, else web search")
    parser.add_argument("--top", type=int, default=10, help="how many documents; default 10")
    parser.add_argument("--json", action="store_true", help="print for programs")
    arguments = parser.parse_args()
    try:
        with as_options(OPTIONS):
            index = Index(arguments.index)
            embedder = Embedder.load(Settings.from_env())
            hits = index.find(embedder, arguments.query, task=arguments.task, top=arguments.top)
    except (E5Error, *UNREADABLE) as error:
        print(error, file=sys.stderr)
        return 1
    print(json.dumps([asdict(hit) for hit in hits]) if arguments.json else _as_table(hits))
    return 0


def _as_table(hits: Sequence[Hit]) -> str:
    width = shutil.get_terminal_size((120, 24)).columns
    names = min(40, max([2, *(len(hit.id) for hit in hits)]))
    lines = [f"rank  score  {'id':{names}}  text"]
    for rank, hit in enumerate(hits, 1):
        name, text = (
            " ".join("".join(c if c.isprintable() else " " for c in part).split())
            for part in (hit.id, hit.text)
        )
        lines.append(f"{rank:4}  {hit.score:5.1f}  {name[:names]:{names}}  {text}"[:width])
    return "\n".join(lines)


if __name__ == "__main__":
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # end quietly in `... | head`
    sys.exit(main())
