"""The page in people's hands: a keyboard, a phone, dark or light, code to take along, an index.

What is copied is run, and its vectors are compared with those of an `Embedder` on the same
checkpoint.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from typing import Any

import numpy as np
import pytest
from browser import Browser, Tab
from corpus_tools import embed, write_corpus
from gateway_server import GatewayServer, serve_gateway
from page_tools import MARKUP, calm_page, choose, fill, needs_chromium, ranking, run

from e5.corpora import Index
from e5.embedder import Embedder
from e5.vectors import Vectors

pytestmark = [pytest.mark.slow, needs_chromium]  # starts a browser and servers

KEY = "a-key-of-the-test"
AWKWARD = ['it\'s $HOME `date` \\ "quoted"', "JSON", "Éclair 😀 \u2028 مرحبا", MARKUP]
DOCUMENTS = [MARKUP, "Sugar cane is pressed in a mill.", "Snow is frozen water."]
PYTHON = {"openai": "[row.embedding for row in {}.data]", "langchain": "{}"}
# The ratio of contrast of every text that can be seen, where it is below 4.5.
PALE = """(() => {
  const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  const rgba = (colour) => {
    canvas.clearRect(0, 0, 1, 1); canvas.fillStyle = colour; canvas.fillRect(0, 0, 1, 1);
    return [...canvas.getImageData(0, 0, 1, 1).data];
  };
  const linear = (c) => (c /= 255) <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4;
  const light = ([r, g, b]) => 0.2126 * linear(r) + 0.7152 * linear(g) + 0.0722 * linear(b) + 0.05;
  const behind = (element) => {
    const colour = rgba(getComputedStyle(element).backgroundColor);
    return colour[3] === 255 ? colour : behind(element.parentElement);
  };
  const pale = [], walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  let seen = 0;
  while (walk.nextNode()) {
    const element = walk.currentNode.parentElement;
    if (!walk.currentNode.data.trim() || !element.checkVisibility()) continue;
    const [a, b] = [rgba(getComputedStyle(element).color), behind(element)].map(light);
    const ratio = Math.max(a, b) / Math.min(a, b);
    seen += 1;
    if (ratio < 4.5) pale.push([walk.currentNode.data, ratio]);
  }
  return { pale, seen };
})()"""


@pytest.fixture(scope="module")
def guarded(python: Embedder, tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayServer]:
    """Asks for a key, and has an index."""
    folder = tmp_path_factory.mktemp("guarded")
    (folder / "keys").write_text(f"{KEY}\n")
    shards = embed(write_corpus(folder / "in" / "a.jsonl", DOCUMENTS), folder / "out", python)
    Index.build(shards, str(folder / "index"))
    arguments = ("--keys", str(folder / "keys"), "--index", str(folder / "index"))
    with serve_gateway(*arguments) as running:
        yield running


@pytest.fixture
def tab(browser: Browser, gateway: GatewayServer) -> Iterator[Tab]:
    with calm_page(browser, gateway) as opened:
        yield opened


@pytest.fixture
def locked(browser: Browser, guarded: GatewayServer) -> Iterator[Tab]:
    with calm_page(browser, guarded) as opened:
        yield opened


def focused(tab: Tab) -> str:
    """What a person would call the element that has the focus."""
    found: str = tab.run(
        "(({ id, value, textContent }) => id || value || textContent)(document.activeElement)"
    )
    return found


class TestWithoutAMouse:
    def test_everything_is_reached_by_tab_in_the_order_of_reading(self, tab: Tab) -> None:
        order = []
        for _ in range(10):
            tab.press("Tab")
            order.append(focused(tab))
            assert tab.run("getComputedStyle(document.activeElement).outlineStyle") == "solid"
        form = ["queries", "documents", "task", "instruction", "Run"]
        assert order == ["compare", *form, "curl", "openai", "langchain", "openapi.json"]

    def test_a_query_is_typed_and_run(self, tab: Tab) -> None:
        tab.press("Tab")
        tab.press("Tab")
        tab.type("what does a spider do")
        tab.press("Enter", "Control")
        tab.wait_for("document.querySelector('.ranked')")
        assert "The female spider" in ranking(tab)[0]["spans"][0]
        assert focused(tab) == "queries"
        assert tab.run("$('compared-status').role") == "status"

    def test_a_new_run_ends_the_one_before_it(self, tab: Tab) -> None:
        tab.run("document.querySelector('#compare form').requestSubmit()")
        fill(tab, documents="Snow falls.")
        tab.press("Enter", "Control")
        tab.wait_for("document.querySelector('.ranked')")
        tab.run("new Promise((done) => setTimeout(done, 200))")
        assert len(ranking(tab)) == 1

    def test_every_field_has_a_label(self, locked: Tab) -> None:
        fields = "[...document.querySelectorAll('input, select, textarea')]"
        assert locked.run(f"{fields}.length") == 15
        assert locked.run(f"{fields}.every((field) => field.labels.length === 1)")


class TestScreens:
    def filled(self, tab: Tab, what: str) -> None:
        if what == "heat map":
            fill(tab, queries=["sugar", "x" * 300, "protein", "spider", "valve", "league"])
        elif what == "error":
            fill(tab, instruction="misspelt")
        elif what == "long words":
            fill(tab, queries="w" * 300, documents=["W" * 3000, "d"], instruction="i " + "I" * 300)
        run(tab)
        tab.run("document.querySelector('#copy button').click()")
        tab.wait_for("!$('snippet').hidden")

    @pytest.mark.parametrize("what", ["bars", "heat map", "error", "long words"])
    @pytest.mark.parametrize("width", [360, 1280])
    def test_nothing_is_wider_than_the_screen(self, width: int, what: str, tab: Tab) -> None:
        tab.show_as(width, 800)
        self.filled(tab, what)
        assert tab.run("document.scrollingElement.scrollWidth") <= width
        left = "[...document.querySelectorAll('.card')].map((card) => card.offsetLeft)"
        columns = {left for left in tab.run(left) if left}
        assert len(columns) == (1 if width == 360 else 2)
        heights = "[...document.querySelectorAll('button')].map((button) => button.offsetHeight)"
        assert min(height for height in tab.run(heights) if height) >= 44  # a finger's

    def test_a_phone_goes_to_the_results(self, tab: Tab) -> None:
        tab.show_as(360, 800)
        run(tab)
        top = "document.querySelector('.results').getBoundingClientRect().top"
        assert tab.run(top) == pytest.approx(0, abs=1)

    @pytest.mark.parametrize("what", ["bars", "heat map", "error"])
    @pytest.mark.parametrize("scheme", ["light", "dark"])
    def test_every_text_can_be_read(self, scheme: str, what: str, tab: Tab) -> None:
        tab.show_as(1280, 900, scheme)
        self.filled(tab, what)
        found = tab.run(PALE)
        assert found["pale"] == []
        assert found["seen"] > 15
        dark = "getComputedStyle(document.body).colorScheme, matchMedia('(prefers-color-scheme: "
        assert tab.run(f"{dark}dark)').matches") == (scheme == "dark")


class TestCopy:
    def copied(self, tab: Tab, form: str) -> str:
        """The snippet, as it lies in the clipboard."""
        tab.allow_clipboard()
        tab.run(f"document.querySelector('button[value={form}]').click()")
        assert tab.wait_for("$('copied').textContent") == "Copied."
        text: str = tab.run("navigator.clipboard.readText()")
        assert text == tab.run("$('snippet').textContent")
        return text

    def output(self, *command: str) -> str:
        environment = {**os.environ, "E5_API_KEY": KEY, "NO_PROXY": "*"}
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, check=False, timeout=120
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def are(self, vectors: Any, expected: Vectors) -> None:
        cosines = np.sum(np.asarray(vectors) * expected, axis=1)
        assert cosines.min() >= 0.999999
        assert len(vectors) == len(expected)

    @pytest.mark.parametrize("task", ["SciFact", "sts_query"])
    def test_curl_gives_the_same_vectors(self, task: str, locked: Tab, python: Embedder) -> None:
        if shutil.which("curl") is None:
            pytest.skip("needs curl")
        fill(locked, queries=AWKWARD, documents=AWKWARD, key=KEY)
        choose(locked, task)
        snippet = self.copied(locked, "curl")
        assert KEY not in snippet
        first, end = json.JSONDecoder().raw_decode(output := self.output("bash", "-c", snippet))
        second = json.loads(output[end:])
        vectors = [[row["embedding"] for row in answer["data"]] for answer in (first, second)]
        self.are(vectors[0], python.encode_query(AWKWARD, task=task, normalize=True))
        self.are(vectors[1], python.encode_document(AWKWARD, task=task, normalize=True))

    @pytest.mark.parametrize("form", PYTHON)
    @pytest.mark.parametrize("keyed", [False, True])
    def test_python_gives_the_same_vectors(
        self, form: str, keyed: bool, python: Embedder, request: pytest.FixtureRequest
    ) -> None:
        module = {"langchain": "langchain_openai"}.get(form, form)
        if find_spec(module) is None:
            pytest.skip(f"{module} is not installed")
        tab: Tab = request.getfixturevalue("locked" if keyed else "tab")
        fill(tab, queries=AWKWARD, documents=AWKWARD)
        snippet = self.copied(tab, form)
        assert KEY not in snippet
        sides = ", ".join(PYTHON[form].format(side) for side in ("queries", "documents"))
        code = f"{snippet}\nimport json\nprint(json.dumps([{sides}]))"
        vectors = json.loads(self.output(sys.executable, "-c", code))
        self.are(vectors[0], python.encode_query(AWKWARD, normalize=True))
        self.are(vectors[1], python.encode_document(AWKWARD, normalize=True))

    def test_without_a_clipboard_the_code_is_selected(self, tab: Tab) -> None:
        tab.run("Object.defineProperty(navigator, 'clipboard', { value: undefined })")
        tab.run("document.querySelector('button[value=openai]').click()")
        assert tab.wait_for("$('copied').textContent") == "Selected: press Ctrl+C to copy."
        assert tab.run("String(getSelection())") == tab.run("$('snippet').textContent.trim()")


class TestAGuardedGateway:
    def test_a_key_is_asked_for_and_kept_nowhere(self, locked: Tab, guarded: GatewayServer) -> None:
        assert run(locked).startswith("the key is missing or wrong; ")
        assert focused(locked) == "key"
        locked.type(KEY)
        locked.press("Enter", "Control")
        locked.wait_for("document.querySelectorAll('.ranked li').length === 6")
        stored = "[localStorage.length, sessionStorage.length, document.cookie, location.href]"
        assert locked.run(stored) == [0, 0, "", f"{guarded.url}/"]
        assert not [url for url in locked.requested if KEY in url]
        locked.open(guarded.url)
        assert locked.run("$('key').value") == ""

    def test_what_a_server_lacks_is_not_shown(self, tab: Tab) -> None:
        assert tab.run("$('keyed').hidden && $('to-search').hidden && $('search').hidden")

    def test_the_index_is_searched(self, locked: Tab, python: Embedder) -> None:
        locked.press("Tab")
        locked.press("ArrowRight")
        assert locked.run("$('compare').hidden && !$('search').hidden")
        fill(locked, key=KEY, query="what does a spider do", top="2")
        locked.press("Enter")
        locked.wait_for("document.querySelector('#found .ranked')")
        assert re.fullmatch(r"2 documents in \d+ ms\.", locked.run("$('found-status').innerText"))
        vectors = python.encode_document(DOCUMENTS)
        scores = python.similarity(python.encode_query(["what does a spider do"]), vectors)[0]
        best = np.argsort(-scores)[:2]
        assert [row["spans"][0] for row in ranking(locked)] == [
            f"{rank}. {DOCUMENTS[i]}" for rank, i in enumerate(best, 1)
        ]
        for row, i in zip(ranking(locked), best, strict=True):
            assert float(row["spans"][1]) == pytest.approx(scores[i], abs=0.1)
            assert row["spans"][2] == f"a-{i}"
        assert python.name in locked.run("$('found').innerText")
        fill(locked, query=" ")
        said = "query: received blank text; send text, or leave it out."
        assert run(locked, "search", "found-status") == said


class TestAudit:
    TEXT = "Snow is frozen water.\nIt falls in winter."

    @pytest.mark.parametrize(
        ("text", "verdict"), [(TEXT, "right"), (TEXT.replace("\n", " "), "newlines_replaced")]
    )
    def test_a_pasted_vector_gets_its_verdict(
        self, text: str, verdict: str, tab: Tab, python: Embedder
    ) -> None:
        tab.press("Tab")
        tab.press("ArrowRight")
        assert tab.run("$('compare').hidden && !$('audit').hidden")
        vector = json.dumps(python.encode_document(text, normalize=True).tolist())
        fill(tab, **{"audited-text": self.TEXT, "audited-vector": vector})
        assert re.fullmatch(rf"{verdict}, found in \d+ ms\.", run(tab, "audit", "audited-status"))
        shown = tab.run("$('audited').innerText")
        assert python.name in shown
        assert "1.0000" in shown
        assert "normalised" in shown
        if verdict != "right":
            assert "line breaks" in shown

    def test_what_is_no_vector_is_named(self, tab: Tab) -> None:
        tab.run("document.querySelector('input[value=audit]').click()")
        fill(tab, **{"audited-text": "snow", "audited-vector": "[0.1, ... 0.2]"})
        said = run(tab, "audit", "audited-status")
        assert said == (
            "vector: received a vector that was cut short by '...' when it was printed; send its "
            "numbers."
        )
