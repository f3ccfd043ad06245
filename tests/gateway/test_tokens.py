"""Token ids for those who count: the embedder's own, in the form of each client."""

from typing import Any

import pytest
from checkpoints import true_ids
from gateway_tools import FakeBackend, LocalGateway, sentence_of

from e5.embedder import Embedder
from e5.gateway import tokens
from e5.prompts import query_prompt

TEXTS = ["snow", "", " ", "a\nb  c", "</s> is text", "Éclair 😀 مرحبا", "snow " * 5000]
PROMPTED = query_prompt("web_search_query", "snow")
OWN = "Instruct: Find twins\nQuery: snow"


@pytest.mark.parametrize("path", ["/tokenize", "/v1/tokenize"])
class TestTokenize:
    def test_text_embeddings_inferences_form(self, local: LocalGateway, path: str) -> None:
        answer = local.post(path, {"inputs": TEXTS}).json()
        for text, found in zip(TEXTS, answer, strict=True):
            assert [token["id"] for token in found] == list(true_ids(text, 1_000_000))
            first, *body, last = found
            for token, end in ((first, "<s>"), (last, "</s>")):
                assert token["text"] == end
                assert token["special"]
                assert token["start"] is token["stop"] is None
            for token in body:
                assert not token["special"]
                part = text.encode()[token["start"] : token["stop"]]
                of_bytes = {f"<0x{byte:02X}>" for byte in part}
                assert token["text"] == part.decode() or token["text"] in of_bytes
        assert local.post(path, {"inputs": "snow"}).json() == answer[:1]

    def test_coheres_form(self, local: LocalGateway, path: str) -> None:
        for text in TEXTS:
            answer = local.post(path, {"text": text, "model": "small"}).json()
            assert answer["tokens"] == list(true_ids(text, 1_000_000))
            assert len(answer["token_strings"]) == len(answer["tokens"])
            assert (answer["token_strings"][0], answer["token_strings"][-1]) == ("<s>", "</s>")

    def test_vllms_form(self, local: LocalGateway, path: str) -> None:
        for text in TEXTS:
            answer = local.post(path, {"prompt": text, "model": "small"}).json()
            ids = list(true_ids(text, 1_000_000))
            expected = {"count": len(ids), "max_model_len": 4096, "tokens": ids, "token_strs": None}
            assert answer == expected
        answer = local.post(path, {"prompt": "snow", "return_token_strs": True}).json()
        assert answer["token_strs"][:1] + answer["token_strs"][-1:] == ["<s>", "</s>"]

    def test_without_both_ends_if_asked(self, local: LocalGateway, path: str) -> None:
        body = list(true_ids("snow"))[1:-1]
        without = {"add_special_tokens": False}
        [found] = local.post(path, {"inputs": "snow", **without}).json()
        assert [token["id"] for token in found] == body
        assert local.post(path, {"text": "snow", **without}).json()["tokens"] == body
        assert local.post(path, {"prompt": "snow", **without}).json()["tokens"] == body

    @pytest.mark.parametrize(
        "role",
        [{"prompt_name": "query"}, {"model": "small-query"}, {"model": "small-query:latest"}],
    )
    def test_a_query_is_counted_with_its_prompt(
        self, local: LocalGateway, path: str, role: dict[str, str]
    ) -> None:
        with_prompt = list(true_ids(PROMPTED))
        [found] = local.post(path, {"inputs": "snow", **role}).json()
        assert [token["id"] for token in found] == with_prompt
        assert local.post(path, {"text": "snow", **role}).json()["tokens"] == with_prompt
        assert local.post(path, {"prompt": OWN, **role}).json()["tokens"] == list(true_ids(OWN))

    def test_the_count_is_that_of_embedding(self, local: LocalGateway, path: str) -> None:
        texts = [text for text in TEXTS[:-1] if text.strip()]
        for model in ("small", "small-query"):
            body = {"input": texts, "model": model}
            read = local.post("/v1/embeddings", body).json()["usage"]["tokens"]
            counted = [
                local.post(path, {"prompt": text, "model": model}).json()["count"] for text in texts
            ]
            assert counted == read

    @pytest.mark.slow
    @pytest.mark.parametrize(
        ("body", "start"),
        [
            ({}, "inputs: received nothing"),
            ({"inputs": ["a", 5]}, "inputs[1]: received 5"),
            ({"inputs": []}, "inputs: received no text"),
            ({"inputs": 5}, "inputs: received 5"),
            ({"text": 5}, "text: received 5"),
            ({"prompt": ["a"]}, 'prompt: received ["a"]'),
            ({"inputs": "a", "prompt_name": "snow"}, 'prompt_name: received "snow"'),
            ({"inputs": ["a" * 999_999, "bb"]}, "inputs: received 1000001 bytes"),
            ({"text": "\ufdfa" * 40_000}, "text: received 1320000 bytes"),  # 33 each in NFKD
        ],
    )
    def test_what_is_wrong_is_named(
        self, local: LocalGateway, path: str, body: dict[str, Any], start: str
    ) -> None:
        assert sentence_of(local.post(path, body), 400).startswith(start)

    def test_a_model_that_is_not_here_is_404(self, local: LocalGateway, path: str) -> None:
        for field in ("text", "prompt", "inputs"):
            body = {field: "a", "model": "gpt"}
            assert 'received "gpt"' in sentence_of(local.post(path, body), 404)


