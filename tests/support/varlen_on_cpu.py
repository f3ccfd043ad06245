"""A CPU kernel behind torch's own varlen op: the CUDA branch runs with real numbers.

The kernel has the checks of ATen's `mha_varlen_fwd` (flash_api.cpp) and its mask, aligned to each
text's end. It is slow.
"""

import inspect
import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
import torch.nn.attention.varlen as torch_varlen

OP: Any = torch_varlen._varlen_attn
NAMES = list(inspect.signature(OP._init_fn).parameters)
calls: list[tuple[int, int]] = []  # the number of texts and of rows of each call


def kernel(*args: Any, **kwargs: Any) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """As the op's own: output, log-sum-exp and the state of a random generator."""
    given = dict(zip(NAMES, args, strict=False)) | kwargs
    query, key, value = (given[name] for name in ("query", "key", "value"))
    starts_q, starts_k = given["cu_seq_q"], given["cu_seq_k"]
    num_texts, (rows, heads, head_dim) = len(starts_q) - 1, query.shape
    calls.append((num_texts, rows))
    assert query.dtype in (torch.float16, torch.bfloat16)
    assert key.dtype == value.dtype == query.dtype
    for starts in (starts_q, starts_k):
        assert starts.dtype == torch.int32
        assert starts.is_contiguous()
        assert len(starts) == num_texts + 1
        assert starts[0] == 0
    assert starts_q[-1] == rows
    assert starts_k[-1] <= len(key) == len(value)  # keys behind those of the last text are unused
    assert num_texts > 0
    assert head_dim <= 256
    assert head_dim % 8 == 0
    assert heads % key.shape[1] == 0
    assert key.shape == value.shape
    assert key.shape[2] == head_dim
    for tensor in (query, key, value):
        assert tensor.data_ptr() % 16 == 0
        assert tensor.stride(-1) == 1
        assert all(stride % 8 == 0 for stride in tensor.stride()[:2])
    lengths_q, lengths_k = starts_q.diff().tolist(), starts_k.diff().tolist()
    # The maxima are larger than the lengths where a CUDA graph fixes the shape.
    assert max(lengths_q) <= given["max_q"]
    assert max(lengths_k) <= given["max_k"]
    # Flash-attention 1537 and 1619: an empty text, or a row without a key, gives garbage.
    assert min(lengths_q) > 0
    assert all(q <= k for q, k in zip(lengths_q, lengths_k, strict=True))
    assert given.get("scale") is None
    assert tuple(given["window_size"]) == (-1, 0)
    assert given.get("num_splits") in (None, 1)

    output = torch.empty_like(query)
    group = heads // key.shape[1]
    for i in range(num_texts):
        q = query[starts_q[i] : starts_q[i + 1]].float().transpose(0, 1)
        k, v = (
            x[starts_k[i] : starts_k[i + 1]].float().transpose(0, 1).repeat_interleave(group, 0)
            for x in (key, value)
        )
        scores = q @ k.transpose(1, 2) / math.sqrt(head_dim)
        row, column = torch.arange(lengths_q[i])[:, None], torch.arange(lengths_k[i])[None]
        hidden = column > row + lengths_k[i] - lengths_q[i]  # mask.h: col_idx_limit_right
        scores = scores.masked_fill(hidden, -math.inf)
        output[starts_q[i] : starts_q[i + 1]] = (scores.softmax(-1) @ v).transpose(0, 1).to(q.dtype)
    return output, torch.empty(heads, rows), torch.empty(2, dtype=torch.uint64)


OP.register_kernel("cpu")(kernel)


@contextmanager
def as_on_a_card() -> Iterator[list[tuple[int, int]]]:
    """Make `attention` take the CUDA branch in 16 bits; yields the calls of the kernel."""

    def in_16_bits(_: torch.device, dtype: torch.dtype) -> bool:
        return dtype != torch.float32

    calls.clear()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("e5.attention.uses_varlen", in_16_bits)
        patch.setattr("e5.self_check.uses_varlen", in_16_bits)
        yield calls
