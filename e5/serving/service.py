"""The service: one validated request -> one answer, for any interface in front of it."""

import asyncio
from functools import partial

from e5.embedder import Embedder
from e5.errors import TextError
from e5.serving.batcher import Batcher
from e5.serving.request import Answer, EmbedRequest
from e5.settings import Settings
from e5.vectors import check_dimensions, cosine_scores, finish

# Tokenising fewer takes less time than a thread does; tokenising more would block other requests.
FEW_CHARACTERS = 10_000
MAX_TOKENIZING = 2  # large requests at the same time: each takes up to 45 bytes a character
LONGEST_TOKEN = 32  # characters; no vocabulary of these models has a longer token


class Service:
    """An embedder shared by all callers.

    Example, inside a coroutine:
        >>> service = Service.load(Settings(weights="weights/e5-mini"))
        >>> request = EmbedRequest.parse(query="snow", document="Frozen water.")
        >>> answer = await service.answer(request)
        >>> answer.vectors.shape, answer.scores.shape, answer.tokens
        ((2, 192), (1, 1), [29, 6])
    """

    def __init__(self, embedder: Embedder, *, max_queue_tokens: int) -> None:
        """Start the batcher; requests are refused when more than `max_queue_tokens` would wait."""
        self._embedder = embedder
        self._batcher = Batcher(embedder, max_queue_tokens=max_queue_tokens)
        self._tokenizing = asyncio.Semaphore(MAX_TOKENIZING)

    @classmethod
    def load(cls, settings: Settings) -> "Service":
        """Load the checkpoint and run its self-check; raises what `Embedder.load` raises."""
        return cls(Embedder.load(settings), max_queue_tokens=settings.max_queue_tokens)

    @property
    def healthy(self) -> bool:
        """Whether the engine works.

        False after the engine failed, while it seems to hang, or after many forwards of NaN alone.
        """
        return self._batcher.healthy

    @property
    def waiting_tokens(self) -> int:
        """The number of tokens that wait for the engine."""
        return self._batcher.waiting_tokens

    @property
    def max_queue_tokens(self) -> int:
        """The number of tokens that may wait for the engine."""
        return self._batcher.max_queue_tokens

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
        """
        embedder, fields = self._embedder, request.fields
        check_dimensions(request.dimensions, embedder.dimensions)
        request.check_answer_size(embedder.dimensions)
        options = request.model_dump(include={"task", "symmetric", "truncate"})
        tokenize = partial(
            embedder.tokenize, request.all_queries, request.all_documents, fields=fields, **options
        )
        if request.num_characters < FEW_CHARACTERS:
            tokenized = tokenize()
        else:
            texts = (*request.all_queries, *request.all_documents)
            longest = embedder.max_length
            least_tokens = sum(min(longest, 2 + len(text) // LONGEST_TOKEN) for text in texts)
            self._batcher.check_capacity(least_tokens)
            async with self._tokenizing:
                self._batcher.check_capacity(least_tokens)
                tokenized = await asyncio.to_thread(tokenize)
        try:
            batched = await self._batcher.embed([text.token_ids for text in tokenized])
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
            model=embedder.name,
            metrics={
                "queue_ms": round(batched.queue_ms, 3),
                "forward_ms": round(batched.forward_ms, 3),
                "tokens": sum(tokens),
                "batch_texts": batched.batch_texts,
            },
        )
