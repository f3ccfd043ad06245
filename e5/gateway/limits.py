"""How much a gateway takes from all of its callers at a time, and from each of them."""

from dataclasses import dataclass

from e5.client import DEADLINE_SECONDS


@dataclass(frozen=True)
class GatewayLimits:
    """The limits of one gateway.

    Attributes:
        in_flight: requests that are answered at the same time.
        deadline_seconds: time for the answer to one request.
        body_bytes: size of one request's body.
        held_bytes: size of all bodies whose requests are not answered yet.
        large_body_bytes: a body of this size or more is parsed by a process of its own; a smaller
            one takes a few milliseconds.
        large_body_values: values in a large body. 2,048 texts and all that may stand beside them
            are fewer.
        large_body_depth: lists and objects inside each other in a large body. Pickle, which brings
            them back from that process, allows 1,000.
        large_answer_floats: an answer of so many numbers or more is written in pieces; a smaller
            one takes 6 ms or less.
        kept_prediction_bytes: size of the predictions together that can be asked for again.
    """

    in_flight: int = 1024
    deadline_seconds: float = DEADLINE_SECONDS
    body_bytes: int = 32 * 2**20
    held_bytes: int = 256 * 2**20
    large_body_bytes: int = 2**18
    large_body_values: int = 20_000
    large_body_depth: int = 100
    large_answer_floats: int = 2**16
    kept_prediction_bytes: int = 64 * 2**20
