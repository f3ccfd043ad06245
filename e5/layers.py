"""Layers of which some are streamed: kept in host memory, and copied to the card in time.

For a card that is too small for all weights. Each streamed layer lies in a piece of pinned memory.
A second stream copies it into one of two buffers on the card while layers before it are computed.
If layers 1, 3 and 5 of six are streamed:

    computed    0  1  2  3  4  5  0  1 ...    the last 0 and 1 are of the next forward
    buffer a    1  1  5  5  5  5  3  3        a layer is copied as soon as the one
    buffer b    3  3  3  3  1  1  1  1        that was in its buffer has been computed

The kernels and their shapes are those of a forward with all layers on the card, and so are the bits
of each vector. Which layers are streamed is decided in `placement`.
"""

import mmap
import time
import weakref
from collections import deque
from collections.abc import Callable, Collection, Iterator, Mapping
from itertools import cycle, islice
from typing import Any, cast

import torch
from torch import nn

from e5.errors import SettingsError
from e5.mistral import Config, Layer, Mistral

BUFFERS = 2  # of a layer's size, on the card
ALIGNMENT = 512  # bytes; that of torch's own allocations, because kernels are chosen by it
PORTABLE = 1  # cudaHostRegisterPortable: pinned for all cards


class StreamedLayers(nn.ModuleList):
    """The layers of a model. Iterating yields each one ready to be computed on the card.

    A layer may be used until the next one is yielded. An iteration may end early; two must not run
    at the same time. The weights of a streamed layer, as modules and in `state_dict`, are those
    in host memory.

    Attributes:
        streamed: the numbers of the streamed layers, in order.
        nbytes: bytes that are copied for each forward.
        copy_seconds: the time in which they are copied, measured.
    """

    def __init__(self, model: Mistral, streamed: Collection[int]) -> None:
        """Pin the weights of `streamed`, at least one layer of a loaded model, in host memory.

        Raises:
            SettingsError: the memory cannot be pinned.
        """
        super().__init__(model.layers)
        self.streamed, self._device = sorted(streamed), model.device
        self._stream = torch.cuda.Stream(self._device)  # type: ignore[no-untyped-call]  # torch's
        self._pinned: dict[int, torch.Tensor] = {}
        cudart = torch.cuda.cudart()  # type: ignore[no-untyped-call]  # torch's
        # Otherwise a copy that has begun could write into memory that other tensors have by then.
        weakref.finalize(self, _release, cudart, self._stream, self._pinned).atexit = False
        for number in self.streamed:
            layer = self[number]
            with torch.cuda.stream(self._stream):  # on the card of this model, if there are several
                memory = self._pinned[number] = _pinned(cudart, _size(layer))
            views = _views(memory, layer)
            for name, weight in layer.named_parameters():
                views[name].copy_(weight)
            layer.load_state_dict(views, assign=True)
        like = self[self.streamed[0]]
        self._card_buffers = [_CardBuffer(like, model.config, self._device) for _ in range(BUFFERS)]
        self.nbytes = _size(like) * len(self.streamed)
        self.copy_seconds = min(self._measure() for _ in range(3)) * len(self.streamed)

    def __iter__(self) -> Iterator[Layer]:
        """Yield all layers in order."""
        if [buffer.number for buffer in self._ahead] != list(islice(self._endless(), BUFFERS)):
            self._start()  # the iteration before ended early
        computing = torch.cuda.current_stream(self._device)
        for number, layer in enumerate(cast("Iterator[Layer]", super().__iter__())):
            if number not in self._pinned:
                yield layer
                continue
            buffer = self._ahead.popleft()
            computing.wait_event(buffer.copied)
            yield buffer.layer
            buffer.computed.record(computing)
            self._copy_next(buffer)

    def _endless(self) -> Iterator[int]:
        """The streamed layers in the order of copying, forward after forward."""
        return cycle(self.streamed)

    def _start(self) -> None:
        """Copy the first layers, once all that reads the buffers has ended."""
        self._stream.wait_stream(torch.cuda.current_stream(self._device))
        self._ahead: deque[_CardBuffer] = deque()  # in the order in which they will be computed
        self._numbers = self._endless()
        for buffer in self._card_buffers:
            self._copy_next(buffer)

    def _copy_next(self, buffer: "_CardBuffer") -> None:
        """Copy the next streamed layer into a buffer, once its last layer was computed."""
        buffer.number = next(self._numbers)
        self._stream.wait_event(buffer.computed)
        with torch.cuda.stream(self._stream):
            buffer.memory.copy_(self._pinned[buffer.number], non_blocking=True)
        buffer.copied.record(self._stream)
        self._ahead.append(buffer)

    def _measure(self) -> float:
        """Seconds in which one layer is copied."""
        torch.cuda.synchronize(self._device)
        started = time.perf_counter()
        self._start()
        self._stream.synchronize()
        return (time.perf_counter() - started) / BUFFERS


class _CardBuffer:
    """Memory on the card for one streamed layer at a time.

    Attributes:
        memory: the bytes.
        layer: a layer whose weights are views of them.
        number: the layer that is there, or is being copied.
        copied: the event at which it is there.
        computed: the event at which the memory may be written again.
    """

    number: int

    def __init__(self, like: nn.Module, config: Config, device: torch.device) -> None:
        self.memory = torch.empty(_size(like), dtype=torch.uint8, device=device)
        with torch.device("meta"):
            self.layer = Layer(config)
        self.layer.load_state_dict(_views(self.memory, like), assign=True)
        self.layer.requires_grad_(requires_grad=False)
        event: Callable[[], torch.cuda.Event] = torch.cuda.Event
        self.copied, self.computed = event(), event()


def _size(layer: nn.Module) -> int:
    """Bytes of a layer's weights, each from an aligned position on."""
    return sum(_aligned(weight.nbytes) for weight in layer.parameters())


def _aligned(nbytes: int) -> int:
    return -(-nbytes // ALIGNMENT) * ALIGNMENT


def _views(memory: torch.Tensor, like: nn.Module) -> dict[str, torch.Tensor]:
    """Views of a piece of memory with the names, shapes and dtypes of a layer's weights."""
    views, start = {}, 0
    for name, weight in like.named_parameters():
        part = memory[start : start + weight.nbytes]
        views[name] = part.view(weight.dtype).view(weight.shape)
        start += _aligned(weight.nbytes)
    return views


def _pinned(cudart: Any, nbytes: int) -> torch.Tensor:
    """Bytes of host memory that the card copies by itself.

    torch's own pinned memory is rounded up to a power of two: for the 7B model by a quarter.
    """
    try:
        memory = torch.frombuffer(mmap.mmap(-1, nbytes), dtype=torch.uint8)
        error = cudart.cudaHostRegister(memory.data_ptr(), nbytes, PORTABLE)
        reason = cudart.cudaGetErrorString(error) if int(error) else ""
    except OSError as failure:  # the system gives no memory
        reason = str(failure)
    if reason:
        received = f"a card that cannot keep all layers, and {nbytes / 1e6:.0f} MB of host memory"
        remedy = "free host memory, or let the container lock it (ulimit -l unlimited)"
        raise SettingsError("E5_CARD_GB", f"{received} cannot be pinned ({reason})", remedy)
    return memory


def _release(cudart: Any, stream: Any, pinned: Mapping[int, torch.Tensor]) -> None:
    """Wait for copies and unpin, before the memory is used for something else."""
    stream.synchronize()
    with torch.cuda.stream(stream):
        for memory in pinned.values():
            cudart.cudaHostUnregister(memory.data_ptr())
