"""Replicate's clients get a prediction that has ended, with all that they read, or a sentence."""

from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gateway_tools import MODEL, FakeBackend, LocalGateway, sentence_of

from e5.embedder import Embedder
from e5.errors import NonFiniteError
from e5.gateway.limits import GatewayLimits
from e5.gateway.refusals import RefusalError
from e5.gateway.replicate_route import KeptPredictions

VERSION = "5c7d5dc6dd8bf75c1acaa8565735e7986bc5b66206b55cca93cb72c9bf15ccaa"  # one of Replicate's
INPUT: dict[str, Any] = {
    "query": "what is snow",
    "documents": ["Frozen water.", "A car."],
    "normalize": True,
}
BLANK = {"documents": ["a", " "]}
READ = {  # by some client; pydantic's v1 in Replicate's own for Python wants most of them
    *("id", "model", "version", "input", "output", "logs", "error", "status", "created_at"),
    *("started_at", "completed_at", "data_removed", "metrics", "urls", "source"),
}
WAYS: list[tuple[str, dict[str, Any], str]] = [  # a path, what the body says of a version; a model
    ("/v1/predictions", {}, "small"),
    ("/v1/predictions", {"version": VERSION}, "small"),
    ("/v1/predictions", {"version": MODEL.partition("@")[2]}, "small"),
    ("/v1/predictions", {"version": f"you/small:{VERSION}"}, "you/small"),
    ("/v1/predictions", {"version": "you/small"}, "you/small"),
    ("/predictions", {"version": VERSION}, "small"),  # the base URL may be the root
    ("/v1/models/you/small/predictions", {}, "you/small"),
    ("/models/you/small/predictions", {"stream": True}, "you/small"),
    ("/v1/models/small/predictions", {}, "small"),
    ("/v1/models/you/mine/predictions", {}, "you/mine"),
    ("/v1/deployments/you/small/predictions", {}, "you/small"),
    ("/deployments/you/small/predictions", {}, "you/small"),
    ("/v1/v1/deployments/you%2Fsmall/predictions/", {}, "you/small"),
]  # fmt: skip


@pytest.fixture(scope="module")
def quick() -> LocalGateway:
    return LocalGateway(FakeBackend(), aliases={"you/mine": "small-query"}, keys=["k"])


def ask(local: LocalGateway, path: str, body: Any) -> Any:
    return local.post(path, body, {"Authorization": "Token k"})


@pytest.mark.parametrize(("path", "more", "model"), WAYS)
def test_each_way_to_a_prediction_gives_a_whole_one(
    quick: LocalGateway, path: str, more: dict[str, Any], model: str
) -> None:
    response = ask(quick, path, {"input": INPUT, **more})
    assert response.status_code == 200, response.text
    prediction = response.json()
    assert prediction.keys() == READ
    assert prediction["status"] == "succeeded"
    assert (prediction["model"], prediction["version"]) == (model, MODEL.partition("@")[2])
    assert prediction["input"] == INPUT
    assert prediction["output"]["model"] == MODEL
    moments = [datetime.fromisoformat(prediction[f"{n}_at"]) for n in ("created", "completed")]
    assert moments == sorted(moments)
    assert prediction["metrics"]["predict_time"] >= 0
    assert prediction["urls"]["get"] == f"/v1/predictions/{prediction['id']}"
    assert response.headers["x-e5-prompt"].startswith("query ")


def test_the_output_is_that_of_cog_s_route(local: LocalGateway, embedder: Embedder) -> None:
    prediction = local.post("/v1/predictions", {"input": INPUT}).json()
    cog = local.post("/predictions", {"input": INPUT}).json()
    assert cog.keys() == {"status", "output"}  # as before
    assert prediction["output"] == cog["output"]
    vectors = np.array(prediction["output"]["embeddings"])
    truth = [
        embedder.encode_query([INPUT["query"]], normalize=True),
        embedder.encode_document(INPUT["documents"], normalize=True),
    ]
    assert (vectors * np.concatenate(truth)).sum(axis=1).min() >= 0.999999
    assert vectors.shape == (3, 64)


@pytest.mark.parametrize(
    ("path", "more", "status", "sentence"),
    [
        ("/v1/models/you/large/predictions", {}, 404, 'model: received "you/large"; send one '),
        ("/deployments/large/predictions", {}, 404, 'model: received "large"; send one of '),
        ("/v1/predictions", {"version": "you/large:1"}, 404, 'model: received "you/large"; send '),
        ("/v1/predictions", {"version": "ba9876543210"}, 404,
         'version: received "ba9876543210"; send 0123456789ab, or leave it out.'),
        ("/v1/predictions", {"version": 5}, 400, "version: received 5; send a string."),
        ("/v1/predictions", {"input": None}, 400, "input: received nothing; send "),
        ("/v1/predictions", {"webhook": "https://a.example"}, 400,
         'webhook: received "https://a.example"; leave it out: the answer to this request '),
        ("/models/you/small/predictions", {"webhook": 1}, 400, "webhook: received 1; leave it out"),
    ],
)  # fmt: skip
def test_what_cannot_be_had_is_refused_in_replicate_s_form(
    quick: LocalGateway, path: str, more: dict[str, Any], status: int, sentence: str
) -> None:
    response = ask(quick, path, {"input": INPUT, **more})
    assert sentence_of(response, status).startswith(sentence)
    assert response.json()["status"] == status


