"""The backend of a front: the engines of this machine, each in a process of its own."""

from collections.abc import Sequence
from pathlib import Path

from e5.gateway.backend import InProcessBackend
from e5.serving import Engines, ServedModel, Service


class EnginesBackend(InProcessBackend[ServedModel]):
    """The service in this process, and the engines behind sockets. A `Backend` without torch."""

    def __init__(self, engines: Engines, weights: Path) -> None:
        """Use engines that are connected; `connect` connects them first."""
        self._engines = engines
        model = engines.model(weights)
        super().__init__(model, Service(model, engines))

    @classmethod
    async def connect(cls, sockets: Sequence[Path], weights: Path) -> "EnginesBackend":
        """Wait until an engine listens at one of the sockets.

        Args:
            sockets: their paths.
            weights: the checkpoint's folder, for its tokenizer.

        Raises:
            TokenizerError: if the tokenizer is not the one that the engines have loaded.
        """
        engines = await Engines.connect(sockets)
        try:
            return cls(engines, weights)
        except BaseException:
            await engines.close()
            raise

    async def close(self) -> None:
        """Close the connections."""
        await self._engines.close()
