"""Any HTTP service that takes JSON and answers JSON, at one URL: bodies in, parsed answers out.

It knows nothing of what is sent. Neither a body nor a header is in an error or a log.
"""

import json
import time
from collections.abc import Mapping
from typing import Any

from e5.client.prediction import RequestFailedError, first_line, parse_object, short_line
from e5.client.transport import ClientLimits, HttpResponse, Transport, check_url, retry, retry_after
from e5.errors import InputError, ServiceError

REMEDY = "use a URL such as http://127.0.0.1:8080/v1"
RETRY_SECONDS = 60.0  # in which a busy service is asked again


class JsonService(Transport):
    """A service at one URL, for one event loop.

    Attributes:
        name: the URL without its query.
    """

    late_remedy = "try again when it is less busy"
    address_remedy = "check the URL and the proxy"

    def __init__(self, url: str, headers: Mapping[str, str], *, deadline: float = 300.0) -> None:
        """Connects when it is first used.

        Raises:
            InputError: as `check_service_url`.
            ServiceError: for a proxy in the environment that cannot be used.
        """
        name, limits = check_service_url(url), ClientLimits()
        options: Any = {"deadline": deadline, "retry_seconds": RETRY_SECONDS, "limits": limits}
        super().__init__(name, name + url[len(url.partition("?")[0]) :], headers, **options)

    async def post(self, body: object) -> Any:
        """The parsed answer to a body that can be written as JSON.

        A service that is busy is asked again for a minute; nothing else is sent twice.

        Raises:
            InputError: for a wrong key (`api_key`), or a URL (`url`) that has no such service.
            ServiceError: the service does not answer (`cause` says why), or refuses the body
                (`cause` is "other", and the error has its sentence).
        """
        content = json.dumps(body).encode()
        end = time.monotonic() + self._deadline
        try:
            return await retry(lambda: self._try(content, end), self.name, self._retry_seconds)
        except RequestFailedError as error:
            sentence = f"{self.name}: {str(error).rstrip('.')}; {error.remedy}."
            raise ServiceError(sentence, cause=error.cause) from error

    async def _try(self, content: bytes, end: float) -> Any:
        try:
            response = await self.request("POST", "", end=end, content=content)
        except RequestFailedError as error:
            error.may_retry = False  # a wrong address is an error at once
            raise
        if not 200 <= response.status < 300:
            raise self._refusal(response)
        try:
            return json.loads(response.body)
        except (ValueError, RecursionError) as error:
            shown = f"an answer that is not JSON: {first_line(response.body)}"
            raise RequestFailedError(shown, "check the URL and the dialect") from error

    def _refusal(self, response: HttpResponse) -> InputError | RequestFailedError:
        status, sentence = response.status, f"HTTP {response.status}: {_sentence(response.body)}"
        if status in (401, 403):
            return InputError("api_key", sentence, "name the variable that holds the right key")
        if 300 <= status < 400:
            remedy = "name the URL that it redirects to, if you trust that"
            return InputError("url", f"{self.name}, which redirects (HTTP {status})", remedy)
        if status in (404, 405):
            remedy = "check the URL, the dialect and the model's name"
            return InputError("url", f"{self.name}, which answers {sentence}", remedy)
        if status in (409, 429, 503):
            seconds = retry_after(response)
            return RequestFailedError(sentence, cause="busy", retry_after=seconds, may_retry=True)
        return RequestFailedError(sentence, "send what it takes")


def check_service_url(url: str) -> str:
    """The URL without its query.

    Raises:
        InputError: for a URL that cannot be used, or whose query holds a key.
    """
    base, _, query = url.partition("?")
    if "key=" in query.lower():
        remedy = "leave it out, and name the environment variable that holds it"
        raise InputError("url", "a URL with a key", remedy)
    return str(check_url(base, "url", REMEDY)).rstrip("/")


def _sentence(body: bytes) -> str:
    """What a refusal says, in one of the fields in which services say it."""
    parsed = parse_object(body)
    for said in (parsed.get("error"), parsed.get("message"), parsed.get("detail")):
        text = said.get("message") if isinstance(said, dict) else said
        if isinstance(text, str) and text:
            return short_line(text).rstrip(".")
    return first_line(body)
