"""Train e5-mini, the built-in checkpoint, from nothing.

    ./scripts/train_mini --out weights/e5-mini

Fetches text (Debian, by apt), labels it with the teacher, trains, exports and evaluates. It can be
stopped at any moment: run again, it continues from the results in the work folder. A second run
trains on the same text if it has the same work folder without `state.pt`, or a copy of `snapshot`.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

import torch

from training import report
from training.batches import BatchSampler
from training.loop import train
from training.sources import fetch
from training.student import export, new_student, principal_axes, unit
from training.teacher import Teacher
from training.texts import WordReplacer, add_copies, gather, replaceable_words
from training.vocabulary import build_tokenizer

ROOT = Path(__file__).resolve().parents[2]
STEPS, VOCABULARY, COPIES = 8000, 16_384, 4


def main() -> int:
    """Run every stage whose result is missing."""
    parser = argparse.ArgumentParser(
        prog="train_mini",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--out", type=Path, required=True, help="the folder of the new checkpoint")
    parser.add_argument(
        "--work",
        type=Path,
        default=ROOT / "build/e5-mini",
        help="a folder that is kept between runs; the default is build/e5-mini",
    )
    parser.add_argument(
        "--steps", type=int, default=STEPS, help="training steps; default %(default)s"
    )
    parser.add_argument(
        "--beside", type=Path, nargs="*", default=[], help="other checkpoints to evaluate"
    )
    arguments = parser.parse_args()
    work = arguments.work
    # Another number of threads adds in another order, which changes the weights.
    torch.set_num_threads(2)
    torch.use_deterministic_algorithms(True)
    fetch(work / "snapshot")
    corpus = gather(work / "snapshot")
    teacher = Teacher()
    words = replaceable_words(corpus, teacher.vocabulary_words())
    copies = add_copies(corpus, WordReplacer(words, teacher.embed(words)), COPIES)
    print(f"{len(corpus.texts):,} texts; {corpus.left_out} pairs left out: the evaluation has them")
    labels = teacher.embed(corpus.texts, work / "labels")
    axes = principal_axes(labels)
    tokenizer = build_tokenizer(corpus.texts, teacher.vocabulary_words(), VOCABULARY)
    vocabulary = sorted(tokenizer.get_vocab().items(), key=lambda entry: entry[1])
    pieces = [piece.replace("▁", "") or "." for piece, _ in vocabulary]
    model = new_student(unit(teacher.embed(pieces, work / "labels") @ axes))
    batches = BatchSampler(corpus, unit(labels @ axes), copies, tokenizer)
    curve = train(model, batches, arguments.steps, work / "state.pt")
    export(model, arguments.out)
    tokenizer.save(str(arguments.out / "tokenizer.json"), pretty=False)
    report.write_manifest(arguments.out, tokenizer)
    report.plot_losses(curve, arguments.out / "loss.png")
    facts = json.loads((work / "snapshot" / "snapshot.json").read_text()) | {
        "texts": len(corpus.texts),
        "pairs": {kind: len(pairs) for kind, pairs in corpus.pairs.items()},
        "left_out": corpus.left_out,
        "steps": arguments.steps,
    }
    folders = [arguments.out, *arguments.beside]
    options = ["--snapshot", work / "snapshot", "--json", arguments.out / "evaluation.json"]
    # A process of its own computes as the service does, without the torch settings made here.
    subprocess.run([sys.executable, "-m", "training.evaluate", *folders, *options], check=True)
    report.write_readme(arguments.out, facts)
    return 0


if __name__ == "__main__":
    sys.exit(main())
