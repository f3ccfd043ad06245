"""The page shows what the model says, runs nothing but its own script, and works by keyboard alone.

The truth of every number is an `Embedder` on the same checkpoint. The page runs in a real browser
in front of the real gateway; what the file itself holds is looked at without one.
"""

import base64
import hashlib
import json
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from typing import Any

import numpy as np
import pytest
from browser import Browser, Tab
from gateway_server import GatewayServer
from page_tools import MARKUP, agrees, calm_page, choose, fill, lines, needs_chromium, ranking, run

from e5.embedder import Embedder
from e5.gateway.page import PAGE_FILE, prepare_page
from e5.prompts import DEFAULT_TASK, TASKS


class Parts(HTMLParser):
    """What stands in a page: its elements with their attributes, and what is inside scripts."""

    def __init__(self, html: bytes) -> None:
        """Read a page."""
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.inside: list[str] = []
        self.open = False
        self.feed(html.decode())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self.inside.append("")
        self.open = True

    def handle_endtag(self, tag: str) -> None:  # noqa: ARG002  # html.parser names it
        self.open = False

    def handle_data(self, data: str) -> None:
        if self.open:
            self.inside[-1] += data

    def all(self, tag: str) -> list[tuple[dict[str, str | None], str]]:
        """The attributes and the text of each element of a tag."""
        pairs = zip(self.elements, self.inside, strict=True)
        return [(attributes, inside) for (name, attributes), inside in pairs if name == tag]


class TestWhatIsServed:
    page = prepare_page(model="e5-mini", keyed=False, search=True, audit=True)
    parts = Parts(page.html)
    policy = page.headers["Content-Security-Policy"]

    def facts(self, html: bytes) -> dict[str, Any]:
        facts: dict[str, Any] = json.loads(Parts(html).all("script")[0][1])
        return facts

    @pytest.mark.parametrize(
        ("tag", "directive"), [("script", "script-src"), ("style", "style-src")]
    )
    def test_the_policy_names_exactly_the_script_and_the_style_of_the_page(
        self, tag: str, directive: str
    ) -> None:
        (inside,) = (text for attributes, text in self.parts.all(tag) if not attributes)
        digest = base64.b64encode(hashlib.sha256(inside.encode()).digest()).decode()
        assert f"; {directive} 'sha256-{digest}';" in self.policy
        assert "default-src 'none';" in self.policy
        assert "frame-ancestors 'none'" in self.policy
        assert "unsafe" not in self.policy

    def test_nothing_else_runs_and_nothing_comes_from_elsewhere(self) -> None:
        data = [attributes for attributes, _ in self.parts.all("script") if attributes]
        assert data == [{"type": "application/json", "id": "facts"}]
        for tag, attributes in self.parts.elements:
            assert not [name for name in attributes if name.startswith("on") or name == "style"]
            assert "src" not in attributes, tag
            assert attributes.get("href") in (None, "data:,", "openapi.json"), tag
        source = PAGE_FILE.read_text(encoding="utf-8")
        assert not re.search(r"https?://|@import|url\(|import\(|innerHTML|eval\(", source)

    def test_every_registered_task_is_in_the_page(self) -> None:
        tasks = self.facts(self.page.html)["tasks"]
        assert {name: (task.instruction, task.symmetric) for name, task in TASKS.items()} == {
            name: tuple(task) for name, task in tasks.items()
        }

    def test_the_page_knows_its_server(self) -> None:
        facts = self.facts(prepare_page(model="m", keyed=True, search=False, audit=True).html)
        assert (facts["model"], facts["keyed"]) == ("m", True)
        assert (facts["search"], facts["audit"]) == (False, True)

    def test_a_model_name_cannot_become_markup(self) -> None:
        name = "</script><script>alert(1)</script><!--"
        page = prepare_page(model=name, keyed=False, search=True, audit=True)
        assert self.facts(page.html)["model"] == name
        assert len(Parts(page.html).elements) == len(self.parts.elements)
        assert page.headers == self.page.headers


@pytest.fixture
def tab(browser: Browser, gateway: GatewayServer) -> Iterator[Tab]:
    with calm_page(browser, gateway) as opened:
        yield opened


