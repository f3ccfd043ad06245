"""Score checkpoints on the evaluation set, beside BM25, TF-IDF and the teacher.

    ./scripts/evaluate weights/e5-mini
    ./scripts/evaluate weights/e5-mini --smaller    what smaller vectors cost in quality

Each folder goes through the project's own Embedder. The Debian titles are fetched by apt if they
are not in the work folder of the training; --without-titles leaves that row out.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from tqdm import tqdm

from training import systems
from training.measures import MEANS, measure, measure_tasks
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
        help="checkpoints; default the built-in one",
    )
    parser.add_argument(
        "--snapshot",
        type=Path,
        default=ROOT / "build/e5-mini/snapshot",
        help="of the text; default that of the training",
    )
    parser.add_argument("--without-titles", action="store_true")
    parser.add_argument("--smaller", action="store_true", help="the folders' vectors made smaller")
    parser.add_argument("--json", type=Path, help="write the rows there")
    arguments = parser.parse_args()
    titles = []
    if not arguments.without_titles:
        fetch(arguments.snapshot)
        titles = held_out_pairs(descriptions(arguments.snapshot))
    rows: list[dict[str, Any]] = []
    for folder in arguments.folders:
        system, embedder = systems.checkpoint(folder)
        if arguments.smaller:
            for name, (size, smaller) in tqdm(systems.smaller(embedder).items()):
                row = {"stored": name, "bytes": size} | measure(smaller, titles)
                # Rescored scores are on two scales: their order counts, their means do not.
                rows.append({k: v for k, v in row.items() if k not in MEANS})
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
