"""The forward at the 7B model's shapes as a CUDA build of torch would run it, without a card.

Fake tensors have a shape, a dtype and a device, and no numbers: torch itself checks that every
operation of the CUDA branch exists and fits, in each dtype.
"""

from collections import Counter
from dataclasses import fields, replace
from typing import Any

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode, unset_fake_temporarily
from torch.utils._python_dispatch import TorchDispatchMode

from e5.forward import forward
from e5.graphs import TOKENS_PER_TEXT, padded
from e5.mistral import Config, Mistral
from e5.packing import PackedBatch, Spans, TokenIds, pack

pytestmark = pytest.mark.skipif(
    torch.version.cuda is None, reason="this torch is not built for CUDA; scripts/test --image"
)
CUDA = torch.device("cuda", 0)
LAYERS, HIDDEN_SIZE = 32, 4096
PROMPT: TokenIds = tuple(range(1, 30))
TEXTS: dict[str, list[TokenIds]] = {
    "one short text": [(1, *range(5, 25), 2)],
    "one token": [(2,)],
    "a pair": [(1, *range(5, 40), 2), (1, *range(900, 1200), 2)],
    "a shared prompt": [*sorted((*PROMPT, 100 + i, 2) for i in range(20)), (1, 7, 2)],
    "the longest": [(3,) * 4096],
}


class Counted(TorchDispatchMode):
    """Counts the operations that reach torch's dispatcher."""

    def __init__(self) -> None:
        """None yet."""
        super().__init__()  # type: ignore[no-untyped-call]
        self.operations: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.operations[str(func)] += 1
        return func(*args, **(kwargs or {}))


class Card:
    """A fake one, and a model on it."""

    def __init__(self, dtype: torch.dtype) -> None:
        """The 7B model, its matrices in `dtype`."""
        self.mode = FakeTensorMode(allow_non_fake_inputs=True)
        self.model = Mistral(Config(hidden_size=HIDDEN_SIZE, num_hidden_layers=LAYERS))
        for module in self.model.modules():
            for name, parameter in list(module._parameters.items()):
                if parameter is not None:
                    kept = torch.float32 if parameter.ndim == 1 else dtype
                    del module._parameters[name]
                    module.__dict__[name] = self.fake(parameter.shape, kept)
            for name, buffer in list(module._buffers.items()):
                if buffer is not None:
                    del module._buffers[name]
                    module.__dict__[name] = self.fake(buffer.shape, buffer.dtype)

    def fake(self, shape: torch.Size, dtype: torch.dtype) -> torch.Tensor:
        return FakeTensor(self.mode, torch.empty(shape, dtype=dtype, device="meta"), CUDA)

    def take(self, batch: PackedBatch) -> PackedBatch:
        def taken(value: Any) -> Any:
            if isinstance(value, torch.Tensor):
                return self.fake(value.shape, value.dtype)
            if isinstance(value, Spans):
                starts = taken(value.cu_seqlens_q), taken(value.cu_seqlens_k)
                return replace(value, cu_seqlens_q=starts[0], cu_seqlens_k=starts[1])
            return value

        return PackedBatch(*(taken(getattr(batch, field.name)) for field in fields(batch)))


@pytest.fixture(scope="module", params=["float16", "bfloat16", "float32"])
def card(request: pytest.FixtureRequest) -> Card:
    return Card(getattr(torch, request.param))


def run(card: Card, batch: PackedBatch) -> tuple[torch.Tensor, Counter[str]]:
    with card.mode, pytest.MonkeyPatch.context() as patch:
        patch.setattr("e5.attention.has_flash_attention", lambda _: True)
        with unset_fake_temporarily():
            taken = card.take(batch)
        with Counted() as counted:
            return forward(card.model, taken), counted.operations


@pytest.mark.parametrize("name", TEXTS)
def test_every_operation_fits(card: Card, name: str) -> None:
    vectors, operations = run(card, pack(TEXTS[name]))
    assert vectors.shape == (len(TEXTS[name]), HIDDEN_SIZE)
    assert vectors.dtype == torch.float32
    assert vectors.is_cuda
    attentions = sum(operations[key] for key in operations if "varlen" in key)
    if card.model.embed_tokens.weight.dtype == torch.float32:
        assert attentions == 0
    else:
        assert attentions == LAYERS


@pytest.mark.parametrize(("name", "size"), [("one short text", 64), ("a shared prompt", 256)])
def test_so_does_a_padded_batch_of_a_graph(card: Card, name: str, size: int) -> None:
    if card.model.embed_tokens.weight.dtype == torch.float32:
        pytest.skip("float32 has no graphs")
    vectors, _ = run(card, padded(TEXTS[name], size))
    assert vectors.shape == (size // TOKENS_PER_TEXT, HIDDEN_SIZE)