@pytest.mark.parametrize(("path", "more"), [way[:2] for way in WAYS])
def test_a_bad_text_is_named_and_its_status_is_a_number(
    quick: LocalGateway, path: str, more: dict[str, Any]
) -> None:
    response = ask(quick, path, {"input": BLANK, **more})
    sentence = sentence_of(response, 400)
    assert sentence == "documents[1]: received blank text; send text, or leave it out."
    # All that Replicate's client for Go reads; it takes no other types.
    body = response.json()
    assert (body["title"], body["status"], body["detail"]) == ("Bad Request", 400, sentence)
    unknown = quick.post(path, {"input": BLANK, **more})
    assert sentence_of(unknown, 401).startswith("the key is missing")


def test_cog_s_own_form_stays_where_no_version_is_named() -> None:
    local = LocalGateway(FakeBackend(outcome=NonFiniteError(0, "documents[0]")))
    body = local.post("/predictions", {"input": {"document": "a"}}).json()
    assert body["status"] == "failed"
    assert body["metrics"]["error"]["type"] == "NonFiniteError"
    named = local.post("/predictions", {"input": {"document": "a"}, "version": VERSION}).json()
    assert named["status"] == 400
    assert "metrics" not in named
    refused = local.post("/predictions", {"input": {"document": "a"}, "webhook": "http://a"}).json()
    assert refused["error"].startswith('InputError: webhook: received "http://a"; leave it out')


class TestAskedForAgain:
    """As Go's client does after each request, without `WithBlockUntilDone`."""

    @pytest.mark.parametrize("path", ["/v1/predictions/{}", "/predictions/{}"])
    def test_it_is_given_once_more(self, quick: LocalGateway, path: str) -> None:
        made = ask(quick, "/v1/models/you/small/predictions", {"input": INPUT}).json()
        headers = {"Authorization": "Bearer k"}
        url = path.format(made["id"])
        assert quick.get(url, headers=headers).json() == made
        assert quick.send("POST", f"{url}/cancel", headers=headers).json() == made
        assert quick.get(made["urls"]["get"], headers=headers).json() == made
        assert sentence_of(quick.get(url), 401)  # it holds texts

    def test_a_large_one_is_given_too(self) -> None:
        local = LocalGateway(FakeBackend(dimensions=4096))
        made = local.post("/v1/predictions", {"input": {"documents": ["a"] * 40}}).json()
        assert len(made["output"]["embeddings"]) == 40
        assert local.get(made["urls"]["get"]).json() == made

    @pytest.mark.parametrize("method", ["GET", "POST"])
    def test_one_that_is_not_kept_is_404_with_the_reason(self, method: str) -> None:
        local = LocalGateway(FakeBackend(), limits=GatewayLimits(kept_prediction_bytes=100))
        made = local.post("/v1/predictions", {"input": INPUT}).json()
        url = made["urls"]["get" if method == "GET" else "cancel"]
        sentence = sentence_of(local.send(method, url), 404)
        assert sentence.startswith(f'the prediction: received "{made["id"]}"; use the answer to ')

    def test_the_oldest_are_forgotten(self) -> None:
        kept = KeptPredictions(10)
        for i in range(5):
            kept.keep({"id": str(i)}, 4)
        assert [kept.find(name)["id"] for name in ("3", "4")] == ["3", "4"]
        for name in ("0", "1", "2", "5"):
            with pytest.raises(RefusalError, match="only the latest predictions are kept"):
                kept.find(name)
        kept.keep({"id": "large"}, 11)
        with pytest.raises(RefusalError):
            kept.find("4")
        kept.keep({"id": "small"}, 10)
        assert kept.find("small") == {"id": "small"}

    def test_several_fronts_find_each_others_in_a_folder(self, tmp_path: Path) -> None:
        names = [f"{i:032x}" for i in range(4)]
        one, other = KeptPredictions(10, tmp_path), KeptPredictions(10, tmp_path)
        for name in names:
            one.keep({"id": name, "output": np.ones(2, np.float32)}, 4)
        for kept in (one, other):
            assert kept.find(names[3]) == {"id": names[3], "output": [1.0, 1.0]}
            for gone in (*names[:2], "0" * 33, "../keys", ""):
                with pytest.raises(RefusalError):
                    kept.find(gone)
        assert len([*tmp_path.iterdir()]) == 2
