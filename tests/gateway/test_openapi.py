"""The description of the API is that of the API: every route, and no reference to nothing."""

import doctest
from typing import Any

from gateway_tools import Door, FakeBackend
from starlette.routing import Route

from e5.gateway import openapi
from e5.gateway.openapi import description


class NoIndex:
    """What adds `POST /search`; nothing is searched here."""

    task = ""
    dimensions = 8

    def check_model(self, model: str) -> None:
        """Any will do."""

    def search(self, query: Any, top: int) -> list[Any]:  # noqa: ARG002
        """Nothing."""
        return []


def test_it_names_every_route_and_no_other() -> None:
    for index in (None, NoIndex()):
        door = Door(FakeBackend(), index=index)
        told = door.get("/openapi.json").json()
        described = {
            (path.replace("{name}", "{name:path}"), method.upper())
            for path, methods in told["paths"].items()
            for method in methods
        }
        routes = [route for route in door.gateway.app.routes if isinstance(route, Route)]
        served = {(r.path, method) for r in routes for method in set(r.methods or ()) - {"HEAD"}}
        assert described == served


def test_every_reference_has_its_end() -> None:
    told = description(4096, with_search=True)
    ends: list[str] = []

    def walk(value: Any) -> None:
        if isinstance(value, dict):
            if isinstance(end := value.get("$ref"), str):
                ends.append(end)
            for inner in value.values():
                walk(inner)
        elif isinstance(value, list):
            for inner in value:
                walk(inner)

    walk(told)
    assert len(ends) > 100
    for end in set(ends):
        place = told
        for step in end.removeprefix("#/").split("/"):
            place = place[step]
    unused = {f"#/components/schemas/{name}" for name in told["components"]["schemas"]} - set(ends)
    assert not unused


def test_every_refusal_is_described() -> None:
    for path, methods in description(4096, with_search=True)["paths"].items():
        for method, operation in methods.items():
            assert "405" in operation["responses"], (path, method)
            if method == "post":
                needed = {"400", "401", "413", "415", "429", "502", "503", "504"}
                assert needed <= operation["responses"].keys(), path


def test_the_most_dimensions_are_the_model_s() -> None:
    schemas = Door(FakeBackend()).get("/openapi.json").json()["components"]["schemas"]
    assert schemas["EmbeddingsRequest"]["properties"]["dimensions"]["maximum"] == 8


def test_examples_give_what_they_say() -> None:
    result = doctest.testmod(openapi, raise_on_error=True)
    assert (result.attempted > 0, result.failed) == (True, 0)
