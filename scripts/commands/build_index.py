"""Make an index of what scripts/embed_corpus wrote, or add to it the shards that it lacks.

./scripts/build_index vectors index
"""

import argparse
import sys
import time

from commands.options import as_options
from e5.corpora.index import Index
from e5.corpora.shard_folder import ShardFolder
from e5.errors import E5Error

OPTIONS = {"shards": "OUT", "index": "INDEX"}


def main() -> int:
    """Build or add, then say what the index holds."""
    parser = argparse.ArgumentParser(
        prog="build_index",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("out", metavar="OUT", help="folder of shards; a path or a URI")
    parser.add_argument("index", metavar="INDEX", help="folder of the index; a path or a URI")
    arguments = parser.parse_args()
    started = time.perf_counter()
    try:
        with as_options(OPTIONS):
            index = Index.build(ShardFolder(arguments.out), arguments.index)
    except (E5Error, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("stopped; run it again to go on", file=sys.stderr)
        return 130
    kind = "searched whole" if index.is_flat else "IVF-RQ"
    seconds = time.perf_counter() - started
    print(f"{len(index):,} documents by {index.manifest.model}, {kind}, in {seconds:.1f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
