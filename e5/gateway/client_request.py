"""What every wire format comes down to: some texts, one prompt, and the shape of the answer.

Turns it into the service's request, and puts vectors and errors back into the caller's order and
words. Knows nothing of HTTP or of any one wire format.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from e5.errors import InputError
from e5.gateway.roles import Prompt, brings_its_own
from e5.prompts import resolve_task
from e5.serving.answer import Answer
from e5.serving.request import EmbedRequest
from e5.vectors import Vectors


@dataclass(frozen=True)
class Result:
    """An answer in the caller's order.

    Attributes:
        vectors: float32 `[num_texts, dimensions]`.
        tokens: read of each text.
        truncated: which of them were cut.
        model: name and fingerprint of what computed it.
    """

    vectors: Vectors
    tokens: list[int]
    truncated: list[bool]
    model: str


@dataclass(frozen=True)
class ClientRequest:
    """One request of a client, understood.

    Attributes:
        texts: as the caller sent them; not checked yet.
        names: the caller's name of each text, such as `input[2]`.
        list_name: the caller's name of all of them, such as `input`.
        prompt: of the texts.
        shape: the result -> the body of the answer, with numpy arrays as its leaves.
        num_bare: how many texts at the end are documents, whatever the prompt is.
        normalize: L2-normalise.
        dimensions: keep the first n.
        truncate: cut texts that are too long; False makes them an error.
        words: the caller's names of other fields, by the service's.
        waits: whether `shape` reads a disk, so that it must not run in the event loop.
    """

    texts: Sequence[Any]
    names: Sequence[str]
    list_name: str
    prompt: Prompt
    shape: Callable[[Result], Any]
    num_bare: int = 0
    normalize: bool = True
    dimensions: int | None = None
    truncate: bool = True
    words: Mapping[str, str] = field(default_factory=dict)
    waits: bool = False

    def request(self) -> "Request":
        """The service's request.

        Raises:
            InputError: in the caller's words.
        """
        may_carry = range(len(self.texts) - self.num_bare if self.prompt.prompted else 0)
        queries = [i for i in may_carry if not _brings_its_own(self.texts[i])]
        apart = set(queries)
        documents = [i for i in range(len(self.texts)) if i not in apart]
        places = [*queries, *documents]
        told = {
            **{f"queries[{k}]": self.names[i] for k, i in enumerate(queries)},
            **{f"documents[{k}]": self.names[i] for k, i in enumerate(documents)},
            **dict.fromkeys(("query, document", "queries, documents"), self.list_name),
            **self.words,
        }
        try:
            request = EmbedRequest.parse(
                # In words: under a symmetric task's name the service would prompt documents too.
                task=resolve_task(self.prompt.task).instruction,
                queries=[self.texts[i] for i in queries],
                documents=[self.texts[i] for i in documents],
                normalize=self.normalize,
                dimensions=self.dimensions,
                truncate=self.truncate,
                encoding_format="base64",  # which has no limit of its own
            )
        except InputError as error:
            raise error.renamed(told) from error
        own = len(may_carry) - len(queries)
        prompt = self.prompt.header if queries or not own else "own"
        if queries and own:
            prompt += f", own {own}/{len(may_carry)}"
        return Request(request, places, told, prompt, self.shape, self.waits)


@dataclass(frozen=True)
class Request:
    """The service's request for what a client sent, and the way back.

    Attributes:
        request: for the service.
        places: of each text of the service's answer, its place among the caller's.
        told: the caller's names of fields, by the service's.
        prompt: what was done to the texts, in a few words: `Prompt.header`, and how many of the
            texts that it is for bring their own.
        shape: see `ClientRequest`.
        waits: see `ClientRequest`.
    """

    request: EmbedRequest
    places: Sequence[int]
    told: Mapping[str, str]
    prompt: str
    shape: Callable[[Result], Any]
    waits: bool = False

    def result(self, answer: Answer) -> Result:
        """The service's answer in the caller's order."""
        back = sorted(range(len(self.places)), key=self.places.__getitem__)
        return Result(
            answer.vectors[back],
            [answer.tokens[i] for i in back],
            [answer.truncated[i] for i in back],
            answer.model,
        )


def _brings_its_own(text: object) -> bool:
    return isinstance(text, str) and brings_its_own(text)
