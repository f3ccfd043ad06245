"""Streams and events of a card that there is not, and a proof that they keep order.

The code under test runs on a CPU, one operation after another. Each operation is noted with the
stream it was launched on and with what is certain to precede it: what the stream has done before,
and what the events that it waits for mark (vector clocks; Lamport 1978, Mattern 1989). Two accesses
to one piece of memory of which neither is certain to precede the other are a race: on a card they
could happen in the other order. Without a race a card computes what the CPU does.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from e5.layers import StreamedLayers

Clock = dict[int, int]  # the operations of each stream that are certain to have ended


def merge(clock: Clock, other: Mapping[int, int]) -> None:
    for stream, time in other.items():
        clock[stream] = max(clock.get(stream, 0), time)


@dataclass(frozen=True)
class Access:
    """An operation that touched a piece of memory."""

    name: str
    stream: int
    time: int
    writes: bool
    before: Mapping[int, int]  # the clock of its stream

    def precedes(self, other: "Access") -> bool:
        return other.before.get(self.stream, 0) >= self.time


class Event:
    """`torch.cuda.Event`: a moment of a stream."""

    def __init__(self) -> None:
        """Not recorded yet: waiting for it is no wait."""
        self.clock: Clock = {}

    def record(self, stream: "Stream") -> None:
        self.clock = dict(stream.clock)


class Stream:
    """`torch.cuda.Stream`: operations in order."""

    def __init__(self, card: "FakeStreams") -> None:
        """Launched from now on, after what the host has waited for."""
        self.card, self.number = card, len(card.streams)
        self.clock: Clock = {}
        card.streams.append(self)

    def wait_event(self, event: Event) -> None:
        merge(self.clock, event.clock)

    def wait_stream(self, stream: "Stream") -> None:
        merge(self.clock, stream.clock)

    def synchronize(self) -> None:
        for stream in self.card.streams:  # what is launched from now on is launched later
            merge(stream.clock, self.clock)


@dataclass
class FakeStreams:
    """A card whose memory is the host's."""

    streams: list[Stream] = field(default_factory=list)
    pinned: dict[int, int] = field(default_factory=dict)  # bytes by address
    fails_to_pin: bool = False
    accesses: dict[int, list[Access]] = field(default_factory=dict)  # by address of a storage

    def __post_init__(self) -> None:
        """Make the default stream, on which all is launched that names no other."""
        self.current = Stream(self)

    @contextmanager
    def stream(self, stream: Stream) -> Iterator[None]:
        before, self.current = self.current, stream
        try:
            yield
        finally:
            self.current = before

    def cudaHostRegister(self, address: int, nbytes: int, flags: int) -> int:  # noqa: N802
        if self.fails_to_pin:
            return 2
        assert flags == 1
        self.pinned[address] = nbytes
        return 0

    def cudaHostUnregister(self, address: int) -> int:  # noqa: N802
        del self.pinned[address]
        return 0

    def cudaGetErrorString(self, error: int) -> str:  # noqa: N802
        return {2: "out of memory"}[error]

    @contextmanager
    def in_place_of_torchs(self) -> Iterator["FakeStreams"]:
        """Put the fake streams and events in the place of torch's."""
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("torch.cuda.Stream", lambda _: Stream(self))
            patch.setattr("torch.cuda.Event", Event)
            patch.setattr("torch.cuda.current_stream", lambda _: self.current)
            patch.setattr("torch.cuda.stream", self.stream)
            patch.setattr("torch.cuda.synchronize", lambda _: self.synchronize())
            patch.setattr("torch.cuda.cudart", lambda: self)
            yield self

    def synchronize(self) -> None:
        for stream in list(self.streams):
            stream.synchronize()

    @contextmanager
    def watching(self, layers: StreamedLayers) -> Iterator[None]:
        """Note every operation that touches the memory on the card of streamed layers."""
        watched = {
            buffer.memory.untyped_storage().data_ptr(): self.accesses.setdefault(number, [])
            for number, buffer in enumerate(layers._card_buffers)
        }
        with _Watch(self, watched):
            yield

    def races(self) -> list[tuple[str, str]]:
        """The pairs of operations that could happen in the other order."""
        return [
            (first.name, second.name)
            for accesses in self.accesses.values()
            for i, second in enumerate(accesses)
            for first in accesses[:i]
            if (first.writes or second.writes) and not first.precedes(second)
        ]


class _Watch(TorchDispatchMode):
    """Notes operations on some storages."""

    def __init__(self, card: FakeStreams, watched: Mapping[int, list[Access]]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.card, self.watched = card, watched

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        stream = self.card.current
        time = stream.clock[stream.number] = stream.clock.get(stream.number, 0) + 1
        for argument, value in zip(func._schema.arguments, args, strict=False):
            writes = argument.alias_info is not None and argument.alias_info.is_write
            for tensor in tree_leaves(value):
                if isinstance(tensor, torch.Tensor):
                    address = tensor.untyped_storage().data_ptr()
                    if address in self.watched:
                        self.watched[address].append(
                            Access(str(func), stream.number, time, writes, dict(stream.clock))
                        )
        return func(*args, **(kwargs or {}))
