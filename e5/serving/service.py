"""The service: one validated request -> one answer, for any interface in front of it."""

import asyncio
from functools import partial
from typing import TYPE_CHECKING, Protocol

from e5.errors import TextError
from e5.prompt_tokenizer import PromptTokenizer
from e5.serving.engine_queue import EngineQueue
from e5.serving.request import Answer, EmbedRequest
from e5.settings import Settings
from e5.vectors import check_dimensions, cosine_scores, finish

if TYPE_CHECKING:  # it brings torch
    from e5.embedder import Embedder

# Fewer are tokenised in less time than a thread takes to start; more would block other requests.
FEW_CHARACTERS = 10_000
MAX_TOKENIZING = 2  # large requests at the same time: each takes up to 45 bytes a character
LONGEST_TOKEN = 32  # characters; no vocabulary of these models has a longer token


class ServedModel(Protocol):
    """What a service knows of its model: an `Embedder`, or what other processes say of theirs."""

    @property
    def name(self) -> str:
        """The model's name with its fingerprint."""

    @property
    def dimensions(self) -> int:
        """The number of dimensions of a whole vector."""

    @property
    def max_length(self) -> int:
        """The number of tokens after which texts are truncated."""

    @property
    def max_batch_tokens(self) -> int:
        """The largest number of tokens that are computed in one forward."""

    @property
    def prompt_tokenizer(self) -> PromptTokenizer:
        """What turns texts into the model's token ids."""


class Service:
    """A model shared by all callers.

    Example, inside a coroutine:
        >>> service = Service.load(Settings(weights="weights/e5-mini"))
        >>> request = EmbedRequest.parse(query="snow", document="Frozen water.")
        >>> answer = await service.answer(request)
        >>> answer.vectors.shape, answer.scores.shape, answer.tokens
        ((2, 192), (1, 1), [29, 6])
    """

    def __init__(self, model: ServedModel, queue: EngineQueue) -> None:
        """Tokenise as the model does, in this process, and have the queue compute."""
        self._model, self._queue = model, queue
        self._tokenizing = asyncio.Semaphore(MAX_TOKENIZING)

    @classmethod
    def of(cls, embedder: "Embedder", *, max_queue_tokens: int, cache_bytes: int = 0) -> "Service":
        """The service of an embedder in this process, with a `Batcher` before it.

        The limits are those of `Settings.max_queue_tokens` and `Settings.cache_mb`.
        """
        from e5.serving.batcher import Batcher  # it brings torch

        batcher = Batcher(embedder, max_queue_tokens=max_queue_tokens, cache_bytes=cache_bytes)
        return cls(embedder, batcher)

    @classmethod
    def load(cls, settings: Settings) -> "Service":
        """Load the checkpoint and run its self-check; raises what `Embedder.load` raises."""
        from e5.embedder import Embedder

        return cls.of(
            Embedder.load(settings),
            max_queue_tokens=settings.max_queue_tokens,
            cache_bytes=settings.cache_bytes,
        )

    @property
    def healthy(self) -> bool:
        """Whether the engine works.

        False after the engine failed, while it seems to hang, or after many forwards of NaN alone.
        """
        return self._queue.healthy

    @property
    def waiting_tokens(self) -> int:
        """The number of tokens that wait for the engine."""
        return self._queue.waiting_tokens

    @property
    def max_queue_tokens(self) -> int:
        """The number of tokens that may wait for the engine."""
        return self._queue.max_queue_tokens

    @property
    def cache_bytes(self) -> int:
        """The number of bytes that kept vectors take."""
        return self._queue.cache_bytes

    async def answer(self, request: EmbedRequest) -> Answer:
        """Embed the request's texts and score its queries with its documents.

        Cancelling takes the request out of the queue.

        Raises:
            InputError: for `dimensions` out of range, an answer of too many numbers, or a text that
                is too long if `truncate` is False.
            TextError: for a text that has no finite vector or does not fit in memory.
            QueueFullError: too many tokens are already waiting.
            RequestTooLargeError: the request has more tokens than the queue can ever hold.
            EngineError: the engine broke; `healthy` is False from then on.
            ServiceError: the engines are other processes, and none of them can be reached.
        """
        model, fields = self._model, request.fields
        check_dimensions(request.dimensions, model.dimensions)
        request.check_answer_size(model.dimensions)
        options = {name: getattr(request, name) for name in ("task", "symmetric", "truncate")}
        tokenize = partial(
            model.prompt_tokenizer.tokenize,
            request.all_queries,
            request.all_documents,
            fields=fields,
            **options,
        )
        if request.num_characters < FEW_CHARACTERS:
            tokenized = tokenize()
        else:
            texts = (*request.all_queries, *request.all_documents)
            longest = model.max_length
            least_tokens = sum(min(longest, 2 + len(text) // LONGEST_TOKEN) for text in texts)
            self._queue.check_capacity(least_tokens)
            async with self._tokenizing:
                self._queue.check_capacity(least_tokens)
                tokenized = await asyncio.to_thread(tokenize)
        try:
            batched = await self._queue.embed([text.token_ids for text in tokenized])
        except TextError as error:
            raise error.at(error.position, fields[error.position]) from error
        vectors = finish(batched.vectors, request.dimensions, normalize=request.normalize)
        num_queries = len(request.all_queries)
        tokens = [len(text.token_ids) for text in tokenized]
        return Answer(
            vectors=vectors,
            scores=cosine_scores(vectors[:num_queries], vectors[num_queries:]),
            tokens=tokens,
            truncated=[text.truncated for text in tokenized],
            model=model.name,
            metrics={
                **({} if batched.cached is None else {"cached": batched.cached}),
                "queue_ms": round(batched.queue_ms, 3),
                "forward_ms": round(batched.forward_ms, 3),
                "tokens": sum(tokens),
                "batch_texts": batched.batch_texts,
            },
        )
