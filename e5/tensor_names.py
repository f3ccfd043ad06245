"""The names under which a model's tensors are stored -> the names of a `MistralModel`.

Whoever saves a model may leave traces in the names: wrappers such as torch.compile's `_orig_mod.`
anywhere in them, and a prefix that all share, such as `model.` or `0.auto_model.`. Nothing is known
here of files or of what tensors hold.
"""

import re
from collections.abc import Iterable, Set

# Attributes that torch.compile, FSDP, activation checkpointing, DeepSpeed and DDP put between a
# model and its parts. No part of a Mistral has such a name.
_WRAPPERS = re.compile(
    r"(?<![^.])(_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module|_forward_module|module)\."
)


def without_wrappers(name: str) -> str:
    """A tensor's name without the wrappers of the modules that hold it.

    Example:
        >>> without_wrappers("_orig_mod.layers.0._fsdp_wrapped_module.mlp.up_proj.weight")
        'layers.0.mlp.up_proj.weight'
    """
    return _WRAPPERS.sub("", name)


def common_prefixes(stored: Set[str], expected: Iterable[str]) -> list[str]:
    """Every prefix, "" included, with which all expected names are stored.

    Example:
        >>> common_prefixes({"model.a", "model.b", "lm_head"}, ["a", "b"])
        ['model.']
    """
    first, *others = expected
    prefixes = sorted(name.removesuffix(first) for name in stored if name.endswith(first))
    return [
        prefix
        for prefix in prefixes
        if (not prefix or prefix.endswith(".")) and all(prefix + name in stored for name in others)
    ]