@needs_chromium
@pytest.mark.slow
class TestScores:
    def test_the_example_is_ranked_as_the_model_ranks_it(
        self, tab: Tab, python: Embedder, gateway: GatewayServer
    ) -> None:
        said = run(tab)
        assert re.fullmatch(r"6 documents, 1 query in \d+ ms\.", said)
        queries, documents = lines(tab, "queries"), lines(tab, "documents")
        vectors = python.encode_document(documents)
        scores = python.similarity(python.encode_query(queries, task="web_search_query"), vectors)[
            0
        ]
        agrees(tab, scores, python.similarity(python.encode_document(queries), vectors)[0])
        told = tab.run("document.querySelector('.facts').innerText").replace("\n\n", "\n")
        assert f"Model\n{python.name}" in told
        assert f"Before queries\n{DEFAULT_TASK}\nBefore documents\nnothing" in told
        answer = gateway.client.post("/v1/embeddings", json={"input": documents}).json()
        tokens = [f"{tokens} tokens" for tokens in answer["usage"]["tokens"]]
        assert [row["spans"][3] for row in ranking(tab)] == [tokens[i] for i in np.argsort(-scores)]

    def test_a_symmetric_task_goes_on_both_sides(self, tab: Tab, python: Embedder) -> None:
        choose(tab, "sts_query")
        assert lines(tab, "instruction") == [TASKS["sts_query"].instruction]
        run(tab)
        queries, documents = lines(tab, "queries"), lines(tab, "documents")
        prompted = python.encode_document(documents, task="sts_query")
        scores = python.similarity(python.encode_query(queries, task="sts_query"), prompted)[0]
        bare = python.similarity(
            python.encode_document(queries), python.encode_document(documents)
        )[0]
        agrees(tab, scores, bare)

    def test_an_instruction_of_ones_own_is_used(self, tab: Tab, python: Embedder) -> None:
        fill(tab, instruction="Find the animal in this sentence")
        assert tab.run("$('task').value") == ""
        run(tab)
        queries, documents = lines(tab, "queries"), lines(tab, "documents")
        vectors = python.encode_document(documents)
        asked = python.encode_query(queries, task="Find the animal in this sentence")
        bare = python.similarity(python.encode_document(queries), vectors)[0]
        agrees(tab, python.similarity(asked, vectors)[0], bare)

    def test_several_queries_give_a_heat_map(self, tab: Tab, python: Embedder) -> None:
        queries = ["what is the recommended sugar intake for women", "what does a spider do"]
        fill(tab, queries=queries)
        assert re.fullmatch(r"6 documents, 2 queries in \d+ ms\.", run(tab))
        documents = lines(tab, "documents")
        vectors = python.encode_document(documents)
        scores = python.similarity(python.encode_query(queries), vectors).T
        bare = python.similarity(python.encode_document(queries), vectors).T
        head = "[...document.querySelectorAll('th[scope=%s] .text')].map((th) => th.textContent)"
        assert tab.run(head % "col") == queries
        assert tab.run(head % "row") == documents
        cells = tab.run("[...document.querySelectorAll('tbody td')].map((td) => td.innerText)")
        numbers = np.array([re.findall(r"-?\d+\.\d", cell) for cell in cells], float)
        np.testing.assert_allclose(numbers[:, 0].reshape(scores.shape), scores, atol=0.1)
        np.testing.assert_allclose(numbers[:, 1].reshape(scores.shape), bare, atol=0.1)
        framed = tab.run("[...document.querySelectorAll('td')].map((td) => td.matches('.best'))")
        np.testing.assert_array_equal(
            np.reshape(framed[1:], scores.shape), scores == scores.max(axis=0)
        )
        part = "[...document.querySelectorAll('tbody td')].map((td) => td.style.cssText)"
        strength = np.array([float(text[:-1].split(":")[1]) for text in tab.run(part)])
        expected = (scores - scores.min()) / (scores.max() - scores.min())
        np.testing.assert_allclose(strength.reshape(scores.shape), expected, atol=0.001)

    def test_a_truncated_text_is_shown_as_such(self, tab: Tab) -> None:
        fill(tab, documents=["snow " * 5000, "Snow falls."])
        run(tab)
        assert sorted(row["spans"][3] for row in ranking(tab)) == [
            "4096 tokens, truncated",
            "5 tokens",
        ]

    def test_a_heat_map_has_an_end(self, tab: Tab) -> None:
        tab.run("$('queries').value = Array.from({ length: 60 }, (_, i) => `q ${i}`).join('\\n')")
        tab.run("$('documents').value = Array.from({ length: 200 }, () => 'snow').join('\\n')")
        assert run(tab).startswith("200 documents, 60 queries")
        assert tab.run("document.querySelectorAll('tbody td').length") == 200 * 50
        assert "Only the first 50 queries are shown." in tab.run("$('compared').innerText")


@needs_chromium
@pytest.mark.slow
class TestTrust:
    def test_markup_is_shown_and_not_run(self, tab: Tab) -> None:
        fill(tab, documents=[MARKUP, "Snow is frozen water."], queries=MARKUP)
        run(tab)
        assert MARKUP in " ".join(row["spans"][0] for row in ranking(tab))
        fill(tab, queries=[MARKUP, "snow"])
        run(tab)
        assert tab.run("document.querySelectorAll('img').length") == 0
        assert MARKUP in tab.run("document.querySelector('table').innerText")

    @pytest.mark.parametrize(
        "attack",
        [
            "fetch('http://elsewhere.invalid/').catch(() => 0)",
            "document.body.innerHTML = '<img src=x onerror=window.ran=1>'",
            "document.body.append(Object.assign(document.createElement('img'), {src: 'x.png'}))",
        ],
    )
    def test_the_policy_would_stop_what_the_page_does_not_do(
        self, attack: str, browser: Browser, gateway: GatewayServer
    ) -> None:
        tab = browser.new_tab()
        tab.open(gateway.url)
        tab.run(f"(() => {{ try {{ {attack} }} catch {{}} }})()")
        tab.run("new Promise((done) => setTimeout(done, 100))")
        assert tab.problems != []
        assert tab.run("window.ran") is None

    def test_an_error_is_shown_as_its_sentence(self, tab: Tab, gateway: GatewayServer) -> None:
        fill(tab, instruction="websearchquery")
        body = {"input": "snow", "task": "websearchquery"}
        answer = gateway.client.post("/v1/embeddings", json=body)
        assert answer.status_code == 400
        assert run(tab) == f"Queries: {answer.json()['message']}"
        assert tab.run("$('compared').children.length") == 0
        fill(tab, documents="")
        choose(tab, "SciFact")
        assert run(tab) == "Documents: input: received no text; send at least one."

    def test_a_server_that_does_not_answer_is_reported(
        self, browser: Browser, gateway: GatewayServer
    ) -> None:
        tab = browser.new_tab()
        tab.open(gateway.url)
        nothing = {"latency": 0, "downloadThroughput": -1, "uploadThroughput": -1}
        tab.send("Network.emulateNetworkConditions", offline=True, **nothing)
        said = run(tab)
        assert said.startswith("the request could not be sent (")
        assert said.endswith("); is the server running?")
