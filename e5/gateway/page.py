"""The page at `/`: `page.html`, with the server's facts in it and the headers that guard it.

The browser runs the one script and the one style of the file, named by their hashes, and sends
requests to this server alone.
"""

import base64
import hashlib
import json
import re
from dataclasses import dataclass
from pathlib import Path

from e5.prompts import TASKS

PAGE_FILE = Path(__file__).with_name("page.html")
FACTS_PLACEHOLDER = "__FACTS__"  # in page.html, once


@dataclass(frozen=True)
class Page:
    """The page of one server.

    Attributes:
        html: UTF-8.
        headers: of the response.
    """

    html: bytes
    headers: dict[str, str]


def prepare_page(*, model: str, keyed: bool, search: bool, audit: bool) -> Page:
    """Make the page of one server, once, at its start.

    Args:
        model: the name that code copied from the page asks for.
        keyed: whether requests need a key, so that the page has a field for it.
        search: whether there is an index to search.
        audit: whether vectors can be audited.

    Example:
        >>> page = prepare_page(model="e5-mini", keyed=False, search=True, audit=False)
        >>> b'"keyed": false, "search": true, "audit": false, "tasks": {' in page.html
        True
    """
    facts = {
        "model": model,
        "keyed": keyed,
        "search": search,
        "audit": audit,
        "tasks": {name: [task.instruction, task.symmetric] for name, task in TASKS.items()},
    }
    html = PAGE_FILE.read_text(encoding="utf-8")
    # A browser ends the script at the first "</script", wherever it stands.
    html = html.replace(FACTS_PLACEHOLDER, json.dumps(facts).replace("<", r"\u003c"), 1)
    policy = {
        "default-src": "'none'",
        "script-src": _hash_of("script", html),
        "style-src": _hash_of("style", html),
        "connect-src": "'self'",
        "img-src": "data:",  # the empty icon, without which browsers ask for one
        "base-uri": "'none'",
        "form-action": "'none'",
        "frame-ancestors": "'none'",
        "require-trusted-types-for": "'script'",  # a text cannot become markup
    }
    headers = {
        "Content-Security-Policy": "; ".join(f"{name} {value}" for name, value in policy.items()),
        "X-Content-Type-Options": "nosniff",
        "Referrer-Policy": "no-referrer",
    }
    return Page(html.encode(), headers)


def _hash_of(tag: str, html: str) -> str:
    """The policy's entry for the one element with this tag that has no attributes."""
    (inside,) = re.findall(rf"<{tag}>(.*?)</{tag}>", html, re.DOTALL)
    digest = hashlib.sha256(inside.encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"
