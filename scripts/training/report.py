"""The files that are written beside the trained weights: manifest, loss curve, README."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from e5.checkpoint import CheckpointManifest, checkpoint_files, hash_files
from training.loop import LOSS_WEIGHTS

GOLDEN_TEXTS = (
    "The capital of France is Paris",
    "Hello, my dog is cute. How can I help you?",
    "</s>",
    "a\nb",
    "Éclair \N{GRINNING FACE}\x00",
)
README = Path(__file__).parent / "README.template.md"


def write_manifest(folder: Path, tokenizer: Tokenizer) -> None:
    """Write the digests of the files, and the ids that the tokenizer must give for some texts.

    The ids come from the library `tokenizers`, not from the service's own tokenizer.
    """
    tokenizer.encode_special_tokens = True
    goldens = {
        text: (1, *tokenizer.encode(text, add_special_tokens=False).ids, 2) for text in GOLDEN_TEXTS
    }
    files = hash_files(folder, [*checkpoint_files(folder), "tokenizer_config.json"])
    CheckpointManifest("trained by ./scripts/train_mini", files, goldens).write(folder)


def plot_losses(curve: Sequence[Mapping[str, float]], path: Path) -> None:
    """Plot the parts of the loss against the steps, averaged over 25 entries."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axis = plt.subplots(figsize=(8, 4))
    for name, label in {
        "cosine": "1 - cosine with the teacher",
        "matrix": "error of the cosine matrix",
        "answers": "InfoNCE, steps with answers",
    }.items():
        weight = LOSS_WEIGHTS[name]
        points = [(entry["step"], weight * entry[name]) for entry in curve if entry[name]]
        parts = [points[i : i + 25] for i in range(0, len(points), 25)]
        means = [[sum(column) / len(part) for column in zip(*part, strict=True)] for part in parts]
        axis.plot(*zip(*means, strict=True), label=f"{weight:g} x {label}")
    axis.set_yscale("log")
    axis.set_xlabel("step")
    axis.legend()
    figure.tight_layout()
    figure.savefig(path, dpi=120)


def write_readme(folder: Path, facts: Mapping[str, Any]) -> None:
    """Write the README of the weights: recipe, sources, hashes, and the table of the evaluation."""
    rows = json.loads((folder / "evaluation.json").read_text())
    manifest = CheckpointManifest.read(folder)
    assert manifest is not None
    filled = {
        **facts,
        "size": round(sum((folder / name).stat().st_size for name in manifest.files) / 1e6, 1),
        "pairs": ", ".join(f"{count:,} {kind}" for kind, count in facts["pairs"].items()),
        "table": table(rows),
        "snapshot": "\n".join(
            [f"- {name}: {date}" for name, date in sorted(facts["lists"].items())]
            + [f"- {name}" for name in facts["packages"]]
        ),
        "files": "\n".join(
            f"- `{name}` {digest}" for name, digest in sorted(manifest.files.items())
        ),
    }
    (folder / "README.md").write_text(README.read_text().format_map(filled))


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Format rows as a Markdown table; a row may lack some of the columns.

    Example:
        >>> print(table([{"system": "ours", "right": 58.6}, {"system": "BM25"}]))
        | system | right |
        | --- | --- |
        | ours | 58.6 |
        | BM25 |  |
    """
    columns = list(dict.fromkeys(key for row in rows for key in row))
    lines = [columns, ["---"] * len(columns)]
    lines += [[str(row.get(column, "")) for column in columns] for row in rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
