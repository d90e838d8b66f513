"""Every resource that the broker itself makes is valid in its FHIR version, by a judge that nobody here wrote."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from importlib import import_module
from pathlib import Path
from typing import Any
from urllib.parse import quote

import aiohttp
import orjson
import pytest
from e2e_daemon import ROOT, Daemon, StartDaemon
from e2e_messages import FHIR_XML, NORTH, SOUTH, Said, ask, eventually, message, outcome, send
from e2e_receiver import HttpReceiver, OpenReceiver, Reply

# fhir.resources has R4 as R4B: for what we write of it the two are the same.
PACKAGES = {"": "R4B.", "/R4": "R4B.", "/R4B": "R4B.", "/R5": ""}
VERSIONS = {"": "4.0.1", "/R4": "4.0.1", "/R4B": "4.3.0", "/R5": "5.0.0"}
HELD = "urn:oid:2.999.2.3"
REGISTER = ROOT / "config" / "examples" / "directory" / "register.json"


def validated(said: Said, base: str, kind: str) -> dict[str, Any]:
    """The resource, once fhir.resources found it valid and kept all that was in it."""
    resource: dict[str, Any] = said.json
    assert resource["resourceType"] == kind, said
    assert said.headers["Content-Type"].startswith("application/fhir+json")
    return checked(resource, base)


def checked(resource: dict[str, Any], base: str) -> dict[str, Any]:
    kind = resource["resourceType"]
    model = getattr(import_module(f"fhir.resources.{PACKAGES[base]}{kind.lower()}"), kind)
    assert model.model_validate(resource).get_resource_type() == kind
    return resource


def written_in(base: str, body: bytes) -> bytes:
    """The message in the dialect of the base it goes to."""
    return body.replace(b'"endpoint":', b'"endpointUrl":') if base == "/R5" else body


@pytest.fixture
async def south(receiver: OpenReceiver) -> HttpReceiver:
    return await receiver()


@pytest.fixture
async def broker(daemon: StartDaemon, south: HttpReceiver) -> Daemon:
    return await daemon(
        {
            "directory": {"endpoints": {SOUTH: south.url, HELD: "mailbox:"}, "sources": [str(REGISTER)]},
            "defaults": {"retry": {"first": "100ms"}},
        }
    )


@pytest.mark.parametrize("base", PACKAGES)
async def test_what_is_read_is_valid_in_its_version(base: str, broker: Daemon, http: aiohttp.ClientSession) -> None:
    url = broker.base + base
    for number in range(3):
        assert (await send(http, url, written_in(base, message(f"m-{number}", to=HELD)))).status == 202
    statement = validated(await ask(http, "GET", f"{url}/metadata"), base, "CapabilityStatement")
    assert statement["fhirVersion"] == VERSIONS[base]
    for search in (
        f"/Bundle?message.destination-uri={HELD}&_offset=0&_count=2",
        f"/Bundle?message.destination-uri={HELD}&_offset=900&_summary=count",
        f"/Bundle?message.destination-uri={HELD}&nobody-knows=this",  # with a warning inside
        "/Endpoint",
        "/Organization",
    ):
        page = validated(await ask(http, "GET", url + search), base, "Bundle")
        assert page["type"] == "searchset"
        for entry in page.get("entry", ()):
            resource = entry["resource"]
            if resource["resourceType"] in ("Endpoint", "Organization"):
                checked(resource, base)
                read = await ask(http, "GET", f"{url}/{resource['resourceType']}/{quote(resource['id'])}")
                assert validated(read, base, resource["resourceType"]) == resource
            elif resource["resourceType"] != "Bundle":
                checked(resource, base)
    kinds = {entry["resource"]["resourceType"] for entry in (await ask(http, "GET", f"{url}/Endpoint")).json["entry"]}
    assert kinds == {"Endpoint"}


@pytest.mark.parametrize("base", PACKAGES)
async def test_receipts_and_refusals_are_valid_in_their_version(
    base: str, broker: Daemon, south: HttpReceiver, http: aiohttp.ClientSession
) -> None:
    url = broker.base + base
    copy = written_in(base, message("copy", to=HELD))
    said = [
        await send(http, url, copy),
        await send(http, url, copy),
        await send(http, url, copy.replace(b"discharge", b"other")),  # 409
        await send(http, url, message()),  # taken
        await send(http, url, message(), query="?async=true"),
        await ask(http, "POST", f"{url}/Bundle", data=message(), headers={"Content-Type": "application/fhir+json"}),
        await send(http, url, message(to="urn:oid:2.999.77")),  # 404
        await send(http, url, b"{"),
        await send(http, url, message(), media="text/plain"),
        await ask(http, "GET", f"{url}/$process-message"),
        await ask(http, "GET", f"{url}/Bundle/none"),
        await ask(http, "GET", f"{url}/nothing"),
    ]
    south.answer = lambda got: Reply(status=422, body=b"no")  # says no why: we say it
    said.append(await send(http, url, message()))
    # from R5 on other bytes are the same message (M-21)
    assert [one.status for one in said] == [
        202,
        202,
        202 if base == "/R5" else 409,
        200,
        202,
        201,
        404,
        400,
        415,
        405,
        404,
        404,
        422,
    ]
    for one in said:
        validated(one, base, "OperationOutcome")


@pytest.mark.parametrize("base", PACKAGES)
async def test_the_status_and_its_end_are_valid_in_their_version(
    base: str, broker: Daemon, south: HttpReceiver, http: aiohttp.ClientSession
) -> None:
    south.answer = lambda got: Reply(status=500)
    url = broker.base + base
    said = await send(http, url, message(), query="?async=true")
    status_url = said.headers["Content-Location"].replace(broker.base, url)
    polled = await ask(http, "GET", status_url)
    assert polled.status == 202
    validated(polled, base, "OperationOutcome")
    validated(await ask(http, "GET", f"{status_url}/outcome"), base, "OperationOutcome")
    if base == "/R5":
        south.answer = lambda got: Reply(status=204)

        polls: list[Said] = []

        async def ended() -> bool:
            polls.append(await ask(http, "GET", status_url))
            return polls[-1].status == 200

        await eventually(ended, every=0.3)
        end = validated(polls[-1], base, "Bundle")
        assert end["type"] == "batch-response"
    else:
        validated(await ask(http, "DELETE", status_url), base, "OperationOutcome")


@pytest.mark.parametrize("version", ["4.0", "4.3", "5.0"])
async def test_a_bounce_is_valid_in_the_version_of_its_message(
    version: str, broker: Daemon, south: HttpReceiver, http: aiohttp.ClientSession
) -> None:
    base = {"4.0": "/R4", "4.3": "/R4B", "5.0": "/R5"}[version]
    south.answer = lambda got: Reply(status=422, body=outcome("no such ward"))
    body = message("asked")
    if version == "5.0":
        body = written_in(base, body)
        body = body.replace(b'"id":"asked"', b'"id":"asked","identifier":{"system":"urn:x","value":"asked"}', 1)
    media = f"application/fhir+json; fhirVersion={version}"
    assert (await send(http, broker.base, body, query="?async=true", media=media)).status == 202
    mailbox = f"{broker.base}{base}/Bundle?message.destination-uri={NORTH}&_offset=0"

    async def bounced() -> bool:
        return bool((await ask(http, "GET", mailbox)).json.get("entry"))

    await eventually(bounced)
    (entry,) = (await ask(http, "GET", mailbox)).json["entry"]
    bounce = checked(entry["resource"], base)
    assert bounce["type"] == "message"
    for part in bounce["entry"]:
        checked(part["resource"], base)
    assert bounce["entry"][0]["resource"]["response"]["code"] == "fatal-error"


async def test_xml_is_well_formed_and_in_fhirs_namespace(
    broker: Daemon, http: aiohttp.ClientSession, tmp_path: Path
) -> None:
    said = [
        await ask(http, "GET", f"{broker.base}/metadata", headers={"Accept": FHIR_XML}),
        await ask(http, "GET", f"{broker.base}/Endpoint", headers={"Accept": FHIR_XML}),
        await ask(http, "GET", f"{broker.base}/Bundle?message.destination-uri={HELD}&_format=xml"),
        await send(http, broker.base, message(to=HELD), headers={"Accept": FHIR_XML}),
        await send(http, broker.base, b"<Bundle/>", media=FHIR_XML),
    ]
    kinds = ["CapabilityStatement", "Bundle", "Bundle", "OperationOutcome", "OperationOutcome"]
    for one, kind in zip(said, kinds, strict=True):
        assert one.headers["Content-Type"].startswith(FHIR_XML), one
        assert ET.fromstring(one.body).tag == "{http://hl7.org/fhir}" + kind


TOPIC = """\
url: http://north.example/topics/discharge
title: Somebody went home
on: [{event: discharge-letter, focus: MessageHeader}]
filters: [event]
"""


@pytest.mark.parametrize("base", PACKAGES)
async def test_subscriptions_and_what_is_said_of_them_are_valid_in_their_version(
    base: str, daemon: StartDaemon, south: HttpReceiver, http: aiohttp.ClientSession, tmp_path: Path
) -> None:
    """From its creation to its events, against a real receiver."""
    (tmp_path / "topic.yaml").write_text(TOPIC)
    allow = f"http://127.0.0.1:{south.port}/*"
    broker = await daemon(
        {
            "directory": {"endpoints": {HELD: "mailbox:"}},
            "subscriptions": {"topics": [str(tmp_path / "topic.yaml")], "allow": [allow], "content": "full-resource"},
        }
    )
    url, endpoint = broker.base + base, f"http://127.0.0.1:{south.port}/hook"
    wanted: dict[str, Any] = {"resourceType": "Subscription", "status": "requested", "reason": "to know"}
    if base == "/R5":
        wanted |= {
            "topic": "http://north.example/topics/discharge", "channelType": {"code": "rest-hook"},
            "endpoint": endpoint, "contentType": "application/fhir+json", "content": "full-resource",
        }  # fmt: skip
    else:
        content = "http://hl7.org/fhir/uv/subscriptions-backport/StructureDefinition/backport-payload-content"
        wanted |= {
            "criteria": "http://north.example/topics/discharge",
            "channel": {
                "type": "rest-hook", "endpoint": endpoint, "payload": "application/fhir+json",
                "_payload": {"extension": [{"url": content, "valueCode": "full-resource"}]},
            },
        }  # fmt: skip
    headers = {"Content-Type": "application/fhir+json"}
    made = await ask(http, "POST", f"{url}/Subscription", data=orjson.dumps(wanted), headers=headers)
    assert made.status == 201, made
    where = made.headers["Location"]
    validated(made, base, "Subscription")

    async def active() -> bool:
        return (await ask(http, "GET", where)).json["status"] == "active"

    await eventually(active)
    for number in range(3):
        assert (await send(http, url, written_in(base, message(f"d-{number}", to=HELD)))).status == 202

    async def counted() -> bool:
        return b'"3"' in (await ask(http, "GET", f"{where}/$events")).body

    await eventually(counted)
    for path in (
        "Subscription",
        f"{where.rpartition('/fhir')[2].removeprefix(base)[1:]}/$status",
        "Subscription/$status",
    ):
        page = validated(await ask(http, "GET", f"{url}/{path}"), base, "Bundle")
        for entry in page["entry"]:
            checked(entry["resource"], base)
    bundle = validated(await ask(http, "GET", f"{where}/$events?eventsSinceNumber=2"), base, "Bundle")
    for entry in bundle["entry"]:
        if "resource" in entry:
            checked(entry["resource"], base)
    if base in ("/R4B", "/R5"):
        for entry in validated(await ask(http, "GET", f"{url}/SubscriptionTopic"), base, "Bundle")["entry"]:
            validated(await ask(http, "GET", entry["fullUrl"]), base, "SubscriptionTopic")
    statement = validated(await ask(http, "GET", f"{url}/metadata"), base, "CapabilityStatement")
    assert "Subscription" in [one["type"] for one in statement["rest"][0]["resource"]]
    assert (await ask(http, "DELETE", where)).status == 204
    for got in south.got:
        if got.path == "/hook":  # what was notified, as it came
            checked(orjson.loads(got.body), base)
