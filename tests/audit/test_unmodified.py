"""The unmodified model's hidden states are those of transformers, under other engines' masks."""

from pathlib import Path

import pytest
import torch
from checkpoints import load, true_ids
from mistakes import save_adapter
from reference import Reference, assert_same

from e5.audit.unmodified import HiddenStates, MaskedText, load_unmodified
from e5.settings import Settings
from e5.tokenizer import TokenIds

pytestmark = pytest.mark.slow

IDS = true_ids("The capital of France is Paris")


def unmodified(checkpoint: Path, adapter: Path | None = None) -> HiddenStates:
    settings = Settings(weights=checkpoint, device="cpu", dtype="float32", adapter=adapter)
    return HiddenStates(load_unmodified(settings))


def one(
    states: HiddenStates, ids: TokenIds, *, bidirectional: bool = False, padding: TokenIds = ()
) -> tuple[torch.Tensor, torch.Tensor]:
    """The states of one text, computed beside a longer one."""
    text = MaskedText(ids + padding, len(ids), bidirectional)
    return states.of([text, MaskedText(IDS + IDS + IDS[:3], 3)])[0]


@pytest.fixture(scope="module")
def states(checkpoint: Path) -> HiddenStates:
    return unmodified(checkpoint)


def test_the_last_is_the_models_own(states: HiddenStates, reference: Reference) -> None:
    hidden, _ = one(states, IDS)
    assert hidden.shape == (len(IDS), 64)
    assert_same(hidden[-1:].numpy(), reference([IDS]))


def test_the_final_norm_is_between_both(states: HiddenStates) -> None:
    hidden, before = one(states, IDS)
    assert torch.allclose(states.model.norm(before), hidden, atol=1e-5)
    assert not torch.allclose(before, hidden, atol=0.1)


def test_bidirectional_tokens_see_what_follows(states: HiddenStates) -> None:
    changed = (*IDS[:-2], 17, IDS[-1])
    causal, other = one(states, IDS)[0], one(states, changed)[0]
    assert torch.allclose(causal[:-2], other[:-2], atol=1e-5)
    both = [one(states, ids, bidirectional=True)[0] for ids in (IDS, changed)]
    assert not torch.allclose(both[0][0], both[1][0], atol=1e-3)


def test_padding_is_that_of_a_padded_batch(states: HiddenStates) -> None:
    batch = torch.tensor([[*IDS, 2, 2, 2]])
    mask = torch.tensor([[1] * len(IDS) + [0] * 3])
    with torch.inference_mode():
        padded = states.model(input_ids=batch, attention_mask=mask).last_hidden_state[0]
    hidden, _ = one(states, IDS, padding=(2, 2, 2))
    assert torch.allclose(hidden, padded, atol=1e-5)


def test_an_adapter_is_merged(checkpoint: Path, tmp_path: Path) -> None:
    adapter = save_adapter(checkpoint, tmp_path / "law")
    hidden, _ = one(unmodified(checkpoint, adapter), IDS)
    ours = load(checkpoint, adapter=str(adapter))
    assert_same(hidden[-1:].numpy(), ours.encode_document(["The capital of France is Paris"]))
    bare, _ = one(unmodified(checkpoint), IDS)
    assert not torch.allclose(hidden, bare, atol=1e-2)
