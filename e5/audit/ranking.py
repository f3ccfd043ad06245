"""How other vectors rank the neighbours of texts, judged by the right ones: how much it matters."""

from collections.abc import Sequence

import numpy as np

from e5.audit.sample import TextRole
from e5.audit.storage import Floats

DEPTH = 10  # neighbours that count
TIES = 6  # decimals, beyond which cosines are equal


def neighbour_ndcg(given: Floats, right: Floats, roles: Sequence[TextRole]) -> float:
    """The mean nDCG@10 of each text's neighbours by given vectors, judged by the right ones.

    The nearest of ten right neighbours has a gain of 10, the tenth of 1, the others none (Järvelin
    and Kekäläinen 2002). Queries look for documents if there are both, else texts for texts.

    Args:
        given: directions `[num_rows, dimensions]`.
        right: directions `[num_rows, hidden_size]`.
        roles: what each text is for.

    Returns:
        1 if all rankings are right; 1 if there are no two texts.

    Example:
        >>> neighbour_ndcg(np.eye(3), np.eye(3), ["auto"] * 3)
        1.0
    """
    count = len(given)
    if count < 2:
        return 1.0
    sides = np.array(roles)
    searching, searched = sides == "query", sides == "document"
    if not (searching.any() and searched.any()) or (sides == "auto").any():
        searching = searched = np.ones(count, bool)
    allowed = searching[:, None] & searched & ~np.eye(count, dtype=bool)
    found = [
        _ndcg((given[i] @ given[others].T).round(TIES), (right[i] @ right[others].T).round(TIES))
        for i in np.flatnonzero(searching)
        if len(others := np.flatnonzero(allowed[i]))
    ]
    return float(np.mean(found)) if found else 1.0


def similarity_correlation(given: Floats, right: Floats) -> float:
    """The correlation of two models' similarities of the same texts, without their common parts.

    Both are directions, `[num_rows, ...]`, of at least four texts. What a text has in common with
    all others is subtracted without bias (Székely and Rizzo 2014), so that unrelated vectors have
    0 in the mean however few the texts are.

    Example:
        >>> similarity_correlation(np.eye(4)[[0, 0, 1, 1]], np.eye(4)[[2, 2, 3, 3]])
        1.0
    """
    one, other = (_centred(rows @ rows.T) for rows in (given, right))
    norms = np.sqrt((one**2).sum() * (other**2).sum())
    return float((one * other).sum() / norms) if norms > 0 else 0.0


def _centred(similarities: Floats) -> Floats:
    """Similarities without those to the text itself, minus what each text has in common."""
    count, others = len(similarities), ~np.eye(len(similarities), dtype=bool)
    kept = np.where(others, similarities, 0)
    sums = kept.sum(1) / (count - 2)
    centred = kept - sums[:, None] - sums + kept.sum() / ((count - 1) * (count - 2))
    found: Floats = np.where(others, centred, 0).round(TIES)
    return found


def _ndcg(scores: Floats, right: Floats) -> float:
    depth = min(DEPTH, len(scores))
    gains = np.zeros(len(scores))
    gains[(-right).argsort(kind="stable")[:depth]] = np.arange(depth, 0, -1)
    discounts = 1 / np.log2(np.arange(depth) + 2)
    ranked = gains[(-scores).argsort(kind="stable")[:depth]]
    return float((ranked * discounts).sum() / (np.sort(gains)[::-1][:depth] * discounts).sum())
