"""Train e5-mini, the built-in checkpoint, from nothing.

    ./scripts/train_mini --out weights/e5-mini

Fetches text (Debian, by apt), labels it with the teacher, trains, exports, evaluates. Whatever is
done lies in the work folder and is not done again: stop it at any moment, run it again. With the
same work folder less `state.pt`, or a copy of its `snapshot`, a second run trains on the same text.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

import torch

from training import report
from training.lessons import Lessons
from training.loop import train
from training.sources import fetch
from training.student import export, new_student, principal_axes, unit
from training.teacher import Teacher
from training.texts import Swapper, add_swapped, gather, swappable
from training.vocabulary import build_tokenizer

ROOT = Path(__file__).resolve().parents[2]
STEPS, VOCABULARY, COPIES = 8000, 16_384, 4


def main() -> int:
    """Run every stage that is not done yet."""
    parser = argparse.ArgumentParser(
        prog="train_mini",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--out", type=Path, required=True, help="folder of the checkpoint")
    parser.add_argument(
        "--work",
        type=Path,
        default=ROOT / "build/e5-mini",
        help="kept between runs; default the project's build/e5-mini",
    )
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument(
        "--beside", type=Path, nargs="*", default=[], help="other checkpoints for the table"
    )
    arguments = parser.parse_args()
    work = arguments.work
    # With another number sums come in another order, and so on to the weights.
    torch.set_num_threads(2)
    torch.use_deterministic_algorithms(True)
    fetch(work / "snapshot")
    corpus = gather(work / "snapshot")
    teacher = Teacher()
    words = swappable(corpus, teacher.words())
    swapped = add_swapped(corpus, Swapper(words, teacher.embed(words)), COPIES)
    print(f"{len(corpus.texts):,} texts, {corpus.left_out} left out for the evaluation's sake")
    labels = teacher.embed(corpus.texts, work / "labels")
    axes = principal_axes(labels)
    tokenizer = build_tokenizer(corpus.texts, teacher.words(), VOCABULARY)
    vocabulary = sorted(tokenizer.get_vocab().items(), key=lambda entry: entry[1])
    pieces = [piece.replace("▁", "") or "." for piece, _ in vocabulary]
    model = new_student(unit(teacher.embed(pieces, work / "labels") @ axes))
    lessons = Lessons(corpus, unit(labels @ axes), swapped, tokenizer)
    curve = train(model, lessons, arguments.steps, work / "state.pt")
    export(model, arguments.out)
    tokenizer.save(str(arguments.out / "tokenizer.json"), pretty=False)
    report.write_manifest(arguments.out, tokenizer)
    report.draw(curve, arguments.out / "loss.png")
    facts = json.loads((work / "snapshot" / "snapshot.json").read_text()) | {
        "texts": len(corpus.texts),
        "pairs": {kind: len(pairs) for kind, pairs in corpus.pairs.items()},
        "left_out": corpus.left_out,
        "steps": arguments.steps,
    }
    folders = [arguments.out, *arguments.beside]
    options = ["--snapshot", work / "snapshot", "--json", arguments.out / "evaluation.json"]
    # In a process of its own: as the service computes, without this one's torch settings.
    subprocess.run([sys.executable, "-m", "training.evaluate", *folders, *options], check=True)
    report.write_readme(arguments.out, facts)
    return 0


if __name__ == "__main__":
    sys.exit(main())
