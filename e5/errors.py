"""Every error this package raises on purpose.

The text of an `E5Error` is written for the person who caused it and is safe to send to a caller:
what was received, then the remedy. Nothing here knows about HTTP, Cog or logging.
"""


class E5Error(Exception):
    """Base of every error below; `str(error)` is one sentence for the caller."""


class InputError(E5Error):
    """A request that cannot be served as it stands.

    Example:
        >>> str(InputError("documents[2]", "7", "send a string"))
        'documents[2]: received 7; send a string.'
    """

    def __init__(self, field: str, received: str, remedy: str) -> None:
        """Keep `field` (with the index of a list's element), what it held, and what to send."""
        super().__init__(f"{field}: received {received}; {remedy}.")
        self.field = field
        self.received = received
        self.remedy = remedy


class SettingsError(E5Error):
    """An `E5_*` setting whose value cannot be used."""


class WeightsError(E5Error):
    """A weights folder that is missing, incomplete, damaged or of another kind."""


class TokenizerError(E5Error):
    """A tokenizer that does not produce the token ids the model was trained on."""


class NonFiniteError(E5Error):
    """A forward that produced NaN or infinity: never an answer.

    `position` is the text's place in the list that was embedded.
    """

    def __init__(self, position: int, field: str | None = None) -> None:
        """`field` is the caller's own name for the text, where there is one."""
        name = field if field is not None else f"text {position}"
        super().__init__(
            f"{name}: the model produced a vector with NaN or infinity; "
            "change or shorten this text, or serve with E5_DTYPE=float32."
        )
        self.position = position


class OutOfMemoryError(E5Error):
    """A single text that does not fit in the device's memory even alone."""

    def __init__(self, num_tokens: int, field: str | None = None) -> None:
        """`num_tokens` is the text's length, `field` the caller's own name for it."""
        name = f"{field}: " if field is not None else ""
        super().__init__(
            f"{name}a text of {num_tokens} tokens does not fit in the GPU's memory on its own; "
            "shorten it, lower E5_MAX_LENGTH or use a larger card."
        )
        self.num_tokens = num_tokens


class QueueFullError(E5Error):
    """More tokens would wait than the service is willing to hold."""

    def __init__(self, waiting_tokens: int, num_tokens: int, max_queue_tokens: int) -> None:
        """`waiting_tokens` were queued when a request of `num_tokens` arrived."""
        super().__init__(
            f"the queue is full ({waiting_tokens} tokens wait, {num_tokens} more would pass the "
            f"limit of {max_queue_tokens}); try again in a moment."
        )
        self.waiting_tokens = waiting_tokens


class RequestTooLargeError(E5Error):
    """A request of more tokens than may wait at all."""

    def __init__(self, num_tokens: int, max_queue_tokens: int) -> None:
        """`num_tokens` are the request's, of all its texts."""
        super().__init__(
            f"received a request of {num_tokens} tokens; send at most {max_queue_tokens} in one "
            "(E5_MAX_QUEUE_TOKENS)."
        )


class EngineError(E5Error):
    """The engine failed for a reason that is not the caller's; our log has the traceback."""
