"""Cog's edge: inputs -> `e5` -> Output. It translates, and nothing else.

Cog's command line reads the signature of `run` as text to publish the schema, so defaults and
descriptions are plain literals on one line, and types are spelt out.
"""

import asyncio
import logging
from functools import partial
from typing import Optional

from cog import BaseRunner, Input, concurrent

from e5.batcher import Batcher
from e5.embedder import Embedder, naming
from e5.errors import E5Error
from e5.settings import Settings
from e5.types import EmbedRequest, Output, Usage
from e5.vectors import cosine_scores, finish

logger = logging.getLogger(__name__)


class Predictor(BaseRunner):
    """Embeds queries and documents with E5-Mistral and scores how well they match."""

    def setup(self) -> None:
        """Load the checkpoint that `E5_WEIGHTS` names, and try it."""
        logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
        settings = Settings.from_env()
        self.embedder = Embedder.load(settings)
        self.batcher = Batcher(self.embedder.engine, max_queue_tokens=settings.max_queue_tokens)

    @concurrent(max=256)
    async def run(
        self,
        /,  # an unknown input may be called self
        task: str = Input(default="Given a web search query, retrieve relevant passages that answer the query", description="One-sentence instruction for the queries, or the name of a registered task such as sts_query. Empty: no instruction."),
        query: Optional[str] = Input(default=None, description="A query."),
        document: Optional[str] = Input(default=None, description="A document."),
        queries: Optional[list[str]] = Input(default=None, description="More queries."),
        documents: Optional[list[str]] = Input(default=None, description="More documents."),
        symmetric: bool = Input(default=False, description="Put the task on documents too. Registered symmetric tasks always do."),
        normalize: bool = Input(default=False, description="L2-normalise the embeddings."),
        dimensions: Optional[int] = Input(default=None, description="Keep the first n dimensions of each embedding.", ge=1),
        truncate: bool = Input(default=True, description="Cut texts that are too long. False: they are an error."),
        encoding_format: str = Input(default="float", description="float, or base64 of little-endian float32.", choices=["float", "base64"]),
        **unknown,  # Cog's parser would reject an annotation here
    ) -> Output:
        """One prediction: every text's embedding, and the scores of queries with documents."""
        try:
            request = EmbedRequest.parse(
                task=task,
                query=query,
                document=document,
                queries=queries,
                documents=documents,
                symmetric=symmetric,
                normalize=normalize,
                dimensions=dimensions,
                truncate=truncate,
                encoding_format=encoding_format,
                **unknown,
            )
            return await self._answer(request)
        except E5Error as error:
            logger.info("refused: %s", error)
            raise
        except Exception:
            logger.exception("prediction failed")
            raise RuntimeError("the service failed on this request; its log has the reason.") from None

    async def _answer(self, request: EmbedRequest) -> Output:
        self.embedder.check_dimensions(request.dimensions)
        request.check_answer(self.embedder.engine.hidden_size)
        texts = request.prompts
        tokenize = partial(self.embedder.tokenize, texts, request.fields, truncate=request.truncate)
        # A thread costs more than tokenising a little text, and a lot would hold up everybody else.
        small = sum(map(len, texts)) < 10_000
        encodings = tokenize() if small else await asyncio.to_thread(tokenize)
        with naming(request.fields, encodings):
            batched = await self.batcher.embed([encoding.token_ids for encoding in encodings])
        vectors = finish(batched.vectors, dimensions=request.dimensions, normalize=request.normalize)
        usage = Usage(
            tokens=[len(encoding.token_ids) for encoding in encodings],
            truncated=[encoding.truncated for encoding in encodings],
        )
        self.record_metric("queue_ms", round(batched.queue_ms, 3))
        self.record_metric("forward_ms", round(batched.forward_ms, 3))
        self.record_metric("tokens", sum(usage.tokens))
        self.record_metric("batch_texts", batched.batch_texts)
        scores = cosine_scores(vectors[: request.num_queries], vectors[request.num_queries :])
        return Output.of(
            vectors, scores, usage, self.embedder.name, encoding_format=request.encoding_format
        )

    def healthcheck(self) -> bool:
        """Whether the engine still answers; False once it has broken, so that a probe restarts it."""
        return self.batcher.healthy
