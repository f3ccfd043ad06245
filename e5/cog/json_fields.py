"""The fields of an answer, and how they become JSON: whole arrays, instead of number by number.

Cog hands each answer to `json.dumps`, and offers no other way.
"""

import json
from functools import wraps
from typing import Any

import numpy as np
import orjson


class JsonFields(dict[str, Any]):
    """An output's fields. Whoever iterates over them, as json does, sees lists instead of arrays.

    Example:
        >>> fields = JsonFields(scores=np.array([[0.5]], np.float32))
        >>> list(fields.items()), fields.to_json()
        ([('scores', [[0.5]])], '{"scores":[[0.5]]}')
    """

    def items(self) -> Any:
        """The fields, with lists instead of arrays."""
        return {
            name: value.tolist() if isinstance(value, np.ndarray | np.generic) else value
            for name, value in super().items()
        }.items()

    def to_json(self) -> str:
        """The fields as JSON, ten times as fast as by json; the fewest digits for each float32."""
        return orjson.dumps(self, option=orjson.OPT_SERIALIZE_NUMPY).decode()


def patch_json_dumps() -> None:
    """Have `json.dumps`, which Cog calls for each answer, write `JsonFields` by `to_json`.

    json takes 0.3 us a number and lets no other thread run meanwhile: 0.6 s for two million.
    """
    json.dumps = _dumps


@wraps(json.dumps)
def _dumps(obj: Any, **options: Any) -> str:
    if isinstance(obj, JsonFields) and not options:
        return obj.to_json()
    return _dumps.__wrapped__(obj, **options)
