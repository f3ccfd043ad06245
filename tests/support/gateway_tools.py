"""A gateway in this process, asked without a network; and a backend that does what a test says."""

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import httpx2
import numpy as np
from server import ROOT
from starlette.routing import Route

from e5.gateway.app import Gateway
from e5.gateway.backend import Backend, BackendInfo
from e5.gateway.limits import GatewayLimits
from e5.gateway.model_names import ModelNames
from e5.gateway.wire import Auditor, Searchable
from e5.prompt_tokenizer import PromptTokenizer
from e5.serving import Answer, EmbedRequest
from e5.vectors import Vectors

MODEL = "small@0123456789ab"  # the name and fingerprint of what `FakeBackend` serves
INFO = BackendInfo(name=MODEL, dimensions=8, max_length=4096, max_batch_tokens=2048)
Outcome = Callable[[EmbedRequest], Awaitable[Answer]]


class LocalGateway:
    """A gateway, and one request after another to it.

    Example:
        >>> LocalGateway(FakeBackend()).get("/health").json()
        {'status': 'alive'}
    """

    def __init__(
        self,
        backend: Backend,
        *,
        model: str = MODEL,
        aliases: Mapping[str, str] | None = None,
        keys: Sequence[str] = (),
        origins: Sequence[str] = (),
        index: Searchable | None = None,
        auditor: Auditor | None = None,
        limits: GatewayLimits = GatewayLimits(),  # noqa: B008 (it is frozen)
    ) -> None:
        """See `Gateway`."""
        names = ModelNames(model, aliases)
        self.gateway = Gateway(
            backend, names, keys=keys, origins=origins, index=index, auditor=auditor, limits=limits
        )

    @property
    def routes(self) -> list[Route]:
        """All routes."""
        return [route for router in self.gateway.app.routes for route in router.routes]  # type: ignore[attr-defined]

    def client(self) -> httpx2.AsyncClient:
        """For stories that ask several things at a time."""
        transport = httpx2.ASGITransport(self.gateway.app)
        return httpx2.AsyncClient(transport=transport, base_url="http://gateway", timeout=60)

    def send(self, method: str, path: str, **options: Any) -> httpx2.Response:
        """Any request."""

        async def story() -> httpx2.Response:
            async with self.client() as client:
                return await client.request(method, path, **options)

        return asyncio.run(story())

    def get(self, path: str, **options: Any) -> httpx2.Response:
        """GET."""
        return self.send("GET", path, **options)

    def post(
        self, path: str, body: object, headers: Mapping[str, str] | None = None
    ) -> httpx2.Response:
        """POST of JSON; bytes are sent as they are."""
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        given = {"content-type": "application/json", **(headers or {})}
        return self.send("POST", path, content=content, headers=given)

    def counted(self, name: str, **labels: str) -> float:
        """A meter's value, such as `requests_total`; 0 where nothing was counted."""
        return self.gateway.metrics.registry.get_sample_value(f"e5_gateway_{name}", labels) or 0.0


@dataclass
class FakeBackend:
    """Answers with one-hot vectors by the texts' order, or with an outcome that a test names.

    Attributes:
        outcome: raised or awaited instead of the usual answer.
        info_outcome: raised instead of telling what is served.
        is_ready: what `/ready` shall find.
        dimensions: of a vector.
        asked: all requests so far.
    """

    outcome: Exception | Outcome | None = None
    info_outcome: Exception | None = None
    is_ready: bool = True
    dimensions: int = 8
    asked: list[EmbedRequest] = field(default_factory=list)
    is_closed: bool = False
    max_queue_tokens: int = 1000

    async def info(self) -> BackendInfo:
        """See `Backend`."""
        if self.info_outcome is not None:
            raise self.info_outcome
        return INFO

    async def answer(self, request: EmbedRequest) -> Answer:
        """See `Backend`."""
        self.asked.append(request)
        if isinstance(self.outcome, Exception):
            raise self.outcome
        if self.outcome is not None:
            return await self.outcome(request)
        columns = np.arange(len(request.fields)) % self.dimensions
        return answer_of(np.eye(self.dimensions, dtype=np.float32)[columns])

    async def tokenizer(self) -> PromptTokenizer:
        """See `Backend`."""
        return PromptTokenizer.read(ROOT / "weights/e5-mini", max_length=INFO.max_length)

    async def ready(self) -> bool:
        """See `Backend`."""
        return self.is_ready

    def waiting_tokens(self) -> int:
        """See `Backend`."""
        return 7

    def cache_bytes(self) -> int:
        """See `Backend`."""
        return 0

    async def close(self) -> None:
        """See `Backend`."""
        self.is_closed = True


def answer_of(vectors: Vectors) -> Answer:
    """An answer with these vectors, of texts of three tokens."""
    tokens, truncated = [3] * len(vectors), [False] * len(vectors)
    return Answer(vectors, np.empty((0, 0), np.float32), tokens, truncated, MODEL, {})


def sentence_of(response: httpx2.Response, status: int) -> str:
    """The one sentence of a refusal, which every kind of client must be able to read."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/json"
    assert response.headers["x-request-id"]
    body = response.json()
    sentence: str = body["message"]
    assert body["detail"] == sentence
    told = body["error"]
    keys = {"error", "error_type", "message", "detail"}
    if "title" in body:  # on Replicate's routes
        assert body["status"] == status
        keys |= {"title", "status"}
    if not isinstance(told, str):
        if "status" in told:  # Google's
            assert set(told) == {"code", "message", "status"}
            assert told["code"] == status
        else:
            assert set(told) == {"message", "type", "param", "code"}
            assert told["code"] == str(status)
            assert body["object"] == "error"
            assert told.items() <= body.items()
            keys |= {"object", "type", "param", "code"}
        told = told["message"]
    assert set(body) == keys
    assert told == sentence
    assert sentence.endswith(".")
    assert "\n" not in sentence
    assert "Traceback" not in sentence
    return sentence


def cosine(first: Any, second: Any) -> float:
    """Of two vectors, in float64."""
    one, other = np.asarray(first, np.float64), np.asarray(second, np.float64)
    return float(one @ other / np.linalg.norm(one) / np.linalg.norm(other))


def cosines(answer: dict[str, Any], truth: Any) -> Any:
    """Of a client's vectors with the true ones, row by row, in float64; a refusal shows itself."""
    assert "vectors" in answer, answer
    found = np.array(answer["vectors"], np.float64)
    assert found.shape == truth.shape
    lengths = np.linalg.norm(found, axis=1) * np.linalg.norm(truth, axis=1)
    return (found * truth).sum(axis=1) / lengths
