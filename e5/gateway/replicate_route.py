"""Replicate's predictions, for its own clients with the gateway's address as their base URL.

A prediction is computed before it is answered, as Replicate does it for `Prefer: wait`. Inputs and
output are those of Cog's route.
"""

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from threading import Lock
from typing import Any, ClassVar, Literal
from uuid import uuid4

from typing_extensions import TypedDict

from e5.errors import InputError, quoted
from e5.gateway.client_request import ServiceCall
from e5.gateway.cog_route import PredictionOutput, PredictionRequest
from e5.gateway.refusals import ErrorStyle, RefusalError
from e5.gateway.wire import RouteContext
from e5.serving import Answer

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
    """The inputs of a prediction, as Replicate's clients send them."""

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
    """The latest predictions, for clients that ask for each of them once more.

    Replicate's Go client does so unless it is told to block. Each gateway keeps its own, in memory.
    """

    def __init__(self, limit_bytes: int) -> None:
        """Keep predictions of about so many bytes together."""
        self._limit_bytes = limit_bytes
        self._num_bytes = 0
        self._kept: OrderedDict[str, tuple[dict[str, Any], int]] = OrderedDict()
        self._lock = Lock()  # large answers are built in threads

    def keep(self, prediction: dict[str, Any], num_bytes: int) -> None:
        """Keep a prediction of this size, and forget the oldest ones for it."""
        with self._lock:
            self._kept[prediction["id"]] = prediction, num_bytes
            self._num_bytes += num_bytes
            while self._num_bytes > self._limit_bytes:
                _, (_, forgotten) = self._kept.popitem(last=False)
                self._num_bytes -= forgotten

    def find(self, name: str) -> dict[str, Any]:
        """The prediction with this id.

        Raises:
            RefusalError: 404, if it is not kept.
        """
        if name not in self._kept:
            remedy = (
                "use the answer to the request that made it, which holds the output; "
                "only the latest predictions are kept"
            )
            raise RefusalError(404, InputError("the prediction", quoted(name), remedy))
        return self._kept[name][0]
