"""Replicate's predictions, for its own clients with the gateway's address as their base URL.

A prediction is computed before it is answered, as Replicate does it for `Prefer: wait`. Inputs and
output are those of Cog's route.
"""

import re
from collections import OrderedDict
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from threading import Lock
from typing import Any, ClassVar, Literal
from uuid import uuid4

import orjson
from typing_extensions import TypedDict

from e5.errors import InputError, quoted
from e5.gateway.body import to_json
from e5.gateway.client_request import ServiceCall
from e5.gateway.cog_route import PredictionOutput, PredictionRequest
from e5.gateway.refusals import ErrorStyle, RefusalError
from e5.gateway.wire import RouteContext
from e5.serving import Answer

PREDICTION_ID = re.compile("[0-9a-f]{32}")

ReplicatePrediction = TypedDict(
    "ReplicatePrediction",
    {
        "id": str,
        "model": str,
        "version": str,
        "input": dict[str, Any],
        "output": PredictionOutput,
        "logs": str,
        "error": None,
        "status": Literal["succeeded"],
        "source": Literal["api"],
        "created_at": str,
        "started_at": str,
        "completed_at": str,
        "data_removed": bool,
        "metrics": dict[str, float],
        "urls": dict[str, str],
    },
)


class ReplicateRequest(PredictionRequest):
    """A prediction to compute, as Replicate's clients send it."""

    fits: ClassVar[Callable[..., bool]] = staticmethod(lambda body: body.get("version") is not None)
    error_style: ClassVar[ErrorStyle | None] = "replicate"

    version: str | None = None

    def service_call(self, context: RouteContext) -> ServiceCall:
        """See `WireRequest.service_call`."""
        call, created = super().service_call(context), datetime.now(UTC)
        model = self._model(context)

        def build_body(answer: Answer) -> dict[str, Any]:
            completed, name = datetime.now(UTC), uuid4().hex
            urls = {"get": f"/v1/predictions/{name}", "cancel": f"/v1/predictions/{name}/cancel"}
            prediction = {
                "id": name,
                "model": model,
                "version": answer.model.partition("@")[2],
                "input": self.input.model_dump(exclude_unset=True),
                **call.build_body(answer),
                "logs": "",
                "error": None,
                "source": "api",
                "created_at": created.isoformat(),
                "started_at": created.isoformat(),
                "completed_at": completed.isoformat(),
                "data_removed": False,
                "metrics": {"predict_time": (completed - created).total_seconds()},
                "urls": urls | {"web": urls["get"]},
            }
            context.keep_prediction(prediction, answer.vectors.nbytes + self.input.num_characters)
            return prediction

        return replace(call, build_body=build_body)

    def _model(self, context: RouteContext) -> str:
        """The name of the model that the path or the version names."""
        names, version = context.model_names, self.version or ""
        name = context.path_params.get("name")
        if "/" in version:  # owner/name, or owner/name:version
            name, _, version = version.partition(":")
        names.check_fingerprint(version)
        return names.resolve(name, any_owner=True)[0]


class KeptPredictions:
    """The latest predictions, for clients that read each of them once more.

    Replicate's Go client does so without `WithBlockUntilDone`. Each gateway keeps its own: in
    memory, or in a folder that its processes share.
    """

    def __init__(self, limit_bytes: int, shared_folder: Path | None = None) -> None:
        """Keep predictions of about so many bytes together."""
        self._limit_bytes = limit_bytes
        self._num_bytes = 0
        self._sizes = OrderedDict[str, int]()
        self._kept: dict[str, dict[str, Any]] | _PredictionFiles = {}
        if shared_folder is not None:
            self._kept = _PredictionFiles(shared_folder)
        self._lock = Lock()  # large answers are built in threads

    def keep(self, prediction: dict[str, Any], num_bytes: int) -> None:
        """Keep a prediction of this size, and forget the oldest ones for it."""
        with self._lock:
            self._kept[prediction["id"]] = prediction
            self._sizes[prediction["id"]] = num_bytes
            self._num_bytes += num_bytes
            while self._num_bytes > self._limit_bytes:
                name, forgotten = self._sizes.popitem(last=False)
                del self._kept[name]
                self._num_bytes -= forgotten

    def find(self, name: str) -> dict[str, Any]:
        """The prediction with this id.

        Raises:
            RefusalError: 404, if it is not kept.
        """
        try:
            return self._kept[name]
        except KeyError:
            remedy = (
                "use the answer to the request that made it, which holds the output; "
                "only the latest predictions are kept"
            )
            refusal = RefusalError(404, InputError("the prediction", quoted(name), remedy))
            raise refusal from None


class _PredictionFiles:
    """Predictions in the files of a folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def __setitem__(self, name: str, prediction: dict[str, Any]) -> None:
        file = self._file(name)
        with suppress(OSError):  # without space on the disk, the prediction is not kept
            file.with_suffix(".new").write_bytes(to_json(prediction))
            file.with_suffix(".new").replace(file)

    def __getitem__(self, name: str) -> dict[str, Any]:
        try:
            prediction: dict[str, Any] = orjson.loads(self._file(name).read_bytes())
        except OSError as error:
            raise KeyError(name) from error
        return prediction

    def __delitem__(self, name: str) -> None:
        self._file(name).unlink(missing_ok=True)

    def _file(self, name: str) -> Path:
        if not PREDICTION_ID.fullmatch(name):  # it comes from the caller
            raise KeyError(name)
        return self._folder / f"{name}.prediction"
