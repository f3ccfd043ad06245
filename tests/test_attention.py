"""Attention over packed spans equals a dense table of scores with a mask, on either device."""

from inspect import signature
from typing import Any

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from reference import dense_attention
from torch.nn.attention import SDPBackend, sdpa_kernel
from varlen_on_cpu import as_on_a_card

from e5.attention import attention, uses_varlen, varlen_options
from e5.packing import Spans, pack

# (rows, keys) of each text: all tokens as rows, the last one only, or the last few
SPANS = st.lists(
    st.integers(1, 24).flatmap(
        lambda keys: st.tuples(st.sampled_from([1, keys]) | st.integers(1, keys), st.just(keys))
    ),
    min_size=1,
    max_size=6,
)


def inputs(
    lengths: list[tuple[int, int]], *, group: int, head_dim: int, shared: bool, seed: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, Spans, torch.Tensor | None]:
    """Random tensors for these spans; shared: keys gathered from anywhere on a shorter axis."""
    random = torch.Generator().manual_seed(seed)
    spans = Spans.of([rows for rows, _ in lengths], [keys for _, keys in lengths])
    total = sum(spans.key_lengths)
    key_index = None
    if shared:
        key_index = torch.randint(0, max(1, total // 2), (total,), generator=random)
        total = max(1, total // 2)
    query = 2 * torch.randn(sum(spans.query_lengths), 2 * group, head_dim, generator=random)
    key = torch.randn(total, 2, head_dim, generator=random)
    value = torch.randn(total, 2, head_dim, generator=random)
    return query, key, value, spans, key_index


@pytest.mark.parametrize("group", [1, 2, 4])
@given(lengths=SPANS, shared=st.booleans(), seed=st.integers(0, 99))
@example(lengths=[(1, 1)], shared=False, seed=0)
@example(lengths=[(24, 24), (1, 24), (7, 24), (24, 24)], shared=True, seed=0)
def test_the_cpu_path_equals_dense_attention(
    group: int, lengths: list[tuple[int, int]], shared: bool, seed: int
) -> None:
    tensors = inputs(lengths, group=group, head_dim=8, shared=shared, seed=seed)
    output = attention(*tensors)
    assert output.dtype == torch.float32
    torch.testing.assert_close(output, dense_attention(*tensors), atol=2e-6, rtol=1e-5)


@pytest.mark.parametrize("group", [1, 2, 4])
@given(lengths=SPANS, shared=st.booleans(), seed=st.integers(0, 99))
@example(lengths=[(24, 24), (1, 24), (7, 24), (24, 24)], shared=True, seed=0)
def test_a_card_without_flash_attention_gets_a_head_of_keys_for_each_of_queries(
    group: int, lengths: list[tuple[int, int]], shared: bool, seed: int
) -> None:
    tensors = inputs(lengths, group=group, head_dim=8, shared=shared, seed=seed)
    asked = []

    def kernel(query: torch.Tensor, key: torch.Tensor, *rest: Any, **options: Any) -> torch.Tensor:
        asked.append((query.shape[1] == key.shape[1], options.pop("enable_gqa", False)))
        return right(query, key, *rest, **options)

    right = torch.nn.functional.scaled_dot_product_attention
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("e5.attention.sdpa_groups_heads", lambda _: False)
        patch.setattr("torch.nn.functional.scaled_dot_product_attention", kernel)
        output = attention(*tensors)
    assert set(asked) == {(True, False)}
    torch.testing.assert_close(output, dense_attention(*tensors), atol=2e-6, rtol=1e-5)
    torch.testing.assert_close(output, attention(*tensors), atol=2e-6, rtol=1e-5)


@pytest.mark.parametrize(
    ("capability", "dtype", "uses"),
    [
        ((7, 0), torch.float16, False),
        ((7, 5), torch.float16, False),
        ((8, 0), torch.float16, True),
        ((8, 9), torch.bfloat16, True),
        ((12, 0), torch.float16, True),
        ((9, 0), torch.float32, False),
    ],
)
def test_flash_attention_is_used_where_it_runs(
    capability: tuple[int, int],
    dtype: torch.dtype,
    uses: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("torch.cuda.get_device_capability", lambda _: capability)
    assert uses_varlen(torch.device("cuda", 0), dtype) == uses
    assert not uses_varlen(torch.device("cpu"), dtype)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@given(lengths=SPANS, shared=st.booleans(), seed=st.integers(0, 99))
@example(lengths=[(64, 64), (65, 130), (1, 129)], shared=True, seed=0)
def test_the_cuda_branch_equals_dense_attention(
    dtype: torch.dtype, lengths: list[tuple[int, int]], shared: bool, seed: int
) -> None:
    """By a CPU kernel with the checks and the mask of torch's own."""
    query, key, value, spans, index = inputs(
        lengths, group=2, head_dim=16, shared=shared, seed=seed
    )
    query, key, value = query.to(dtype), key.to(dtype), value.to(dtype)
    with as_on_a_card() as calls:
        output = attention(query, key, value, spans, index)
    assert calls == [(len(lengths), len(query))]
    truth = dense_attention(query.double(), key.double(), value.double(), spans, index)
    torch.testing.assert_close(output.double(), truth, atol=2e-2, rtol=2e-2)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_comes_back_in_its_own_dtype(dtype: torch.dtype) -> None:
    lengths = [(20, 20), (1, 9), (4, 11)]
    query, key, value, spans, index = inputs(lengths, group=2, head_dim=16, shared=True, seed=1)
    query, key, value = query.to(dtype), key.to(dtype), value.to(dtype)
    output = attention(query, key, value, spans, index)
    assert output.dtype == dtype
    truth = dense_attention(query.double(), key, value, spans, index)
    torch.testing.assert_close(output.double(), truth, atol=2e-2, rtol=2e-2)


def test_a_row_reads_no_later_key_and_no_other_text() -> None:
    lengths = [(5, 5), (3, 6), (1, 4)]
    query, key, value, spans, _ = inputs(lengths, group=2, head_dim=8, shared=False, seed=3)
    before = attention(query, key, value, spans, None)
    value[4] += 1  # the last key of the first text, which only that text's last row may see
    changed = (attention(query, key, value, spans, None) != before).any(dim=(1, 2))
    assert changed.tolist() == [False] * 4 + [True] + [False] * 4


def test_the_options_of_the_cuda_kernel_are_those_of_the_installed_torch() -> None:
    varlen = pytest.importorskip("torch.nn.attention.varlen")
    options = varlen_options()
    cu_seqlens, x = torch.tensor([0, 1], dtype=torch.int32), torch.zeros(1, 1, 8)
    signature(varlen.varlen_attn).bind(x, x, x, cu_seqlens, cu_seqlens, 1, 1, **options)
    assert options["window_size"] == (-1, 0)  # without it the kernel would not be causal
    known = signature(varlen.varlen_attn).parameters
    assert options.get("enable_gqa", False) == ("enable_gqa" in known)
    # 2.12 knows the word, but only a kernel that it does not bring takes it.
    newest = tuple(map(int, torch.__version__.split(".")[:2])) >= (2, 13)
    assert options.get("num_splits", 0) == newest


@pytest.mark.gpu
@pytest.mark.parametrize("group", [1, 2, 4])
@pytest.mark.parametrize("shared", [False, True])
def test_the_cuda_kernel_equals_the_cpu_path(group: int, shared: bool) -> None:
    lengths = [(300, 300), (1, 300), (17, 90), (1, 1), (64, 64), (2, 257)]
    query, key, value, spans, index = inputs(
        lengths, group=group, head_dim=64, shared=shared, seed=5
    )
    query, key, value = query.half(), key.half(), value.half()
    cuda = torch.device("cuda")
    there = attention(
        query.to(cuda),
        key.to(cuda),
        value.to(cuda),
        spans.to(cuda),
        None if index is None else index.to(cuda),
    )
    assert there.dtype == torch.float16
    here = attention(query.float(), key.float(), value.float(), spans, index)
    torch.testing.assert_close(there.cpu().float(), here, atol=4e-3, rtol=4e-3)


@pytest.mark.gpu
def test_the_cuda_kernel_gives_a_text_the_same_bits_whatever_its_batch_mates() -> None:
    if "num_splits" not in varlen_options():
        pytest.skip("this torch cannot fix the number of splits")
    cuda = torch.device("cuda")
    lengths = [(1, 900), (30, 700)]
    query, key, value, spans, _ = inputs(lengths, group=4, head_dim=128, shared=False, seed=6)
    query, key, value = query.half().to(cuda), key.half().to(cuda), value.half().to(cuda)
    together = attention(query, key, value, spans.to(cuda), None)
    first = pack([(1,) * 900]).last_spans.to(cuda)
    alone = attention(query[:1], key[:900], value[:900], first, None)
    assert torch.equal(together[:1], alone)


@pytest.mark.gpu
@pytest.mark.parametrize("shared", [False, True])
def test_a_card_gives_the_same_without_flash_attention(
    shared: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    lengths = [(300, 300), (1, 300), (17, 90), (1, 1), (64, 64), (2, 257), (4000, 4000)]
    *heads, spans, index = inputs(lengths, group=4, head_dim=128, shared=shared, seed=7)
    cuda = torch.device("cuda")
    query, key, value = (each.half().to(cuda) for each in heads)
    tensors = query, key, value, spans.to(cuda), None if index is None else index.to(cuda)
    flash = attention(*tensors)
    monkeypatch.setattr("e5.attention.has_flash_attention", lambda _: False)
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    with sdpa_kernel(SDPBackend.EFFICIENT_ATTENTION):  # the one that a T4 has
        plain = attention(*tensors)
    assert torch.cuda.max_memory_allocated() - before < 0.2e9  # all scores would be 0.26 GB
    torch.testing.assert_close(plain, flash, atol=4e-3, rtol=4e-3)


@pytest.mark.gpu
def test_float32_on_cuda_goes_without_the_16_bit_kernel() -> None:
    lengths = (5, 9)
    spans = Spans.of(lengths, lengths).to(torch.device("cuda"))
    query, key, value = (torch.randn(14, heads, 16, device="cuda") for heads in (4, 2, 2))
    ours = attention(query, key, value, spans, None).cpu()
    truth = attention(query.cpu(), key.cpu(), value.cpu(), Spans.of(lengths, lengths), None)
    torch.testing.assert_close(ours, truth, atol=1e-4, rtol=1e-4)
