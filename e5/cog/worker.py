"""What the process in which Cog runs predictions needs around the service."""

import gc
import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from e5.cog.json_fields import patch_json_dumps
from e5.cog.output import Output, OutputBuilder
from e5.cog.parent import end_with_parent
from e5.cog.prediction_folders import PredictionFolders
from e5.errors import E5Error, EngineError
from e5.serving import Answer

logger = logging.getLogger(__name__)


class CogWorker:
    """The process's log, health and predictions, as Cog wants them.

    Example, inside the coroutine `run` of a Cog predictor:
        >>> with worker.prediction(self.record_metric) as prediction:
        ...     answer = await service.answer(request)
        ...     return await prediction.output(answer, encoding_format="float")
    """

    def __init__(self, folders: PredictionFolders | None = None) -> None:
        """Check Cog's folders; `folders` are those of this machine's Cog by default.

        Raises:
            FileError: where Cog cannot make a folder for each prediction.
        """
        self.num_running = 0
        self._folders = folders or PredictionFolders()
        self._folders.check()
        self._outputs = OutputBuilder()

    @classmethod
    def start(cls) -> "CogWorker":
        """Set up logging, end with Cog's server, and write answers quickly; then `CogWorker()`."""
        logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
        end_with_parent()
        patch_json_dumps()
        return cls()

    def keep_loaded_objects(self) -> None:
        """Exclude what is loaded now from garbage collection, which would stop all for 0.1 s."""
        gc.collect()
        gc.freeze()

    @contextmanager
    def prediction(self, record_metric: Callable[[str, object], None]) -> Iterator["Prediction"]:
        """Run one prediction within: log its failure, and hand the error to Cog as data.

        Args:
            record_metric: of the Cog runner. The metric `error` of a failed prediction is
                `E5Error.to_dict` of the error.

        Raises:
            EngineError: instead of an exception that is no E5Error; the log has its traceback.
        """
        self.num_running += 1
        prediction = Prediction(record_metric, self._outputs)
        try:
            yield prediction
        except E5Error as error:
            logger.info("refused: %s", error)
            record_metric("error", error.to_dict())
            raise
        except Exception:
            logger.exception("prediction failed")
            failure = EngineError("the service failed on this request; its log has the reason.")
            record_metric("error", failure.to_dict())
            raise failure from None
        finally:
            self.num_running -= 1
            self._folders.remove_later(prediction.num_numbers)

    def is_healthy(self) -> bool:
        """Whether Cog can make its folders; also tells `scripts/probe` how many predictions run.

        A server whose slots are all taken while nothing runs has lost them.
        """
        with suppress(OSError):
            port = os.environ.get("PORT", "5000")
            file = self._folders.root.parent / f"e5-running-{port}"
            file.write_text(str(self.num_running))
        try:
            self._folders.check()
        except E5Error:
            return False
        return True


class Prediction:
    """A prediction that runs; made by `CogWorker.prediction`."""

    def __init__(
        self, record_metric: Callable[[str, object], None], outputs: OutputBuilder
    ) -> None:
        """Its answer is not known yet."""
        self.num_numbers = 0
        self._record_metric = record_metric
        self._outputs = outputs

    async def output(self, answer: Answer, *, encoding_format: str) -> Output:
        """Record the answer's metrics, and build its output."""
        for name, value in answer.metrics.items():
            self._record_metric(name, value)
        self.num_numbers = answer.num_numbers
        return await self._outputs.build(answer, encoding_format=encoding_format)
