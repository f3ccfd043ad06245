"""The step about mteb's scores: those of the published model, and of e5-mini on a local task.

Data sets are fetched from the hub, at the revisions of the published scores.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from acceptance.candidate import Candidate
from acceptance.lines import Line, near, not_run, passes

TOLERANCE = 0.005


@dataclass(frozen=True)
class Published:
    """A score of the same weights that other code has computed."""

    task: str
    revision: str
    metric: str
    score: float


# mteb's public results for revision 07163b72af1488142a360786df853f237b1a3ca1.
PUBLISHED = [
    Published("BIOSSES", "d3fb88f8f02e40887cd149695127462bbcf29b4a", "cosine_spearman", 0.8550496),
    Published("NFCorpus", "ec0fa4fe99da2ff19ca1214b7966684033a58814", "ndcg_at_10", 0.38579),
]
# The score of the built-in checkpoint on the pairs of pairs.py, in float32.
BUILT_IN_SCORE = 0.6890


def scores(candidate: Candidate) -> Sequence[Line]:
    """Compare scores with those that are known."""
    try:
        import mteb

        from acceptance.pairs import LocalPairs
    except ImportError as error:
        return [not_run("mteb", str(error))]
    from e5.adapters.mteb import E5Encoder

    built_in = candidate.weights.name == "e5-mini"
    encoder = E5Encoder(candidate.load(**({"dtype": "float32"} if built_in else {})))

    def score(task: Any, metric: str) -> float:
        result = mteb.evaluate(encoder, task, cache=None, overwrite_strategy="always")
        return float(result.task_results[0].scores["test"][0][metric])

    name = f"{LocalPairs.metadata.name}: cosine_spearman"
    found = score(LocalPairs(), "cosine_spearman")
    if built_in:
        return [near(name, found, BUILT_IN_SCORE, TOLERANCE)]
    lines = [Line(f"{name}, which no other code has computed", f"{found:.4f}")]
    for known in PUBLISHED if candidate.weights.name == "e5-mistral-7b-instruct" else []:
        what = f"{known.task}: {known.metric}"
        task = mteb.get_task(known.task)
        task.metadata.dataset["revision"] = known.revision
        try:
            task.load_data()
        except Exception as error:  # the hub's client raises many kinds, without a common base
            lines.append(passes(what, f"its data could not be fetched ({error})", False))
            continue
        lines.append(near(what, score(task, known.metric), known.score, TOLERANCE))
    return lines
