"""`POST /audit` hands a text and a vector to what judges them, and answers what it says."""

from typing import Any

import pytest
from gateway_tools import MODEL, FakeBackend, LocalGateway, sentence_of

from e5.errors import InputError

REPORT = {
    "verdict": "no_eos",
    "cosine": 0.9999,
    "cosine_right": 0.8,
    "alternatives": ["last_content_token"],
    "storage": ["normalised"],
    "advice": "End it.",
    "rows": [],
}


class FakeAuditor:
    """Remembers what it was asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[Any, ...]] = []

    async def judge(self, *arguments: Any) -> dict[str, Any]:
        self.asked.append(arguments)
        if arguments[1] == []:
            raise InputError("vector", "no vector", "send its numbers")
        return REPORT


@pytest.fixture
def auditor() -> FakeAuditor:
    return FakeAuditor()


@pytest.fixture
def local(auditor: FakeAuditor) -> LocalGateway:
    return LocalGateway(FakeBackend(), auditor=auditor)


@pytest.mark.parametrize(
    ("more", "asked"),
    [
        ({}, ("auto", None)),
        ({"role": None, "task": None}, ("auto", None)),
        ({"role": "query", "task": "SciFact"}, ("query", "SciFact")),
    ],
)
@pytest.mark.parametrize("vector", [[1, 0.5], "[1, 0.5]"])
def test_the_verdict_is_answered_with_the_model(
    vector: Any, more: dict[str, Any], asked: Any, local: LocalGateway, auditor: FakeAuditor
) -> None:
    response = local.post("/audit", {"text": " snow\n", "vector": vector, **more})
    assert response.status_code == 200
    expected = {name: value for name, value in REPORT.items() if name != "rows"}
    assert response.json() == expected | {"model": MODEL}
    assert auditor.asked == [(" snow\n", vector, *asked)]


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        ({"vector": [1]}, "text: received nothing; send it."),
        ({"text": "snow"}, "vector: received nothing; send it."),
        ({"text": 7, "vector": [1]}, "text: received 7; send a string."),
        ({"text": "snow", "vector": []}, "vector: received no vector; send its numbers."),
        ({"text": "snow", "vector": [1], "role": "title"}, 'role: received "title"; '),
    ],
)
def test_a_wrong_input_is_named(body: Any, sentence: str, local: LocalGateway) -> None:
    assert sentence_of(local.post("/audit", body), 400).startswith(sentence)


def test_a_vector_that_is_no_list_is_refused(local: LocalGateway, auditor: FakeAuditor) -> None:
    sentence = sentence_of(local.post("/audit", {"text": "snow", "vector": 7}), 400)
    assert sentence == "vector: received 7; send a list of numbers, or a text that holds one."
    assert auditor.asked == []


def test_without_an_auditor_there_is_no_such_route() -> None:
    sentence_of(LocalGateway(FakeBackend()).post("/audit", {}), 404)


def test_it_is_described(local: LocalGateway) -> None:
    described = local.get("/openapi.json").json()
    assert "/audit" in described["paths"]
    schema = described["components"]["schemas"]["AuditRequest"]
    assert set(schema["required"]) == {"text", "vector"}
    assert set(schema["properties"]) == {"text", "vector", "role", "task"}
