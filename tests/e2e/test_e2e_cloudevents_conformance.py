"""The scenarios of CloudEvents' conformance features over HTTP, and its vectors: what goes in comes out (C-15)."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

import pytest
from e2e_daemon import Daemon, StartDaemon
from e2e_messages import SOUTH
from e2e_receiver import Got, HttpReceiver, OpenReceiver
from feature import Scenario, scenarios
from ruamel.yaml import YAML

CORPUS = Path(__file__).parents[1] / "corpus" / "cloudevents" / "cloudevents__conformance"
SCENARIOS = scenarios(CORPUS / "http-protocol-binding.feature")
VECTORS = [
    vector
    for name in ("v1", "v1_minimum")
    for vector in YAML(typ="base").load_all((CORPUS / f"{name}.yaml").read_text())
]


@pytest.fixture
async def south(receiver: OpenReceiver) -> HttpReceiver:
    return await receiver()


@pytest.fixture
async def broker(daemon: StartDaemon, south: HttpReceiver) -> Daemon:
    routes = [{"match": {"channel": "http"}, "to": [SOUTH]}]
    return await daemon({"directory": {"endpoints": {SOUTH: f"http://127.0.0.1:{south.port}/hook"}}, "routes": routes})


async def came(south: HttpReceiver) -> Got:
    return (await south.until_count(1))[0]


async def raw(broker: Daemon, request: bytes) -> int:
    """The status of the answer to these very bytes."""
    host, _, port = broker.base.removeprefix("http://").partition("/")[0].partition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    try:
        writer.write(request)
        return int((await asyncio.wait_for(reader.readline(), 20)).split()[1])
    finally:
        writer.close()


def test_the_feature_has_its_four_scenarios() -> None:
    """So that a reader that finds none is noticed."""
    assert len(SCENARIOS) == 4
    assert len({scenario.name for scenario in SCENARIOS}) == 4


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.name)
async def test_a_scenario_of_the_http_binding_passes(broker: Daemon, south: HttpReceiver, scenario: Scenario) -> None:
    checked = 0
    for step in scenario.steps:
        if step.words == "an HTTP request":
            # the feature leaves the resource open; on the wire a head ends its lines with CRLF
            head, _, body = step.text.partition("\n\n")
            request = head.replace("/someresource", "/events", 1).replace("\n", "\r\n") + "\r\n\r\n" + body
            assert await raw(broker, request.encode()) == 202
        elif step.words == "the attributes are:":
            got = await came(south)
            for name, value in step.table:
                header = "content-type" if name == "datacontenttype" else f"ce-{name}"
                assert unquote(got.headers[header]) == value
                checked += 1
        elif step.words == "the data is equal to the following JSON:":
            assert json.loads((await came(south)).body) == json.loads(step.text)
            checked += 1
        else:
            assert step.words == "parsed as HTTP request", f"a step that is not known: {step.words}"
    assert checked == 7


@pytest.mark.parametrize("mode", ["binary", "structured"])
async def test_the_vectors_come_out_as_they_went_in(broker: Daemon, south: HttpReceiver, mode: str) -> None:
    """Attributes, extensions (C-8) and data, whatever its media type and characters."""
    vectors = [vector for vector in VECTORS if vector.get("Mode", mode) == mode]
    assert len(vectors) == 7
    async with broker.session() as session:
        for vector in vectors:
            attributes, media_type, data = parts(vector)
            sent = (
                binary(attributes, media_type, data) if mode == "binary" else structured(attributes, media_type, data)
            )
            async with session.post(broker.base.removesuffix("/fhir") + "/events", **sent) as answer:
                assert answer.status == 202, await answer.text()
            got = await came(south)
            south.got.clear()
            for name, value in attributes.items():
                assert unquote(got.headers[f"ce-{name}"]) == value
            assert got.headers["content-type"] == media_type
            if mode == "binary" or not is_json(media_type):
                assert got.body == data
            else:
                assert json.loads(got.body) == json.loads(data)


def parts(vector: dict[str, Any]) -> tuple[dict[str, str], str, bytes]:
    attributes = dict(vector["ContextAttributes"])
    attributes |= attributes.pop("Extensions", {})
    # those who wrote the vectors end a text with a line feed, which no attribute may have in it (C-2)
    attributes = {name: value.strip() for name, value in attributes.items()}
    return attributes, attributes.pop("datacontenttype", "application/json"), vector["Data"].encode()


def is_json(media_type: str) -> bool:
    return media_type.startswith("application/json")


def binary(attributes: dict[str, str], media_type: str, data: bytes) -> dict[str, Any]:
    headers = {f"ce-{name}": quote(value, safe=":/;=,.") for name, value in attributes.items()}
    return {"headers": {**headers, "Content-Type": media_type}, "data": data}


def structured(attributes: dict[str, str], media_type: str, data: bytes) -> dict[str, Any]:
    text = data.decode()
    event = {**attributes, "datacontenttype": media_type, "data": json.loads(text) if is_json(media_type) else text}
    headers = {"Content-Type": "application/cloudevents+json; charset=utf-8"}
    return {"headers": headers, "data": json.dumps(event, ensure_ascii=False).encode()}
