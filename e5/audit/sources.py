"""What computes the vectors that hypotheses would give."""

from typing import Protocol

from e5.encoder import Encoder
from e5.settings import Settings


class VectorSource(Protocol):
    """Computes vectors as a hypothesis would have made them."""


class LocalSource:
    """A checkpoint in this process: computes every hypothesis."""

    @classmethod
    def load(cls, settings: Settings) -> "LocalSource":
        """Load the checkpoint of the settings, as `Embedder.load` does."""
        raise NotImplementedError


class EncoderSource:
    """An encoder, such as a `Client`: computes the hypotheses about prompts, texts and storage."""

    def __init__(self, encoder: Encoder) -> None:
        """Use an encoder; nothing is asked yet."""
        self._encoder = encoder
