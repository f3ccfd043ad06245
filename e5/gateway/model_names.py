"""The model names that callers may use. Knows nothing of requests."""

from collections.abc import Mapping

from e5.errors import shortened
from e5.gateway.refusals import RefusalError
from e5.gateway.roles import SUFFIXES

HUB_NAMES = {"e5-mistral-7b-instruct": "intfloat/e5-mistral-7b-instruct"}


class Models:
    """One model under its names: its own, with `-query` and `-passage`, and the operator's aliases.

    Attributes:
        names: all of them, the model's own first.

    Example:
        >>> Models("e5-mini@9bb9c967f643", {"text-embedding-3-small": "e5-mini-query"}).names
        ['e5-mini', 'e5-mini-query', 'e5-mini-passage', 'text-embedding-3-small']
    """

    def __init__(self, served: str, aliases: Mapping[str, str]) -> None:
        """Name what is served.

        Args:
            served: the model's name and fingerprint.
            aliases: other names, each for one of the model's own.

        Raises:
            ValueError: for an alias of a model that is not served.
        """
        base, _, fingerprint = served.partition("@")
        self._suffixes = {base: "", served: "", HUB_NAMES.get(base, base): ""}
        own = dict.fromkeys((base, HUB_NAMES.get(base, base)), "")
        for name in own:
            self._suffixes |= {name + suffix: suffix for suffix in SUFFIXES}
        for alias, model in aliases.items():
            if model not in self._suffixes:
                known = ", ".join(self._suffixes)
                raise ValueError(f"alias {alias}: received {model!r}; use one of {known}.")
            self._suffixes[alias] = self._suffixes[model]
        self.names = [name for name in self._suffixes if name != served or not fingerprint]

    def resolve(self, name: str | None) -> tuple[str, str]:
        """The name to answer with, and the role suffix that it stands for; None is the model.

        Raises:
            RefusalError: 404 for a name that is not served, with those that are.
        """
        if name is None:
            return self.names[0], ""
        suffix = self._suffixes.get(name)
        if suffix is None:
            sentence = (
                f"model: received {shortened(name)!r}; this service has {', '.join(self.names)}."
            )
            raise RefusalError(404, sentence, field="model")
        return name, suffix
