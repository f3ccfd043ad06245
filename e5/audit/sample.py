"""What is audited: some texts, and the vectors that somebody has for them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

import numpy as np

from e5.errors import InputError
from e5.texts import check_texts
from e5.vectors import Vectors

# `auto`: nobody knows, so the vector may be that of a query or that of a document.
TextRole: TypeAlias = Literal["query", "document", "auto"]


@dataclass(frozen=True)
class Sample:
    """Rows of texts with their vectors, in the order of their file.

    Attributes:
        ids: the caller's name for each row.
        texts: what was embedded, without a prompt.
        vectors: float32 `[num_rows, dimensions]`, the numbers as they are stored: whole numbers
            for int8 and bits.
        roles: what each text is for.
    """

    ids: Sequence[str]
    texts: Sequence[str]
    vectors: Vectors
    roles: Sequence[TextRole]

    def __post_init__(self) -> None:
        """Refuse samples that are empty, or whose parts do not belong together."""
        count = len(self.texts)
        if count == 0:
            raise InputError("texts", "no rows", "send at least one text with its vector")
        lengths = {"ids": len(self.ids), "vectors": len(self.vectors), "roles": len(self.roles)}
        for field, length in lengths.items():
            if length != count:
                raise InputError(field, f"{length} for {count} texts", "send one for each text")
        if np.ndim(self.vectors) != 2 or self.vectors.shape[1] == 0:
            received = f"an array of shape {np.shape(self.vectors)}"
            raise InputError("vectors", received, "send [num_rows, dimensions] numbers")
        check_texts(self.texts, "texts")
        for role in self.roles:
            if role not in get_args(TextRole):
                raise InputError("roles", repr(role), "use query, document or auto")
