"""Replicate's token goes to Replicate and nowhere else; and names that are none are refused."""

import logging
from typing import Any

import pytest
from fake_http import Reply
from fake_replicate import (
    ID,
    STARTING,
    SUCCEEDED,
    TOKEN,
    VERSION,
    fake_replicate,
)
from remote_calls import embed as answer_of

from e5.client import RemoteService
from e5.errors import InputError, ServiceError

MODEL = f"replicate:you/e5:{VERSION}"


def embed(address: str = MODEL) -> str:
    return answer_of(address).model


def refusal(address: str = MODEL) -> ServiceError:
    with pytest.raises(ServiceError) as caught:
        embed(address)
    assert str(caught.value).startswith(f"{address}: ")
    assert TOKEN[:4] not in repr(caught.value)
    return caught.value


@pytest.mark.slow
@pytest.mark.parametrize(
    "elsewhere",
    [
        f"http://elsewhere.example/v1/predictions/{ID}",
        f"{{url}}.example/v1/predictions/{ID}",
        f"{{url}}@elsewhere.example/v1/predictions/{ID}",
        f"{{url}}/elsewhere/v1/predictions/{ID}",
        "{url}/v1/predictions/../../x",
        "{url}/v1/predictions/x?y",
        None,
        7,
    ],
)
def test_a_prediction_at_another_server_is_not_asked_for(elsewhere: Any) -> None:
    urls: dict[str, Any] = {}
    with fake_replicate([(201, {"status": "starting", "urls": urls})]) as api:
        is_text = isinstance(elsewhere, str)
        urls["get"] = elsewhere.format(url=api.url) if is_text else elsewhere
        error = refusal()
        assert f"the prediction is at another address than {api.url}; check REPL" in str(error)
        assert len(api.asked) == 1
        urls["get"] = f"{api.url}/v1/predictions/{ID}"
        assert embed() == "toy@1"


def test_a_redirect_is_not_followed() -> None:
    with fake_replicate() as other:
        moved: Reply = (307, b"", {"Location": f"{other.url}/v1/predictions"})
        with fake_replicate([moved]):
            assert "Replicate answered HTTP 307" in str(refusal())
        assert other.asked == []


@pytest.mark.parametrize(
    ("token", "received"),
    [
        (None, "nothing"),
        ("", "nothing"),
        (" \n", "nothing"),
        ("a b", "a value that cannot be a token"),
    ],
)
def test_without_a_token_an_error_says_so(
    token: str | None, received: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("REPLICATE_API_TOKEN", raising=False)
    if token is not None:
        monkeypatch.setenv("REPLICATE_API_TOKEN", token)
    with pytest.raises(InputError) as caught:
        RemoteService(MODEL, deadline=1)
    assert str(caught.value) == (
        f"REPLICATE_API_TOKEN: received {received}; "
        "set it to a token of replicate.com/account/api-tokens."
    )


def test_a_token_may_have_a_line_s_end() -> None:
    with fake_replicate() as api:
        api.environment.setenv("REPLICATE_API_TOKEN", f"{TOKEN}\n")
        assert embed() == "toy@1"


@pytest.mark.parametrize(
    ("reply", "part"),
    [
        ((401, {"detail": f"{TOKEN} is bad"}), "does not accept REPLICATE_API_TOKEN (HTTP 401)"),
        ((402, {"detail": "x"}), "the account of REPLICATE_API_TOKEN has no credit (HTTP 402)"),
        ((403, {"detail": "x"}), "REPLICATE_API_TOKEN may not run it (HTTP 403)"),
        ((404, {"detail": "x"}), "there is no such model, version or deployment, or REPLICATE_API"),
        (
            (422, {"detail": f"- version is {TOKEN}\n", "title": "x"}),
            'refused the request (HTTP 422: "- version is ...")',
        ),
        ((418, {"detail": "x" * 50 + TOKEN}), f'HTTP 418: "{"x" * 50}..."; check REPL'),
        ((418, f"{TOKEN}".encode()), 'Replicate answered HTTP 418: "..."; check REPLICATE_BASE'),
    ],
)
def test_a_refusal_is_one_sentence_with_a_remedy(reply: Reply, part: str) -> None:
    with fake_replicate([reply]) as api:
        error = refusal()
    assert part in str(error)
    assert error.cause == "other"
    assert len(api.creates) == 1


@pytest.mark.slow
def test_the_token_is_in_no_log(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG), fake_replicate([STARTING], [(500, b""), SUCCEEDED]):
        embed("replicate:you/e5")
    assert len(caplog.records) > 5
    assert TOKEN not in "".join(map(repr, caplog.records)) + caplog.text


# Who it is


@pytest.mark.parametrize(
    "address",
    [
        "replicate:",
        "replicate:e5",
        "replicate:you/",
        "replicate:you/e5:",
        "replicate:you/e5:a b",
        "replicate:you/e5/more",
        "replicate:you/..",
        "replicate:../e5",
        "replicate:you/e5?x",
        "replicate:you/e5\n",
        f"replicate-deployment:you/e5:{VERSION}",
        "replicate-deployment:you",
    ],
)
def test_what_names_no_model_is_refused(address: str) -> None:
    with pytest.raises(InputError, match=r"^url: received .*; use replicate:owner/name, "):
        RemoteService(address, deadline=1)


def test_a_base_url_that_is_no_url_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REPLICATE_API_TOKEN", TOKEN)
    monkeypatch.setenv("REPLICATE_BASE_URL", "api.replicate.com")
    with pytest.raises(InputError, match=r"^REPLICATE_BASE_URL: received") as caught:
        RemoteService(MODEL, deadline=1)
    assert "leave it out, or use a URL as in https://api.replicate.com." in str(caught.value)


@pytest.mark.parametrize(
    "model",
    [{"latest_version": None}, {"latest_version": {"id": "../x"}}, {"latest_version": 7}, {"x": 1}],
)
def test_a_model_without_a_version_is_refused(model: Any) -> None:
    with fake_replicate() as api:
        api.model = (200, model)
        assert "the model has no version; push one" in str(refusal("replicate:you/e5"))
        assert api.creates == []
