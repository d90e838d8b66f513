"""Errors in JSON, pages of other people kept out, and an OpenAPI document that is true."""

from __future__ import annotations

from typing import Any
from unittest.mock import patch

import pytest
from operator_desk import Desk

from broker.core.subscription.notification import Kind
from broker.store import StoreError


async def test_an_unknown_path_and_a_wrong_method_are_json(desk: Desk) -> None:
    assert (await desk.get("/nothing"))[1]["error"]["id"] == "unknown-path"
    answer = await desk.client.put("/admin/v1/lanes")
    assert (answer.status, answer.headers["Allow"]) == (405, "GET")
    assert (await answer.json())["error"]["id"] == "method-not-allowed"


async def test_a_web_page_elsewhere_is_not_answered(desk: Desk) -> None:
    for headers in ({"Origin": "https://evil.example"}, {"Sec-Fetch-Site": "cross-site"}):
        status, told = await desk.post("/dead/redrive", {}, **headers)
        assert (status, told["error"]["id"]) == (403, "foreign-origin")


async def test_a_name_rebound_to_loopback_is_not_answered(desk: Desk) -> None:
    for host in ("evil.example:8079", "127.0.0.1.evil.example"):
        status, told = await desk.get("/status", Host=host)
        assert (status, told["error"]["id"]) == (421, "foreign-host")
    for host in ("localhost", "[::1]:8079", "127.0.0.1"):
        assert (await desk.get("/status", Host=host))[0] == 200


async def test_a_store_that_does_not_answer_is_503(desk: Desk) -> None:
    with patch.object(desk.store, "counts", side_effect=StoreError("the disk is full")):
        status, told = await desk.get("/status")
    assert (status, told["error"]["id"]) == (503, "store-unavailable")


async def test_a_bug_is_500_without_its_own_words(desk: Desk) -> None:
    with patch.object(desk.store, "mailboxes", side_effect=KeyError("secret")):
        status, told = await desk.get("/mailboxes")
    assert (status, told["error"]["id"]) == (500, "internal-error")
    assert "secret" not in told["error"]["text"]


async def test_a_body_that_is_compressed_or_no_json_is_refused(desk: Desk) -> None:
    answer = await desk.client.post("/admin/v1/dead/redrive", data=b"{")
    assert (answer.status, (await answer.json())["error"]["id"]) == (400, "bad-request")
    gzip = {"Content-Encoding": "gzip"}
    answer = await desk.client.post("/admin/v1/dead/redrive", data=b"\x1f\x8b", headers=gzip)
    assert answer.status in (400, 415)


async def test_every_route_is_in_the_document_and_the_other_way_round(desk: Desk) -> None:
    _, document = await desk.get("/openapi.json")
    served = {
        (route.method.lower(), route.resource.canonical)
        for route in desk.app.router.routes()
        if route.resource is not None and route.method != "HEAD"
    }
    written = {(method, path) for path, methods in document["paths"].items() for method in methods}
    assert served == written


async def test_the_document_is_whole(desk: Desk) -> None:
    _, document = await desk.get("/openapi.json")
    assert document["openapi"] == "3.1.0"
    ids = [o["operationId"] for methods in document["paths"].values() for o in methods.values()]
    assert len(ids) == len(set(ids))
    known = document["components"]["schemas"]
    assert {name.rpartition("/")[2] for name in _references(document)} <= known.keys()
    for path, methods in document["paths"].items():
        for operation in methods.values():
            named = {p["name"] for p in operation.get("parameters", ()) if p["in"] == "path"}
            assert named == {part[1:-1] for part in path.split("/") if part.startswith("{")}


def _references(value: Any) -> list[str]:
    if isinstance(value, dict):
        return [value["$ref"]] if "$ref" in value else [r for one in value.values() for r in _references(one)]
    return [r for one in value for r in _references(one)] if isinstance(value, list) else []


def _fits(schema: dict[str, Any], value: Any, known: dict[str, Any], at: str = "") -> None:
    """The little of JSON Schema that the document uses."""
    if "$ref" in schema:
        schema = known[schema["$ref"].rpartition("/")[2]]
    kinds = schema.get("type", [])
    kinds = [kinds] if isinstance(kinds, str) else kinds
    types = {"string": str, "integer": int, "number": int | float, "boolean": bool, "object": dict, "array": list}
    assert not kinds or (value is None and "null" in kinds) or any(
        isinstance(value, types[kind]) for kind in kinds if kind != "null"
    ), f"{at}: {value!r} is no {kinds}"  # fmt: skip
    assert value not in (None,) or "null" in kinds or not kinds
    if "enum" in schema:
        assert value in schema["enum"], at
    if isinstance(value, dict) and "properties" in schema:
        assert value.keys() == schema["properties"].keys(), f"{at}: {value.keys() ^ schema['properties'].keys()}"
        for name, one in schema["properties"].items():
            _fits(one, value[name], known, f"{at}.{name}")
    if isinstance(value, list) and "items" in schema:
        for number, one in enumerate(value):
            _fits(schema["items"], one, known, f"{at}[{number}]")


@pytest.mark.parametrize(
    "path",
    [
        "/admin/v1/messages/{id}", "/admin/v1/mailboxes", "/admin/v1/mailboxes/{endpoint}/messages", "/admin/v1/dead",
        "/admin/v1/lanes", "/admin/v1/directory", "/admin/v1/directory/problems", "/admin/v1/status", "/health/ready",
        "/admin/v1/subscriptions", "/admin/v1/subscriptions/{id}",
    ],
)  # fmt: skip
async def test_answers_have_the_shape_that_is_written(desk: Desk, path: str) -> None:
    from operator_desk import BOX, delivery, mail

    position = await desk.dead(deliveries=(delivery(), mail()))
    row = await desk.subscribed.active()
    await desk.subscribed.sets_out(row, Kind.HANDSHAKE)
    _, document = await desk.get("/openapi.json")
    asked = path.replace("subscriptions/{id}", f"subscriptions/{row.subscription.id}")
    asked = asked.replace("{id}", desk.id(position)).replace("{endpoint}", BOX)
    answer = await (await desk.client.get(asked)).json()
    schema = document["paths"][path]["get"]["responses"]["200"]["content"]["application/json"]["schema"]
    _fits(schema, answer, document["components"]["schemas"])
