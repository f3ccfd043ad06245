"""The fields of an answer, and how they become JSON: arrays in one go, instead of number by number.

Cog hands each answer to `json.dumps`, and has no way to hand it to anything else. Knows nothing of
what the fields mean.
"""

import json
from functools import wraps
from typing import Any

import numpy as np
import orjson


class JsonFields(dict[str, Any]):
    """An output's fields; arrays among them are lists for everybody who iterates, as json does.

    Example:
        >>> json.dumps(JsonFields(scores=np.array([[0.5]], np.float32)))
        '{"scores": [[0.5]]}'
    """

    def items(self) -> Any:
        """With lists in place of arrays."""
        return {name: _plain(value) for name, value in super().items()}.items()

    def to_json(self) -> str:
        """As JSON, in the fewest digits that name each float32: ten times as fast as json.

        Example:
            >>> JsonFields(scores=np.array([[0.1]], np.float32)).to_json()
            '{"scores":[[0.1]]}'
        """
        return orjson.dumps(self, option=orjson.OPT_SERIALIZE_NUMPY).decode()


def _plain(value: object) -> object:
    return value.tolist() if isinstance(value, np.ndarray | np.generic) else value


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
