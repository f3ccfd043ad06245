"""The interface to Cog: inputs -> EmbedRequest -> Service -> Output. It only translates.

Cog's command line reads the source of `run`'s signature to publish the schema, so defaults and
descriptions are plain literals on one line, and types are written out.
"""

import gc
import logging
from typing import Optional

from cog import BaseRunner, Input, concurrent

from e5.cog.json_fields import patch_json_dumps
from e5.cog.output import Output, Outputs
from e5.cog.parent import end_with_parent
from e5.cog.prediction_folders import Predictions
from e5.errors import E5Error
from e5.serving.request import EmbedRequest
from e5.settings import Settings

logger = logging.getLogger(__name__)


class Predictor(BaseRunner):
    """Embeds queries and documents with E5-Mistral and scores how well they match."""

    def setup(self) -> None:
        """Load the checkpoint that `E5_WEIGHTS` names, and run its self-check."""
        logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
        end_with_parent()
        from e5.serving.service import Service  # late: it brings torch, which takes seconds

        self.predictions = Predictions()
        self.predictions.check()
        patch_json_dumps()
        self.service, self.outputs = Service.load(Settings.from_env()), Outputs()
        gc.collect()
        gc.freeze()  # what is loaded stays: to look for garbage among it stops everybody for 0.1 s

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
        with self.predictions.one() as prediction:
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
                answer = await self.service.answer(request)
                for name, value in answer.metrics.items():
                    self.record_metric(name, value)
                prediction.numbers = answer.num_numbers
                return await self.outputs.of(answer, encoding_format=request.encoding_format)
            except E5Error as error:
                logger.info("refused: %s", error)
                raise
            except Exception:
                logger.exception("prediction failed")
                raise RuntimeError(
                    "the service failed on this request; its log has the reason."
                ) from None

    def healthcheck(self) -> bool:
        """Whether predictions can be made; False lets a probe restart the service."""
        self.predictions.tell()
        return self.service.healthy and self.predictions.can_be_made()
