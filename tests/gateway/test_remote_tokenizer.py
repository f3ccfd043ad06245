"""Before a remote service, token ids come from a folder's tokenizer, if that is the service's."""

import asyncio
import json
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from checkpoints import save_tokenizer, true_ids
from fake_cog import FakeCog, Inputs, fake_cog, output_of
from fake_http import Reply
from gateway_tools import INFO, LocalGateway, sentence_of

from e5.gateway.backend import RemoteBackend
from e5.gateway.remote_tokenizer import PROBE_TEXTS
from e5.prompts import DEFAULT_TASK, E5_PROMPTS, Prompts, query_prompt

TOKENIZE = "/tokenize"


def counting(prompts: Prompts = E5_PROMPTS) -> Callable[[int, Inputs], Reply]:
    """Answers as a service with Mistral's tokenizer and these prompts."""

    def answer(_: int, inputs: Inputs) -> Reply:
        output = output_of(inputs)
        queries = [query_prompt(DEFAULT_TASK, text, prompts=prompts) for text in inputs["queries"]]
        texts = [*queries, *(prompts.before_document + text for text in inputs["documents"])]
        output["usage"]["tokens"] = [len(true_ids(text)) for text in texts]
        return 200, {"status": "succeeded", "output": output}

    return answer


@pytest.fixture
def service() -> Iterator[FakeCog]:
    with fake_cog(counting()) as running:
        yield running


@pytest.fixture(scope="module")
def mistral(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with Mistral's tokenizer, and without weights."""
    folder = tmp_path_factory.mktemp("weights") / "mistral"
    save_tokenizer(folder)
    return folder


def asked(url: str, weights: Path | None, *bodies: dict[str, Any]) -> list[httpx2.Response]:
    """The responses of a gateway before the service."""

    async def story() -> list[httpx2.Response]:
        local = LocalGateway(RemoteBackend(url, INFO, weights=weights, deadline=5))
        async with local.client() as client:
            responses = [await client.post(TOKENIZE, json=body) for body in bodies]
        await local.gateway.close()
        return responses

    return asyncio.run(story())


def test_the_folders_tokenizer_gives_the_ids(service: FakeCog, mistral: Path) -> None:
    first, second = asked(service.url, mistral, {"prompt": "snow"}, {"prompt": "rain"})
    assert first.json()["tokens"] == list(true_ids("snow"))
    assert second.json()["tokens"] == list(true_ids("rain"))
    # The service is asked once whether it counts the same.
    [inputs] = service.inputs
    assert inputs["queries"] == inputs["documents"] == list(PROBE_TEXTS)


def test_so_do_the_prompts_of_its_files(service: FakeCog, mistral: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(mistral, tmp_path / "other")
    prompts = {"query": "query: ", "passage": "passage: "}
    config = folder / "config_sentence_transformers.json"
    config.write_text(json.dumps({"prompts": prompts}))
    bodies: list[dict[str, Any]] = [{"prompt": "snow", "prompt_name": "query"}, {"prompt": "snow"}]
    with fake_cog(counting(Prompts("query: {query}", "passage: "))) as other:
        responses = asked(other.url, folder, *bodies)
    found = [response.json()["tokens"] for response in responses]
    assert found == [list(true_ids("query: snow")), list(true_ids("passage: snow"))]
    [response] = asked(service.url, folder, bodies[0])  # whose prompts are E5's
    assert sentence_of(response, 404).startswith("E5_WEIGHTS: received the tokenizer of another")


def test_a_tokenizer_of_another_model_is_refused(service: FakeCog) -> None:
    other = Path(__file__).parents[2] / "weights/e5-mini"
    [response] = asked(service.url, other, {"prompt": "snow"})
    sentence = sentence_of(response, 404)
    assert sentence.startswith("E5_WEIGHTS: received the tokenizer of another model; set it")


@pytest.mark.parametrize("folder", [None, "nothing", "empty", "damaged", "manifest"])
def test_without_one_the_refusal_has_the_operators_remedy(
    folder: str | None, service: FakeCog, mistral: Path, tmp_path: Path
) -> None:
    for name in ("empty", "damaged"):
        (tmp_path / name).mkdir()
    (tmp_path / "damaged" / "tokenizer.json").write_text("{}")
    shutil.copytree(mistral, tmp_path / "manifest")
    (tmp_path / "manifest" / "manifest.json").write_text(json.dumps({"files": 5}))
    [response] = asked(
        service.url, None if folder is None else tmp_path / folder, {"prompt": "snow"}
    )
    sentence = sentence_of(response, 404)
    missing = "no" if folder in (None, "nothing", "empty") else "a damaged"
    assert sentence.startswith(f"E5_WEIGHTS: received {missing} tokenizer.json")
    assert sentence.endswith(
        "; set it, on the gateway, to a folder with the served model's tokenizer.json."
    )
    assert str(tmp_path) not in response.text  # which is the operator's
    assert not service.inputs


@pytest.mark.slow
def test_a_service_that_cannot_be_asked_is_another_refusal(mistral: Path) -> None:
    with fake_cog(counting()) as service:
        url = service.url
    [response] = asked(url, mistral, {"prompt": "a"})
    assert "cannot be reached" in sentence_of(response, 503)


def test_without_the_package_tokenizers_it_says_what_to_install(
    service: FakeCog, mistral: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "tokenizers", None)  # as if it were not installed
    for name in ("e5.prompt_tokenizer", "e5.tokenizer"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    [response] = asked(service.url, mistral, {"prompt": "a"})
    assert sentence_of(response, 404) == (
        "the gateway's tokenizer: its package tokenizers is not installed; run pip install "
        "tokenizers there, and set E5_WEIGHTS to a folder with the served model's tokenizer.json."
    )
