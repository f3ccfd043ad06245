"""The keys of a gateway, and the headers and the parameter in which clients send one."""

import base64
import hashlib
import hmac
from collections.abc import Iterator, Sequence

from starlette.datastructures import QueryParams
from starlette.requests import Request
from starlette.types import Scope

from e5.gateway.refusals import RefusalError

KEY_HEADERS = ("x-api-key", "api-key", "x-goog-api-key")
_KEY_HEADERS = frozenset(name.encode() for name in KEY_HEADERS)
KEY_PARAMETER = "key"  # of the URL's query, where older Google clients put it


class Keys:
    """The keys of one gateway. Their digests are kept, and compared in constant time."""

    def __init__(self, keys: Sequence[str]) -> None:
        """Take the keys; without any, every request may pass."""
        self._digests = [_digest(key.encode()) for key in keys]

    def check(self, request: Request) -> None:
        """Let a request pass if it carries a key.

        Raises:
            RefusalError: 401, if it carries none, or none of these.
        """
        if not self._digests:
            return
        sent = [_digest(key) for key in _sent_keys(request.scope)]
        # Every pair is compared, so the time says nothing of which key is right.
        known = [hmac.compare_digest(one, key) for one in sent for key in self._digests]
        if not any(known):
            sentence = (
                "the key is missing or wrong; send Authorization: Bearer KEY (or Token, or Basic "
                f"with the key as the password), {', '.join(KEY_HEADERS)}, or ?{KEY_PARAMETER}=KEY."
            )
            raise RefusalError(401, sentence, {"WWW-Authenticate": "Bearer"})


def _sent_keys(scope: Scope) -> Iterator[bytes]:
    """All values in a request that may be a key."""
    for name, value in scope["headers"]:
        if name == b"authorization":
            scheme, _, rest = value.strip().partition(b" ")
            yield _password(rest) if scheme.lower() == b"basic" else rest or scheme
        elif name in _KEY_HEADERS:
            yield value
    if b"key=" in scope["query_string"]:
        yield QueryParams(scope["query_string"]).get(KEY_PARAMETER, "").encode()


def _password(credentials: bytes) -> bytes:
    """The password in HTTP's basic credentials, or the user where there is none."""
    try:
        user, _, password = base64.b64decode(credentials, validate=True).partition(b":")
    except ValueError:
        return b""
    return password or user


def _digest(key: bytes) -> bytes:
    return hashlib.sha256(key.strip()).digest()
