"""The page in a browser: opened in front of a gateway, filled in, run, and read.

Knows the page's fields and what its results look like, and nothing of what is right.
"""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
from browser import CHROMIUM, Browser, Tab
from gateway_server import GatewayServer

from e5.vectors import Vectors

MARKUP = "<img src=x onerror=window.ran=1><script>window.ran=1</script> guards her eggs"
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium, as Debian has it")


@contextmanager
def calm_page(browser: Browser, gateway: GatewayServer) -> Iterator[Tab]:
    """The page, which asks nobody else and does nothing that the console complains about."""
    tab = browser.new_tab()
    tab.open(gateway.url)
    yield tab
    tab.run("0")  # what was told before this answer has been heard
    assert tab.problems == [], tab.problems
    assert [url for url in tab.requested if not url.startswith(f"{gateway.url}/")] == []
    assert tab.run("window.ran") is None


def fill(tab: Tab, **fields: str | Sequence[str]) -> None:
    """Values for fields, by id, as a person would put them in."""
    for name, value in fields.items():
        tab.run(f"$({name!r}).focus()")
        tab.type(value if isinstance(value, str) else "\n".join(value))


def choose(tab: Tab, task: str) -> None:
    tab.run(f"$('task').value = {task!r}; $('task').dispatchEvent(new Event('change'))")


def run(tab: Tab, form: str = "compare", status: str = "compared-status") -> str:
    """Run it; what is said in the end."""
    tab.run(f"document.querySelector('#{form} form').requestSubmit()")
    shown = f"$({status!r}).textContent"
    said: str = tab.wait_for(f"!/^Asking|^Run|^The nearest|^Paste/.test({shown}) && {shown}")
    return said


def lines(tab: Tab, field: str) -> list[str]:
    return str(tab.run(f"$({field!r}).value")).split("\n")


def ranking(tab: Tab) -> list[dict[str, Any]]:
    """The ranked bars, as texts, with the lengths of the bars."""
    found: list[dict[str, Any]] = tab.run(
        "[...document.querySelectorAll('.ranked li')].map((li) => ({"
        "  spans: [...li.querySelectorAll('span')].map((span) => span.textContent),"
        "  bars: [...li.querySelectorAll('.bar')].map((bar) => "
        "    parseFloat(getComputedStyle(bar, '::before').width) / bar.clientWidth) }))"
    )
    return found


def agrees(tab: Tab, scores: Vectors, bare: Vectors) -> None:
    """The bars are those of one query's scores with the instruction and without."""
    documents = lines(tab, "documents")
    rows = ranking(tab)
    order = np.argsort(-scores)
    assert [row["spans"][0] for row in rows] == [
        f"{rank}. {documents[i]}" for rank, i in enumerate(order, 1)
    ]
    ranks = np.argsort(np.argsort(-bare)) + 1
    for row, i in zip(rows, order, strict=True):
        assert float(row["spans"][1]) == pytest.approx(scores[i], abs=0.1)
        without = re.fullmatch(r"without (\S+), rank (\d+)", row["spans"][2])
        assert without is not None
        assert float(without[1]) == pytest.approx(bare[i], abs=0.1)
        assert int(without[2]) == ranks[i]
        expected = [max(0, scores[i] / 100), max(0, bare[i] / 100)]
        assert row["bars"] == pytest.approx(expected, abs=0.01)
