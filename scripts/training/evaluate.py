"""Score checkpoints on the evaluation set, and compare them with BM25, TF-IDF and the teacher.

    ./scripts/evaluate weights/e5-mini
    ./scripts/evaluate weights/e5-mini --smaller    how much quality smaller vectors cost

Each checkpoint is loaded by the project's own Embedder. apt fetches the Debian titles if the work
folder of the training does not hold them; --without-titles leaves their columns out.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from tqdm import tqdm

from training import systems
from training.measures import MEAN_COLUMNS, measure, measure_tasks
from training.report import table
from training.sources import descriptions, fetch
from training.texts import held_out_pairs

ROOT = Path(__file__).resolve().parents[2]


def main() -> int:
    """Measure every system, print a table, write JSON."""
    parser = argparse.ArgumentParser(
        prog="evaluate", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "folders",
        nargs="*",
        type=Path,
        default=[ROOT / "weights/e5-mini"],
        help="folders of checkpoints; the default is the built-in one",
    )
    parser.add_argument(
        "--snapshot",
        type=Path,
        default=ROOT / "build/e5-mini/snapshot",
        help="the folder of the fetched text; the default is that of the training",
    )
    parser.add_argument(
        "--without-titles", action="store_true", help="do not fetch and measure Debian titles"
    )
    parser.add_argument(
        "--smaller", action="store_true", help="measure the vectors when stored in fewer bytes"
    )
    parser.add_argument("--json", type=Path, help="a file to write the rows to")
    arguments = parser.parse_args()
    titles = []
    if not arguments.without_titles:
        fetch(arguments.snapshot)
        titles = held_out_pairs(descriptions(arguments.snapshot))
    rows: list[dict[str, Any]] = []
    for folder in arguments.folders:
        system, embedder = systems.checkpoint(folder)
        if arguments.smaller:
            for name, (size, smaller) in tqdm(systems.stored_smaller(embedder).items()):
                row = {"stored": name, "bytes": size} | measure(smaller, titles)
                # Rescored scores are on two scales, so their means say nothing.
                rows.append({k: v for k, v in row.items() if k not in MEAN_COLUMNS})
        else:
            tasks = measure_tasks(embedder)
            rows.append({"system": embedder.name} | measure(system, titles) | tasks)
    if not arguments.smaller:
        others = {
            "teacher, 384 dimensions": systems.teacher(),
            "BM25": systems.bm25,
            "TF-IDF": systems.tf_idf,
        }
        rows += [{"system": name} | measure(other, titles) for name, other in tqdm(others.items())]
    print(table(rows))
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
