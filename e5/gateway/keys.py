"""The keys that open a gateway, at every place where clients put one."""

import base64
import hashlib
import hmac
from collections.abc import Iterator, Sequence

from starlette.requests import Request

from e5.gateway.refusals import RefusalError

KEY_HEADERS = ("x-api-key", "api-key", "x-goog-api-key")
KEY_PARAMETER = "key"  # of the URL's query, where older Google clients put it


class Keys:
    """The keys of one gateway. Their digests are kept, and compared in constant time."""

    def __init__(self, keys: Sequence[str]) -> None:
        """Take the keys; without any, every request may pass."""
        self._digests = [_digest(key) for key in keys]

    def check(self, request: Request) -> None:
        """Let a request pass if it carries a key.

        Raises:
            RefusalError: 401, if it carries none, or none of these.
        """
        if not self._digests:
            return
        sent = [_digest(key) for key in _sent_keys(request)]
        # All of them, always.
        known = [hmac.compare_digest(one, key) for one in sent for key in self._digests]
        if not any(known):
            sentence = (
                "the key is missing or wrong; send Authorization: Bearer KEY (or Token, or Basic "
                f"with the key as the password), {', '.join(KEY_HEADERS)}, or ?{KEY_PARAMETER}=KEY."
            )
            raise RefusalError(401, sentence, {"WWW-Authenticate": "Bearer"})


def _sent_keys(request: Request) -> Iterator[str]:
    """What may be a key in a request."""
    scheme, _, rest = request.headers.get("authorization", "").strip().partition(" ")
    if scheme.lower() == "basic":
        user, _, password = _decoded(rest).partition(":")
        yield password or user
    else:
        yield rest or scheme  # some clients name no scheme
    for name in KEY_HEADERS:
        if name in request.headers:
            yield request.headers[name]
    if b"key=" in request.scope["query_string"]:
        yield request.query_params.get(KEY_PARAMETER, "")


def _decoded(credentials: str) -> str:
    """The text of HTTP's basic credentials; "" for what is none."""
    try:
        return base64.b64decode(credentials, validate=True).decode()
    except ValueError:
        return ""


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.strip().encode(errors="replace")).digest()
