"""Make an index of a folder of shards, or update it to hold the same documents.

    e5 build-index vectors index

The index keeps the shards' model, task, dimensions and columns, and takes no others.
"""

import time
from collections.abc import Sequence

from e5.cli.options import caller_errors, command_parser

_OPTIONS = {"shards": "OUT", "index": "INDEX"}


def build_index_command(arguments: Sequence[str]) -> int:
    """Build or update the index, then print what it holds."""
    parser = command_parser("build-index", __doc__)
    shards = "The folder of shards that embed-corpus wrote; a path or a URI."
    parser.add_argument("out", metavar="OUT", help=shards)
    parser.add_argument("index", metavar="INDEX", help="The folder of the index; a path or a URI.")
    options = parser.parse_args(arguments)
    from e5.corpora import Index, ShardFolder

    started = time.perf_counter()
    with caller_errors(_OPTIONS):
        index = Index.build(ShardFolder(options.out), options.index)
    rows = "documents" if index.manifest.passages is None else "passages"
    compared = "all of them" if index.is_flat else "some of them (IVF-RQ)"
    print(
        f"{options.index} holds {len(index):,} {rows} by {index.manifest.model}; "
        f"a search compares {compared}; done in {time.perf_counter() - started:.1f} s"
    )
    return 0
