"""The model names that callers may use."""

import re
from collections.abc import Mapping

from e5.errors import InputError, quoted, shortened
from e5.gateway.refusals import RefusalError
from e5.gateway.roles import SIDES_BY_SUFFIX

LATEST = ":latest"  # Ollama's clients write it behind a name without another tag
FINGERPRINT = re.compile("[0-9a-f]{12}")
HUB_NAMES_BY_FOLDER = {"e5-mistral-7b-instruct": "intfloat/e5-mistral-7b-instruct"}


class ModelNames:
    """The names of one model: its own, with `-query` and `-passage`, and the operator's aliases.

    Attributes:
        names: all of them, the model's own first.
        fingerprint: of the model, or "".

    Example:
        >>> aliases = {"text-embedding-3-small": "e5-mini-query"}
        >>> ModelNames("e5-mini@9bb9c967f643", aliases).names
        ['e5-mini', 'e5-mini-query', 'e5-mini-passage', 'text-embedding-3-small']
    """

    def __init__(self, served: str, aliases: Mapping[str, str] | None = None) -> None:
        """Collect the names.

        Args:
            served: the model's name and fingerprint.
            aliases: other names, each for one of the model's own.

        Raises:
            InputError: for an alias of a model that is not served.
        """
        base, _, self.fingerprint = served.partition("@")
        hub_name = HUB_NAMES_BY_FOLDER.get(base, base)
        self._suffixes = {base: "", served: "", hub_name: ""}
        for name in dict.fromkeys((base, hub_name)):
            self._suffixes |= {name + suffix: suffix for suffix in SIDES_BY_SUFFIX}
        for alias, model in (aliases or {}).items():
            if model not in self._suffixes:
                remedy = f"write NAME=MODEL, where MODEL is one of {', '.join(self._suffixes)}"
                raise InputError("aliases", shortened(f"{alias}={model}"), remedy)
            self._suffixes[alias] = self._suffixes[model]
        self.names = [name for name in self._suffixes if name != served or not self.fingerprint]

    def resolve(self, name: str | None, *, any_owner: bool = False) -> tuple[str, str]:
        """The name to answer with, and its suffix, or ""; None stands for the model's own name.

        `any_owner` takes OWNER/NAME for NAME, whoever the owner is.

        Raises:
            RefusalError: 404 for a name that is not served, with those that are.
        """
        if name is None:
            return self.names[0], ""
        suffix = self._suffixes.get(name, self._suffixes.get(name.removesuffix(LATEST)))
        if suffix is None and any_owner:
            suffix = self._suffixes.get(name.rpartition("/")[2])
        if suffix is None:
            remedy = f"send one of {', '.join(self.names)}"
            raise RefusalError(404, InputError("model", quoted(name), remedy))
        return name, suffix

    def check_fingerprint(self, version: str) -> None:
        """Refuse a version that is the fingerprint of another model; others are not known here.

        Raises:
            RefusalError: 404, with the fingerprint of this model.
        """
        if FINGERPRINT.fullmatch(version) and version != self.fingerprint:
            remedy = (
                f"send {self.fingerprint}, or leave it out" if self.fingerprint else "leave it out"
            )
            raise RefusalError(404, InputError("version", quoted(version), remedy))