class TestDecode:
    def test_ids_become_the_text_again(self, local: LocalGateway) -> None:
        texts = [text for text in TEXTS if text]
        ids = [list(true_ids(text, 1_000_000)) for text in texts]
        assert local.post("/decode", {"ids": ids}).json() == texts
        assert local.post("/decode", {"ids": ids[0]}).json() == texts[:1]
        assert local.post("/decode", {"ids": [[]]}).json() == [""]
        for path in ("/detokenize", "/v1/detokenize"):
            for text, each in zip(texts, ids, strict=True):
                answer = local.post(path, {"tokens": each, "model": "small"}).json()
                assert answer == {"text": text, "prompt": text}  # Cohere's clients; vLLM's

    def test_special_tokens_are_shown_if_asked(self, local: LocalGateway) -> None:
        ids = list(true_ids("snow"))
        shown = local.post("/decode", {"ids": ids, "skip_special_tokens": False}).json()
        assert shown == ["<s> snow</s>"]

    @pytest.mark.parametrize(
        ("path", "body", "start"),
        [
            ("/decode", {}, "ids: received nothing"),
            ("/decode", {"ids": []}, "ids: received no token id"),
            ("/decode", {"ids": "a"}, 'ids: received "a"'),
            ("/decode", {"ids": [1, 32000]}, "ids[1]: received 32000; send token ids from 0 to"),
            ("/decode", {"ids": [1, -1]}, "ids[1]: received -1"),
            ("/decode", {"ids": [[1], [2, "a"]]}, 'ids[1][1]: received "a"'),
            ("/decode", {"ids": [[1], 2]}, "ids[1]: received 2; send a list"),
            ("/decode", {"ids": [1, True]}, "ids[1]: received true"),
            ("/decode", {"ids": [1.5]}, "ids[0]: received 1.5"),
            ("/v1/detokenize", {"tokens": [99999]}, "tokens[0]: received 99999"),
            ("/detokenize", {"tokens": None}, "tokens: received nothing"),
        ],
    )
    def test_what_is_wrong_is_named(
        self, local: LocalGateway, path: str, body: dict[str, Any], start: str
    ) -> None:
        assert sentence_of(local.post(path, body), 400).startswith(start)


class TestCounting:
    @pytest.mark.parametrize("parents", ["/v1beta/models", "/v1/publishers/google/models"])
    def test_googles_form(self, local: LocalGateway, parents: str) -> None:
        contents = [{"parts": [{"text": "snow"}, {"text": "falls"}]}, {"parts": [{"text": "a"}]}]
        answer = local.post(f"{parents}/small:countTokens", {"contents": contents}).json()
        assert answer == {"totalTokens": len(true_ids("snow\nfalls")) + len(true_ids("a"))}
        answer = local.post(f"{parents}/small-query:countTokens", {"contents": contents[1:]}).json()
        assert answer == {"totalTokens": len(true_ids(query_prompt("web_search_query", "a")))}

    def test_what_is_wrong_is_named(self, local: LocalGateway) -> None:
        refused = local.post("/v1beta/models/small:countTokens", {"contents": [{}]})
        assert sentence_of(refused, 400).startswith("contents[0].parts: received nothing")


def test_a_long_word_is_not_written_once_for_each_of_its_bytes() -> None:
    found = LocalGateway(FakeBackend()).post("/tokenize", {"inputs": "雪" * 2000})
    [tokens] = found.json()  # of the built-in tokenizer, which knows none of it
    assert len(tokens) > 6000
    assert len(found.content) < 100 * len(tokens)


def test_a_key_is_needed() -> None:
    local = LocalGateway(FakeBackend(), keys=["k"])
    for path, body in (("/tokenize", {"inputs": "a"}), ("/decode", {"ids": [1]})):
        assert sentence_of(local.post(path, body), 401)
        assert local.post(path, body, {"authorization": "Bearer k"}).status_code == 200


def test_most_bytes_have_few_tokens_each(embedder: Embedder) -> None:
    """What the limit rests on: with this tokenizer no character has more tokens than bytes."""
    for character in ("\ufdfa", "😀", "é", "雪", "\x00", "\U0010ffff"):
        count = len(embedder.prompt_tokenizer.tokenizer.all_tokens(character * 100).ids)
        assert count <= 100 * len(character.encode()) + 3
    assert tokens.MAX_BYTES == 1_000_000
