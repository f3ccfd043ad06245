"""Names of tensors: wrappers and a common prefix come off, and nothing else."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper

from e5.mistral import Config, Mistral
from e5.tensor_names import common_prefixes, without_wrappers

CONFIG = Config(
    vocab_size=5, hidden_size=8, intermediate_size=8, num_attention_heads=2, num_key_value_heads=1
).model_copy(update={"num_hidden_layers": 2})
NAMES = list(Mistral(CONFIG).state_dict())
WRAPPERS = ["_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module", "module"]


COMPILE = pytest.param(torch.compile, marks=pytest.mark.slow)  # imports for seconds


@pytest.mark.filterwarnings("ignore")  # the compiler's own
@pytest.mark.parametrize("wrap", [COMPILE, nn.DataParallel, checkpoint_wrapper])
@pytest.mark.parametrize("where", ["whole", "a layer", "a projection", "the list"])
def test_what_wraps_a_model_leaves_no_trace(wrap: object, where: str) -> None:
    assert callable(wrap)
    whole: nn.Module = Mistral(CONFIG)
    layers = whole.get_submodule("layers")
    if where == "a layer":
        layers.register_module("1", wrap(layers.get_submodule("1")))
    elif where == "a projection":
        mlp = layers.get_submodule("0.mlp")
        mlp.up_proj = wrap(mlp.up_proj)
    elif where == "the list":
        whole.layers = wrap(layers)
    else:
        whole = wrap(whole)
    stored = list(whole.state_dict())
    assert sorted(map(without_wrappers, stored)) == sorted(NAMES)


@pytest.mark.parametrize("name", ["my_module.a", "module", "a._orig_modal.b", "x_orig_mod.b"])
def test_a_name_that_only_looks_like_a_wrappers_stays(name: str) -> None:
    assert without_wrappers(name) == name


@given(st.sampled_from(NAMES), st.lists(st.tuples(st.integers(0, 5), st.sampled_from(WRAPPERS))))
def test_wrappers_come_off_wherever_they_are(name: str, wrappers: list[tuple[int, str]]) -> None:
    parts = name.split(".")
    for at, wrapper in wrappers:
        parts.insert(min(at, len(parts) - 1), wrapper)
    assert without_wrappers(".".join(parts)) == name


@given(st.lists(st.text("ab01", min_size=1, max_size=2), max_size=3))
def test_any_prefix_that_all_names_share_is_found(parts: list[str]) -> None:
    prefix = "".join(f"{part}." for part in parts)
    stored = {prefix + name for name in NAMES} | {"lm_head.weight"}
    assert common_prefixes(stored, NAMES) == [prefix]
    assert common_prefixes(stored - {prefix + NAMES[-1]}, NAMES) == []
    assert common_prefixes(stored | {f"other.{name}" for name in NAMES}, NAMES) == sorted(
        {prefix, "other."}
    )


def test_a_prefix_ends_where_a_part_of_the_name_ends() -> None:
    assert common_prefixes({f"x{name}" for name in NAMES}, NAMES) == []
