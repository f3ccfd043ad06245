"""The interface to Cog: inputs -> request -> Service -> Output. It only translates.

Cog's command line reads the source of `run`'s signature to publish the schema, so defaults and
descriptions are plain literals on one line, and types are written out.
"""

from typing import Optional

from cog import BaseRunner, Input, concurrent

from e5.cog import CogWorker
from e5.cog.output import Output  # Cog's parser follows this import to the source of Output
from e5.settings import Settings


class Predictor(BaseRunner):
    """Embeds queries and documents with E5-Mistral and scores how well they match."""

    def setup(self) -> None:
        """Load the checkpoint that `E5_WEIGHTS` names, and run its self-check."""
        self.worker = CogWorker.start(self.record_metric)
        from e5.serving import Service  # after the start, because it imports torch for seconds

        self.service = Service.load(Settings.from_env())
        self.worker.keep_loaded_objects()

    @concurrent(max=256)
    async def run(
        self,
        /,  # so that an unknown input may be called self
        task: str = Input(
            default="Given a web search query, retrieve relevant passages that answer the query",
            description="One-sentence instruction for the queries, or the name of a registered task such as sts_query. Empty: no instruction.",
        ),
        query: Optional[str] = Input(default=None, description="A query."),
        document: Optional[str] = Input(default=None, description="A document."),
        queries: Optional[list[str]] = Input(default=None, description="More queries."),
        documents: Optional[list[str]] = Input(default=None, description="More documents."),
        symmetric: bool = Input(
            default=False,
            description="Put the task on documents too. Registered symmetric tasks always do.",
        ),
        normalize: bool = Input(default=False, description="L2-normalise the embeddings."),
        dimensions: Optional[int] = Input(
            default=None, description="Keep the first n dimensions of each embedding.", ge=1
        ),
        truncate: bool = Input(
            default=True, description="Cut texts that are too long. False: they are an error."
        ),
        encoding_format: str = Input(
            default="float",
            description="float, or base64 of little-endian float32.",
            choices=["float", "base64"],
        ),
        **unknown,  # Cog's parser would reject an annotation here
    ) -> Output:
        """One prediction: every text's embedding, and the scores of queries with documents."""
        with self.worker.prediction() as prediction:
            request = prediction.request(
                task=task, query=query, document=document, queries=queries, documents=documents,
                symmetric=symmetric, normalize=normalize, dimensions=dimensions, truncate=truncate,
                encoding_format=encoding_format, **unknown,
            )
            answer = await self.service.answer(request)
            return await prediction.output(answer, encoding_format=request.encoding_format)

    def healthcheck(self) -> bool:
        """Whether predictions can be made; False lets a probe restart the service."""
        self.worker.report_running()
        return self.worker.is_healthy() and self.service.healthy
