"""The modules that a LoRA adapter's configuration names, by peft's rules.

Nothing is known here of tensors: the result says which modules an adapter must hold factors of.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Any

# What peft takes for a Mistral if the configuration names no modules.
_DEFAULT_TARGETS = ["q_proj", "v_proj"]


def targeted_modules(config: Mapping[str, Any], modules: Iterable[str]) -> set[str]:
    """Those of the modules, named as in the model that was trained, that get an adapter.

    Raises:
        ValueError: for a setting of another type, or a pattern that is none.

    Example:
        >>> config = {"target_modules": ["q_proj"], "layers_to_transform": 1}
        >>> sorted(targeted_modules(config, ["model.layers.0.q_proj", "model.layers.1.q_proj"]))
        ['model.layers.1.q_proj']
    """
    try:
        return {module for module in modules if _is_targeted(config, module)}
    except (re.error, TypeError) as error:
        raise ValueError(str(error)) from error


def _is_targeted(config: Mapping[str, Any], module: str) -> bool:
    excluded, targets = config.get("exclude_modules"), config.get("target_modules")
    if excluded and _matches(excluded, module):
        return False
    if targets is None:
        targets = _DEFAULT_TARGETS
    if isinstance(targets, str) and targets.lower() == "all-linear":
        return not module.endswith("embed_tokens")
    if not _matches(targets, module):
        return False
    layers = config.get("layers_to_transform")
    if isinstance(targets, str) or module in targets or layers is None or layers == []:
        return True  # peft does not ask for the layer of a module that is named in full
    found = _layer(config.get("layers_pattern") or [], module)
    return found is not None and (found == layers if isinstance(layers, int) else found in layers)


def _matches(names: str | list[str], module: str) -> bool:
    """Whether a pattern is the whole name, or a name of a list is its end."""
    if isinstance(names, str):
        return re.fullmatch(names, module) is not None
    return any(module == name or module.endswith(f".{name}") for name in names)


def _layer(patterns: str | list[str], module: str) -> int | None:
    """The number of the layer, behind the name of a list of layers; with no names, behind any."""
    expressions = [
        rf"(?:^|.*?\.){pattern}\.(\d+)\."
        for pattern in ([patterns] if isinstance(patterns, str) else patterns)
    ]
    for expression in expressions or [r".*?\.[^.]*\.(\d+)\."]:
        if match := re.match(expression, module):
            return int(match[1])
    return None
