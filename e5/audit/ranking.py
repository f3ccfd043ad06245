"""How much it matters: how other vectors rank the neighbours of texts, judged by the right ones."""

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
    asks, answers = sides == "query", sides == "document"
    if not (asks.any() and answers.any()) or (sides == "auto").any():
        asks = answers = np.ones(count, bool)
    allowed = asks[:, None] & answers & ~np.eye(count, dtype=bool)
    found = [
        _ndcg((given[i] @ given[others].T).round(TIES), (right[i] @ right[others].T).round(TIES))
        for i in np.flatnonzero(asks)
        if len(others := np.flatnonzero(allowed[i]))
    ]
    return float(np.mean(found)) if found else 1.0


def _ndcg(scores: Floats, right: Floats) -> float:
    depth = min(DEPTH, len(scores))
    gains = np.zeros(len(scores))
    gains[(-right).argsort(kind="stable")[:depth]] = np.arange(depth, 0, -1)
    discounts = 1 / np.log2(np.arange(depth) + 2)
    ranked = gains[(-scores).argsort(kind="stable")[:depth]]
    return float((ranked * discounts).sum() / (np.sort(gains)[::-1][:depth] * discounts).sum())
