"""What the process in which Cog runs predictions needs around the service."""

import asyncio
import gc
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TypeAlias

from e5.cog.json_fields import patch_json_dumps
from e5.cog.output import Output, build_output
from e5.cog.prediction_folders import PredictionFolders
from e5.data_uris import change_texts, read_data_uri
from e5.errors import E5Error, EngineError
from e5.serving import Answer, EmbedRequest, RequestLimits

logger = logging.getLogger(__name__)

RecordMetric: TypeAlias = Callable[[str, object], None]


class CogWorker:
    """The process's log, health and predictions, as Cog wants them; `predict.py` shows its use."""

    def __init__(self, record_metric: RecordMetric, folders: PredictionFolders) -> None:
        """Raise FileError for folders that cannot be used; `record_metric` is the Cog runner's."""
        folders.check()
        self.record_metric = record_metric
        self.large_outputs = asyncio.Semaphore(1)
        self.num_running = 0
        self.folders = folders

    @classmethod
    def start(cls, record_metric: RecordMetric) -> "CogWorker":
        """A worker whose process logs, ends with Cog's server, and writes answers quickly."""
        logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
        end_with_parent()
        patch_json_dumps()
        return cls(record_metric, PredictionFolders())

    def keep_loaded_objects(self) -> None:
        """Exclude what is loaded now from garbage collection.

        Looking for garbage in it would stop the process for 0.1 s.
        """
        gc.collect()
        gc.freeze()

    @contextmanager
    def prediction(self) -> Iterator["Prediction"]:
        """Count a prediction that runs in the context; log its failure, and record it as data.

        The metric `error` of a failed prediction is `E5Error.to_dict`. Cog sends it to the caller.

        Raises:
            EngineError: instead of an exception that is not an E5Error; the log has its traceback.
        """
        self.num_running += 1
        prediction = Prediction(self)
        try:
            yield prediction
        except E5Error as error:
            logger.info("refused: %s", error)
            self.record_metric("error", error.to_dict())
            raise
        except Exception:
            logger.exception("prediction failed")
            failure = EngineError("the service failed on this request; its log has the reason.")
            self.record_metric("error", failure.to_dict())
            raise failure from None
        finally:
            self.num_running -= 1
            self.folders.remove_later(prediction.num_floats)

    def report_running(self) -> None:
        """Write the number of running predictions into a file that `scripts/probe` reads."""
        with suppress(OSError):
            port = os.environ.get("PORT", "").strip() or "5000"
            (self.folders.root.parent / f"e5-running-{port}").write_text(str(self.num_running))

    def is_healthy(self) -> bool:
        """Whether Cog can still make its folders."""
        try:
            self.folders.check()
        except E5Error:
            return False
        return True


@dataclass
class Prediction:
    """A prediction that runs; made by `CogWorker.prediction`."""

    worker: CogWorker
    num_floats: int = 0  # in its answer, once that is known

    def request(self, /, **inputs: object) -> EmbedRequest:
        """The request that the inputs make: `EmbedRequest.parse`, with the texts of data URIs.

        Cog's command line sends a file, as in `-i document=@notes.txt`, as a data URI.

        Raises:
            InputError: for an input that is wrong, or a file that is not text in UTF-8.
        """
        return EmbedRequest.parse(
            **change_texts(inputs, read_data_uri, max_texts=RequestLimits.texts)
        )

    async def output(self, answer: Answer, *, encoding_format: str) -> Output:
        """Record the answer's metrics, and build its output; FileError if there is no room."""
        for name, value in answer.metrics.items():
            self.worker.record_metric(name, value)
        self.num_floats = answer.num_floats
        bytes_per_float = 6 if encoding_format == "base64" else 14  # at most
        self.worker.folders.check_room(bytes_per_float * answer.num_floats)
        return await build_output(
            answer, encoding_format=encoding_format, large_outputs=self.worker.large_outputs
        )


def end_with_parent() -> None:
    """From now on, exit when the parent process has ended, whatever this process is doing.

    Cog's server does not end its worker when it is killed, or stopped while the worker still loads;
    the worker would keep the weights in memory.
    """
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=watch, name="e5-parent", daemon=True).start()
