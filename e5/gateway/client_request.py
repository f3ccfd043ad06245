"""What every wire format comes down to: texts, one prompt, and how the answer is written.

A `ClientRequest` becomes a `ServiceCall`, which has the service's request, and puts its answer and
its errors back into the caller's order and names.
"""

from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

import numpy as np

from e5.errors import InputError
from e5.gateway.roles import PromptChoice
from e5.gateway.written_prompts import find_prompts
from e5.prompts import resolve_task
from e5.serving import Answer, EmbedRequest

BuildBody: TypeAlias = Callable[[Answer], Any]


@dataclass(frozen=True)
class ClientRequest:
    """One client's request, independent of its wire format.

    Attributes:
        texts: as the caller sent them, not checked yet.
        fields: the caller's name of each text, such as `input[2]`.
        list_name: the caller's name of all texts together, such as `input`.
        prompt: the prompt that the texts get.
        build_body: builds the body of the response from the answer in the caller's order. It may
            hold numpy arrays.
        document_positions: the positions of texts that are documents, whatever the prompt is.
        normalize: L2-normalise the vectors.
        dimensions: keep the first n numbers of each vector.
        truncate: truncate texts that are too long; False makes them an error.
        renames: the caller's names of other fields, by the service's.
        reads_disk: `build_body` reads a disk, so it must not run in the event loop.
    """

    texts: Sequence[Any]
    fields: Sequence[str]
    list_name: str
    prompt: PromptChoice
    build_body: BuildBody
    document_positions: Container[int] = ()
    normalize: bool = True
    dimensions: int | None = None
    truncate: bool = True
    renames: Mapping[str, str] = field(default_factory=dict)
    reads_disk: bool = False

    def service_call(self) -> "ServiceCall":
        """The request for the service, and the way back from its answer.

        Raises:
            InputError: in the caller's names.
        """
        positions = range(len(self.texts) if self.prompt.prompted else 0)
        prompted = [i for i in positions if i not in self.document_positions]
        found = find_prompts(self.texts, prompted)
        texts, are_bare = found.texts, {*found.own, *found.unlike}
        queries = [i for i in prompted if i not in are_bare]
        are_queries = set(queries)
        documents = [i for i in range(len(texts)) if i not in are_queries]
        renames = {
            **{f"queries[{k}]": self.fields[i] for k, i in enumerate(queries)},
            **{f"documents[{k}]": self.fields[i] for k, i in enumerate(documents)},
            **dict.fromkeys(("query, document", "queries, documents"), self.list_name),
            **self.renames,
        }
        try:
            request = EmbedRequest.parse(
                # The instruction: under a symmetric task's name the service would give the prompt
                # to documents too.
                task=resolve_task(self.prompt.task).instruction,
                queries=[texts[i] for i in queries],
                documents=[texts[i] for i in documents],
                normalize=self.normalize,
                dimensions=self.dimensions,
                truncate=self.truncate,
                encoding_format="base64",  # the service does not limit the numbers of such answers
            )
        except InputError as error:
            raise error.renamed(renames) from error
        others = self.prompt.header if queries or not prompted else ""
        is_same_order = not queries or not documents or queries[-1] < documents[0]
        order = None if is_same_order else [*queries, *documents]
        prompt = found.header(others, self.fields)
        return ServiceCall(request, prompt, self.build_body, order, renames, self.reads_disk)


@dataclass(frozen=True)
class ServiceCall:
    """The request for the service, and the way back from its answer to the caller.

    Attributes:
        request: the service's request.
        prompt: what was done to the texts, in a few words: see `FoundPrompts.header`.
        build_body: see `ClientRequest`.
        positions: of each text in the service's order, its position in the caller's order; None
            where both orders are the same.
        renames: the caller's names of fields, by the service's.
        reads_disk: see `ClientRequest`.
    """

    request: EmbedRequest
    prompt: str
    build_body: BuildBody
    positions: Sequence[int] | None = None
    renames: Mapping[str, str] = field(default_factory=dict)
    reads_disk: bool = False

    def in_callers_order(self, answer: Answer) -> Answer:
        """The service's answer in the caller's order; its scores stay as they were."""
        if self.positions is None:
            return answer
        order = np.argsort(self.positions)
        return replace(
            answer,
            vectors=answer.vectors[order],
            tokens=[answer.tokens[i] for i in order],
            truncated=[answer.truncated[i] for i in order],
        )
