"""Subscriptions over REST, as a client sees them: three models, four bases, JSON and XML."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import orjson
import pytest
from reading import BASE_URL, Reply, Side, reading, validated
from subscription_desk import (
    ADMISSIONS,
    ENCOUNTERS,
    SOCKET,
    SOCKETS,
    Subscribing,
    backport,
    classic,
    r5,
    subscribing,
)

from broker.core.fhir.header import Release
from broker.core.subscription.consent import callback
from broker.core.subscription.life import Happening
from broker.core.subscription.subscription import HIDDEN, Content

CORPUS = Path(__file__).parents[1] / "corpus" / "subscriptions"
CANDLE = CORPUS / "FHIR__fhir-candle"
JSON, XML = "application/fhir+json", "application/fhir+xml"
R5_XML = (
    '<Subscription xmlns="http://hl7.org/fhir"><status value="requested"/>'
    f'<topic value="{ENCOUNTERS}"/><channelType><code value="rest-hook"/></channelType>'
    '<endpoint value="https://example.org/hook"/><parameter><name value="Authorization"/>'
    '<value value="Bearer do-not-show"/></parameter><content value="id-only"/></Subscription>'
)
RELEASES = [("", Release.R4), ("/R4", Release.R4), ("/R4B", Release.R4B), ("/R5", Release.R5)]


@dataclass
class Client:
    side: Side
    desk: Subscribing

    async def __call__(self, method: str, path: str, body: Any = None, **headers: str) -> Reply:
        data = body if isinstance(body, (bytes, str, type(None))) else orjson.dumps(body)
        said = {name.replace("_", "-"): value for name, value in headers.items()}
        if data is not None:
            said.setdefault("Content-Type", JSON)
        return await self.side.ask(method, path, data=data, headers=said)

    async def create(self, base: str, resource: Any, **headers: str) -> Reply:
        reply = await self("POST", f"/fhir{base}/Subscription", resource, **headers)
        assert reply.status == 201, reply.body
        return reply


@asynccontextmanager
async def opened(folder: Path, *, party: bool = False, **more: Any) -> AsyncIterator[Client]:
    desks: list[Subscribing] = []

    def serves(store: Any, here: Any) -> Any:
        desks.append(subscribing(folder, store=store, here=replace(here, parties=bool(more.get("caps"))), **more))
        return desks[0].service

    owner = (lambda request: request.headers.get("X-Party", "")) if party else (lambda request: "")
    async with reading(folder, serves=serves, owner=owner) as side:
        desks[0].clock = [side.clock.at]
        yield Client(side, desks[0])


@pytest.fixture
async def client(tmp_path: Path) -> AsyncIterator[Client]:
    async with opened(tmp_path) as one:
        yield one


def native_or_not(base: str, **more: Any) -> dict[str, Any]:
    return r5(**more) if base == "/R5" else backport(**more)


# --- create, read, update, delete ---


@pytest.mark.parametrize(("base", "release"), RELEASES)
async def test_subscription_is_created_and_read_in_the_release_of_its_base(
    client: Client, base: str, release: Release
) -> None:
    made = await client.create(base, native_or_not(base))
    resource = validated(made.json, release)
    url = made.headers["Location"]
    assert url == f"{BASE_URL}{base}/Subscription/{resource['id']}"
    assert made.headers["ETag"] == 'W/"1"'
    assert resource["meta"]["versionId"] == "1"
    assert resource["status"] == "requested"
    read = await client("GET", url)
    assert (read.status, read.json, read.headers["ETag"]) == (200, resource, 'W/"1"')
    assert read.headers["Last-Modified"].endswith("GMT")
    assert (await client("HEAD", url)).status == 200


@pytest.mark.parametrize(("base", "release"), RELEASES)
async def test_subscription_is_changed_and_removed(client: Client, base: str, release: Release) -> None:
    url = (await client.create(base, native_or_not(base))).headers["Location"]
    resource = (await client("GET", url)).json
    changed = await client("PUT", url, resource | {"reason": "another"}, If_Match='W/"1"')
    assert (changed.status, changed.headers["ETag"]) == (200, 'W/"2"')
    assert validated(changed.json, release)["reason"] == "another"
    stale = await client("PUT", url, resource, If_Match='W/"1"')
    assert (stale.status, stale.ids & {"version-changed"}) == (412, {"version-changed"})
    assert (await client("DELETE", url, If_Match='W/"1"')).status == 412
    assert (await client("DELETE", url)).status == 204
    assert (await client("DELETE", url)).status == 204  # FHIR: what is not there is as good as deleted
    gone = await client("GET", url)
    assert (gone.status, gone.ids & {"unknown-subscription"}) == (404, {"unknown-subscription"})


async def test_xml_comes_in_and_goes_out_without_the_secret(client: Client) -> None:
    made = await client("POST", "/fhir/R5/Subscription", R5_XML, Content_Type=XML)
    assert (made.status, made.headers["Content-Type"]) == (201, f"{XML}; fhirVersion=5.0")
    root = ET.fromstring(made.body)
    assert root.tag == "{http://hl7.org/fhir}Subscription"
    assert b"do-not-show" not in made.body
    assert HIDDEN.encode() in made.body


async def test_release_of_the_media_type_goes_before_that_of_the_url(client: Client) -> None:
    """S-3."""
    made = await client("POST", "/fhir/Subscription", r5(), Content_Type=f"{JSON}; fhirVersion=5.0")
    assert made.status == 201
    assert made.headers["Content-Type"] == f"{JSON}; fhirVersion=5.0"
    validated(made.json, Release.R5)
    read = await client("GET", made.headers["Location"])
    assert read.json == made.json


@pytest.mark.parametrize("version", ["3.0", "6.0"])
async def test_release_that_is_not_served_is_refused(client: Client, version: str) -> None:
    media = f"{JSON}; fhirVersion={version}"
    assert (await client("POST", "/fhir/Subscription", classic(), Content_Type=media)).status == 415
    assert (await client("GET", "/fhir/Subscription", Accept=media)).status == 406


async def test_client_may_ask_for_no_body(client: Client) -> None:
    made = await client.create("/R5", r5(), Prefer="return=minimal")
    assert (made.body, made.headers["ETag"]) == (b"", 'W/"1"')


async def test_secrets_are_shown_to_nobody_and_stay_when_written_back(client: Client) -> None:
    """S-60."""
    secret = {"name": "Authorization", "value": "Bearer do-not-show"}
    made = await client.create("/R5", r5(parameter=[secret]))
    url = made.headers["Location"]
    shown = await client("GET", url)
    for base in ("", "/R4", "/R4B", "/R5"):
        for path in (f"/Subscription/{made.json['id']}", "/Subscription", "/Subscription/$status"):
            assert b"do-not-show" not in (await client("GET", f"/fhir{base}{path}")).body
    assert shown.json["parameter"] == [{"name": "Authorization", "value": HIDDEN}]
    assert (await client("PUT", url, shown.json | {"reason": "x"})).status == 200
    row = client.desk.service.get(made.json["id"], "")
    assert row.subscription.headers[0].value == "Bearer do-not-show"


# --- one release's in another's model ---


async def test_subscription_is_shown_in_the_model_of_the_base_it_is_read_at(client: Client) -> None:
    filters = [{"resourceType": "Encounter", "filterParameter": "patient", "value": "Patient/1"}]
    made = await client.create("/R5", r5(filterBy=filters, reason=None, name="Mine", heartbeatPeriod=60))
    in_r4 = validated((await client("GET", f"/fhir/R4/Subscription/{made.json['id']}")).json, Release.R4)
    assert (in_r4["criteria"], in_r4["channel"]["type"]) == (ENCOUNTERS, "rest-hook")
    assert in_r4["_criteria"]["extension"][0]["valueString"] == "Encounter?patient=Patient/1"
    assert "name" not in in_r4
    other = await client.create("/R4B", backport(contact=[{"system": "phone", "value": "1"}]))
    in_r5 = validated((await client("GET", f"/fhir/R5/Subscription/{other.json['id']}")).json, Release.R5)
    assert (in_r5["topic"], in_r5["content"], in_r5["contact"]) == (ENCOUNTERS, "id-only", other.json["contact"])
    assert "profile" not in in_r5["meta"]


async def test_search_string_of_r4_has_no_words_in_r5(client: Client) -> None:
    made = await client.create("/R4", classic())
    refused = await client("GET", f"/fhir/R5/Subscription/{made.json['id']}")
    assert (refused.status, refused.ids & {"not-acceptable"}) == (406, {"not-acceptable"})
    assert f"{BASE_URL}/R4/Subscription/{made.json['id']}" in refused.text
    page = await client("GET", "/fhir/R5/Subscription")
    assert (page.entries, len(page.warnings)) == ([], 1)


# --- refusals (S-8, S-9) ---

REFUSED: list[tuple[str, dict[str, Any], str]] = [
    ("/R5", r5(topic=None), "Subscription.topic"),
    ("/R5", r5(topic="http://example.org/none"), "Subscription.topic"),
    ("/R5", r5(status="active"), "Subscription.status"),
    ("/R5", r5(status="maybe"), "Subscription.status"),
    ("/R5", r5(end="2020-01-01T00:00:00Z"), "Subscription.end"),
    ("/R5", r5(channelType={"code": "sms"}), "Subscription.channelType"),
    ("/R5", r5(channelType={"system": "urn:x", "code": "pigeon"}), "Subscription.channelType"),
    ("/R5", r5(endpoint=None), "Subscription.endpoint"),
    ("/R5", r5(endpoint="http://example.org/hook"), "Subscription.endpoint"),
    ("/R5", r5(endpoint="mailto:a@example.org"), "Subscription.endpoint"),
    ("/R5", r5(endpoint=f"{BASE_URL}/$process-message"), "Subscription.endpoint"),
    ("/R5", r5(channelType={"code": "websocket"}), "Subscription.endpoint"),
    ("/R5", r5(contentType="text/csv"), "Subscription.contentType"),
    ("/R5", r5(contentType=f"{JSON}; fhirVersion=3.0"), "Subscription.contentType"),
    ("/R5", r5(content="everything"), "Subscription.content"),
    ("/R5", r5(content="full-resource"), "Subscription.content"),
    ("/R5", r5(filterBy=[{"filterParameter": "ward", "value": "1"}]), "Subscription.filterBy[0]"),
    ("/R5", r5(filterBy=[{"value": "1"}]), "Subscription.filterBy[0].filterParameter"),
    ("/R5", r5(heartbeatPeriod=1), "Subscription.heartbeatPeriod"),
    ("/R5", r5(timeout=9999), "Subscription.timeout"),
    ("/R5", r5(maxCount=99999), "Subscription.maxCount"),
    ("/R5", r5(header=["Authorization: x"]), "Subscription.header"),
    ("/R5", r5(parameter=[{"name": "Host", "value": "x"}]), "Subscription.parameter[0]"),
    ("/R4", backport(reason=None), "Subscription.reason"),
    ("/R4", backport(criteria=None), "Subscription.criteria"),
    ("/R4", backport(criteria="http://example.org/none"), "Subscription.criteria"),
    ("/R4", backport(channel={"type": "sms", "endpoint": "tel:1"}), "Subscription.channel.type"),
    ("/R4", backport(content="full-resource"), "Subscription.channel.payload.extension"),
    ("/R4", backport(channel={"header": ["no colon"]}), "Subscription.channel.header[0]"),
    ("/R4", classic(criteria="Encounter?_has:x=1"), "Subscription.criteria"),
    ("/R4B", classic(channel={"type": "email", "endpoint": "mailto:a@b.example"}), "Subscription.channel.type"),
    ("/R4B", classic(channel=None), "Subscription.channel"),
]  # fmt: skip


@pytest.mark.parametrize(("base", "resource", "element"), REFUSED)
async def test_each_refusal_is_an_outcome_that_names_its_element(
    tmp_path: Path, base: str, resource: dict[str, Any], element: str
) -> None:
    async with opened(tmp_path, cap=Content.ID_ONLY) as client:
        reply = await client("POST", f"/fhir{base}/Subscription", resource)
        assert reply.status == 422, reply.body
        outcome = validated(reply.json, Release.R5 if base == "/R5" else Release.R4)
        assert element in [one for issue in outcome["issue"] for one in issue["expression"]]
        assert (await client("GET", f"/fhir{base}/Subscription")).json["total"] == 0


@pytest.mark.parametrize(
    ("method", "path", "body", "headers", "status", "id"),
    [
        ("POST", "", "", {}, 422, "empty-body"),
        ("POST", "", "{", {}, 400, ""),
        ("POST", "", {"resourceType": "Patient"}, {}, 422, "wrong-resource-type"),
        ("POST", "", r5(), {"Content_Type": "text/plain"}, 415, "unsupported-media-type"),
        ("POST", "", r5(), {"Content_Encoding": "gzip"}, 415, "unsupported-encoding"),
        ("POST", "", b"{" + b" " * 300_000 + b"}", {}, 413, "too-large"),
        ("POST", "", r5(), {"If_None_Exist": "url=x"}, 400, "no-conditional-create"),
        ("POST", "", r5(), {"Accept": "text/csv"}, 406, "not-acceptable"),
        ("PUT", "/mine", r5(id="mine"), {}, 405, "no-client-ids"),
        ("PUT", "", r5(), {}, 405, "method-not-allowed"),
        ("PATCH", "/any", "[]", {}, 405, "method-not-allowed"),
        ("GET", "/any/$events", None, {}, 404, "unknown-subscription"),
        ("GET", "/any/$resend", None, {}, 405, "method-not-allowed"),
        ("DELETE", "/any", None, {"If_Match": "new"}, 400, "bad-if-match"),
        ("GET", "?_lastUpdated=soon", None, {}, 400, "bad-parameter"),
        ("GET", "?owner=x", None, {"Prefer": "handling=strict"}, 400, "unknown-parameter"),
    ],
)  # fmt: skip
async def test_what_cannot_be_done_is_said(
    client: Client, method: str, path: str, body: Any, headers: dict[str, str], status: int, id: str
) -> None:
    reply = await client(method, f"/fhir/R5/Subscription{path}", body, **headers)
    assert reply.status == status, reply.body
    assert not id or id in reply.ids, reply.ids


async def test_without_the_setting_nothing_is_served(tmp_path: Path) -> None:
    async with reading(tmp_path) as side:
        for path in ("/Subscription", "/SubscriptionTopic", "/Subscription/$status"):
            assert (await side.get(f"/fhir/R5{path}")).status == 404
        types = [one["type"] for one in (await side.get("/fhir/R5/metadata")).json["rest"][0]["resource"]]
        assert "Subscription" not in types


# --- search ---


async def several(client: Client) -> dict[str, str]:
    """Their ids, by what they are."""
    made = {
        "hook": await client.create("/R5", r5(contact=[{"system": "phone", "value": "123"}])),
        "socket": await client.create("/R5", r5(**SOCKET, topic=ADMISSIONS, content="empty", contentType=None)),
        "old": await client.create("/R4", classic()),
        "mail": await client.create("/R4", backport(
            channel={"type": "email", "endpoint": "mailto:a@example.org", "payload": "text/plain"}
        )),
    }  # fmt: skip
    return {name: reply.json["id"] for name, reply in made.items()}


@pytest.mark.parametrize(
    ("base", "query", "found"),
    [
        ("/R4", "", ["hook", "socket", "old", "mail"]),
        ("/R4", "criteria=http://EXAMPLE.org/", ["hook", "socket", "mail"]),
        ("/R4", "criteria=Encounter", ["old"]),
        ("/R4", "type=email", ["mail"]),
        ("/R4", "type=http://hl7.org/fhir/subscription-channel-type%7Cemail,rest-hook", ["hook", "old", "mail"]),
        ("/R4", "type=urn:x%7Cemail", []),
        ("/R4", "url=mailto:a@example.org", ["mail"]),
        ("/R4", "payload=text/plain", ["mail"]),
        ("/R4", "contact=123", ["hook"]),
        ("/R4", "contact=phone%7C123&status=requested", ["hook"]),
        ("/R4", "contact=email%7C123", []),
        ("/R4", "status=active", ["socket"]),
        ("/R4", "status=off,error", []),
        ("/R4", "_lastUpdated=lt2020", []),
        ("/R4", "_lastUpdated=ge2020", ["hook", "socket", "old", "mail"]),
        ("/R5", "topic=http://example.org/topics/admission", ["socket"]),
        ("/R5", "content-level=empty", ["socket"]),
        ("/R5", "content-level=id-only", ["hook", "mail"]),
    ],
)
async def test_subscriptions_are_found(client: Client, base: str, query: str, found: list[str]) -> None:
    ids = await several(client)
    page = await client("GET", f"/fhir{base}/Subscription?{query}")
    release = Release.R5 if base == "/R5" else Release.R4
    assert validated(page.json, release)["type"] == "searchset"
    assert [entry["resource"]["id"] for entry in page.entries] == [ids[name] for name in found]
    for entry in page.entries:
        validated(entry["resource"], release)
        assert entry["fullUrl"] == f"{BASE_URL}{base}/Subscription/{entry['resource']['id']}"
    data = {"Content_Type": "application/x-www-form-urlencoded"}
    posted = await client("POST", f"/fhir{base}/Subscription/_search", query, **data)
    assert posted.json["total"] == page.json["total"]


async def test_search_is_paged_and_warns_of_what_it_does_not_know(client: Client) -> None:
    ids = list((await several(client)).values())
    page = await client("GET", "/fhir/Subscription?_count=3&nobody-knows=this")
    assert ([entry["resource"]["id"] for entry in page.entries], page.json["total"]) == (ids[:3], 4)
    assert [issue["details"]["coding"][0]["code"] for issue in page.warnings] == ["unknown-parameter"]
    rest = await client("GET", page.links["next"])
    assert [entry["resource"]["id"] for entry in rest.entries] == ids[3:]
    assert "next" not in rest.links
    assert (await client("GET", "/fhir/Subscription?_summary=count")).json["total"] == 4
    assert [one["resource"]["id"] for one in (await client("GET", f"/fhir/Subscription?_id={ids[1]}")).entries] == [
        ids[1]
    ]


async def test_party_sees_and_changes_its_own_only(tmp_path: Path) -> None:
    caps = {"north": Content.FULL, "south": None}
    async with opened(tmp_path, party=True, caps=caps) as client:
        url = (await client.create("/R5", r5(), X_Party="north")).headers["Location"]
        assert (await client("GET", url, X_Party="south")).status == 404
        assert (await client("PUT", url, r5(), X_Party="south")).status == 405
        assert (await client("DELETE", url, X_Party="south")).status == 204
        assert (await client("GET", "/fhir/R5/Subscription", X_Party="south")).json["total"] == 0
        for operation in ("$status", "$events", "$get-ws-binding-token"):
            assert (await client("GET", f"{url}/{operation}", X_Party="south")).status == 404
        assert (await client("POST", f"{url}/$resend?eventsSinceNumber=1", X_Party="south")).status == 404
        assert (await client("GET", "/fhir/R5/Subscription/$status", X_Party="south")).json["total"] == 0
        assert (await client("GET", url, X_Party="north")).status == 200


# --- operations ---


@pytest.mark.parametrize(("base", "release"), RELEASES)
async def test_status_is_a_valid_searchset_by_get_and_by_post(client: Client, base: str, release: Release) -> None:
    made = (await client.create(base, native_or_not(base))).json
    other = (await client.create(base, native_or_not(base, status="off"))).json
    one = await client("GET", f"/fhir{base}/Subscription/{made['id']}/$status")
    assert validated(one.json, release)["type"] == "searchset"
    (entry,) = one.entries
    kind = "Parameters" if release is Release.R4 else "SubscriptionStatus"
    assert validated(entry["resource"], release)["resourceType"] == kind
    assert made["id"] in orjson.dumps(entry["resource"]).decode()
    everything = await client("GET", f"/fhir{base}/Subscription/$status")
    assert everything.json["total"] == 2
    asked = {"resourceType": "Parameters", "parameter": [{"name": "id", "valueId": other["id"]}]}
    assert (await client("POST", f"/fhir{base}/Subscription/$status", asked)).json["total"] == 1
    assert (await client("GET", f"/fhir{base}/Subscription/$status?status=off")).json["total"] == 1
    assert (await client("GET", f"/fhir{base}/Subscription/$status?status=active&id={made['id']}")).entries == []
    assert (await client("GET", f"/fhir{base}/Subscription/$status?status=gone")).status == 422


@pytest.mark.parametrize(("base", "release"), RELEASES)
@pytest.mark.parametrize("content", ["id-only", "full-resource"])
async def test_events_are_a_valid_notification(client: Client, base: str, release: Release, content: str) -> None:
    made = (await client.create(base, native_or_not(base, content=content))).json
    row = await client.desk.happens(client.desk.service.get(made["id"], ""), Happening.GREETED)
    await client.desk.hear(row, times=3)
    path = f"/fhir{base}/Subscription/{made['id']}/$events"
    reply = await client("GET", f"{path}?eventsSinceNumber=2")
    bundle = validated(reply.json, release)
    assert bundle["type"] == ("subscription-notification" if base == "/R5" else "history")
    assert b'"2"' in reply.body
    assert b'"1"' not in reply.body
    for entry in bundle["entry"]:  # S-31, S-32
        if "resource" in entry and entry["resource"]["resourceType"] != "Parameters":
            validated(entry["resource"], release)
        assert base == "/R5" or {"request", "response"} <= entry.keys()
    asked = {"resourceType": "Parameters", "parameter": [{"name": "eventsUntilNumber", "valueString": "1"}]}
    until = await client("POST", path, asked)
    assert until.status == 200
    assert b'"3"' in until.body  # eventsSinceSubscriptionStart
    assert b'"2"' not in until.body
    xml = await client("GET", path, Accept=XML)
    assert ET.fromstring(xml.body).tag == "{http://hl7.org/fhir}Bundle"
    wrong = await client("GET", f"{path}?eventsSinceNumber=-1&nobody-knows=1")
    assert (wrong.status, len(wrong.json["issue"])) == (422, 2)


async def test_binding_token_names_the_socket_and_is_not_for_caches(client: Client) -> None:
    made = [(await client.create("/R5", r5(**SOCKET))).json["id"] for _ in "12"]
    for path, body, ids in (
        (f"{made[0]}/$get-ws-binding-token", None, made[:1]),
        (f"$get-ws-binding-token?id={made[0]},{made[1]}", None, made),
        ("$get-ws-binding-token", {
            "resourceType": "Parameters", "parameter": [{"name": "id", "valueId": one} for one in made],
        }, made),
    ):  # fmt: skip
        reply = await client("POST", f"/fhir/R5/Subscription/{path}", body)
        said = validated(reply.json, Release.R5)["parameter"]
        assert reply.headers["Cache-Control"] == "no-store"
        assert said[0] == {"name": "token", "valueString": "sealed-" + ".".join(ids)}
        assert [one["valueString"] for one in said if one["name"] == "subscription"] == ids
        assert said[-1] == {"name": "websocket-url", "valueUrl": SOCKETS}
    hook = (await client.create("/R5", r5())).json["id"]
    refused = await client("POST", f"/fhir/R5/Subscription/{hook}/$get-ws-binding-token")
    assert (refused.status, refused.ids & {"not-over-websocket"}) == (422, {"not-over-websocket"})


async def test_resend_says_which_events_come_once_more(client: Client) -> None:
    made = (await client.create("/R5", r5())).json["id"]
    row = await client.desk.happens(client.desk.service.get(made, ""), Happening.GREETED)
    await client.desk.hear(row, times=3)
    await client.desk.sent(row, 3)
    path = f"/fhir/R5/Subscription/{made}/$resend"
    reply = await client("POST", f"{path}?eventsSinceNumber=2")
    assert (reply.status, reply.text) == (200, "Events 2 to 3 are sent once more over the channel.")
    await client.desk.written()
    assert client.desk.now(row).sent == 1
    asked = {
        "resourceType": "Parameters",
        "parameter": [{"name": "eventsSinceInstant", "valueInstant": "2020-01-01T00:00:00Z"}],
    }
    assert (await client("POST", path, asked)).text.startswith("Events 1 to 3")
    assert (await client("POST", path)).status == 422
    assert (await client("POST", f"{path}?eventsSinceNumber=9")).status == 422


@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_owner_of_a_webhook_consents_by_the_callback(client: Client, method: str) -> None:
    """C-30."""
    made = (await client.create("/R5", r5(contentType="application/cloudevents+json"))).json["id"]
    url = callback(BASE_URL, client.desk.store.key, client.desk.service.get(made, "").subscription)
    assert (await client("HEAD", url)).status == 405  # who only looks does not consent
    assert client.desk.service.get(made, "").life.status == "requested"
    assert (await client(method, url)).status == 200
    await client.desk.written()
    assert client.desk.service.get(made, "").life.status == "active"
    assert (await client(method, url[:-1] + "x")).status == 404


# --- topics and the statement ---


@pytest.mark.parametrize(("base", "release"), [("/R4B", Release.R4B), ("/R5", Release.R5)])
async def test_topics_are_shown_and_found(client: Client, base: str, release: Release) -> None:
    page = await client("GET", f"/fhir{base}/SubscriptionTopic")
    assert [one["resource"]["url"] for one in page.entries] == [ENCOUNTERS, ADMISSIONS]
    for entry in page.entries:
        resource = validated(entry["resource"], release)
        assert (await client("GET", entry["fullUrl"])).json == resource
    for query, total in (
        (f"url={ENCOUNTERS}", 1), ("version=1.0.0", 1), ("title=admiss", 1), ("status=active", 2), ("status=draft", 0),
        ("resource=http://hl7.org/fhir/StructureDefinition/Encounter", 1), ("_id=x", 0), ("_count=1", 2),
    ):  # fmt: skip
        assert (await client("GET", f"/fhir{base}/SubscriptionTopic?{query}")).json["total"] == total, query
    assert (await client("GET", f"/fhir{base}/SubscriptionTopic/stranger")).status == 404


@pytest.mark.parametrize("path", ["/SubscriptionTopic", "/R4/SubscriptionTopic", "/R4/SubscriptionTopic/x"])
async def test_r4_says_where_its_topics_are(client: Client, path: str) -> None:
    reply = await client("GET", f"/fhir{path}")
    assert (reply.status, reply.ids & {"no-topics-in-r4"}) == (404, {"no-topics-in-r4"})
    assert "/metadata" in reply.text


@pytest.mark.parametrize(("base", "release"), RELEASES)
async def test_statement_says_what_is_served_and_is_valid(client: Client, base: str, release: Release) -> None:
    """S-11, S-42."""
    (rest,) = validated((await client("GET", f"/fhir{base}/metadata")).json, release)["rest"]
    resources = {one["type"]: one for one in rest["resource"]}
    subscription = resources["Subscription"]
    assert [one["code"] for one in subscription["interaction"]] == ["create", "read", "update", "delete", "search-type"]
    assert {one["name"] for one in subscription["operation"]} == {"status", "events", "get-ws-binding-token", "resend"}
    assert ("SubscriptionTopic" in resources) is (release is not Release.R4)
    advertised = [one["valueCanonical"] for one in subscription.get("extension", ())]
    assert advertised == ([ENCOUNTERS, ADMISSIONS] if release is Release.R4 else [])
    sockets = [one["valueUri"] for one in rest.get("extension", ())]
    assert sockets == ([] if release is Release.R5 else [SOCKETS])
    for resource in (subscription, resources.get("SubscriptionTopic", {"type": "", "searchParam": ()})):
        for param in resource["searchParam"]:
            value = {"_lastUpdated": "2026", "_offset": "0", "_count": "1"}.get(param["name"], "x")
            path = f"/fhir{base}/{resource['type']}?{param['name']}={value}"
            assert (await client("GET", path, Prefer="handling=strict")).status == 200, path


# --- the corpus ---

EXAMPLES: list[tuple[str, str, int, str]] = [
    # Its time is over: a server that took it would switch it off at once.
    ("Subscription-encounter-complete.json", "/R4", 422, "Subscription.end"),
    ("r5__Subscription-encounter-complete.json", "/R5", 422, "Subscription.end"),
    # Written as it stands in a server: `active` is not a client's word (S-6), and its topic is another server's.
    ("subscription-encounter-complete-fhirpath.json", "/R5", 422, "Subscription.status"),
    # Topics are the operator's, in the configuration.
    ("SubscriptionTopic-encounter-complete.json", "/R5", 422, "Subscription"),
    ("SubscriptionTopic-encounter-complete-qualified.json", "/R5", 422, "Subscription"),
    # Notifications are messages of their server; nobody subscribes by one.
    ("Bundle-notification-handshake.json", "/R4", 422, "Subscription"),
    ("Bundle-notification-id.json", "/R4", 422, "Subscription"),
    ("r4b__Bundle-notification-handshake.json", "/R4B", 422, "Subscription"),
    ("r5__Bundle-notification-handshake.json", "/R5", 422, "Subscription"),
]


@pytest.mark.parametrize(("name", "base", "status", "element"), EXAMPLES)
async def test_example_of_the_corpus_is_refused_for_its_reason(
    client: Client, name: str, base: str, status: int, element: str
) -> None:
    reply = await client("POST", f"/fhir{base}/Subscription", (CANDLE / name).read_bytes())
    assert reply.status == status
    assert element in [one for issue in reply.json["issue"] for one in issue["expression"]]


async def test_every_example_of_the_corpus_has_its_line() -> None:
    assert {path.name for path in CANDLE.iterdir()} == {name for name, *_ in EXAMPLES}


@pytest.mark.parametrize(
    ("name", "base", "release", "changed"),
    [
        ("Subscription-encounter-complete.json", "/R4", Release.R4, {"end": None}),
        ("Subscription-encounter-complete.json", "/R4B", Release.R4B, {"end": None}),
        ("r5__Subscription-encounter-complete.json", "/R5", Release.R5, {"end": None}),
        ("subscription-encounter-complete-fhirpath.json", "/R5", Release.R5,
         {"status": "requested", "topic": ENCOUNTERS}),
    ],
)  # fmt: skip
async def test_example_of_the_corpus_is_taken_once_its_reason_is_mended(
    client: Client, name: str, base: str, release: Release, changed: dict[str, Any]
) -> None:
    resource = orjson.loads((CANDLE / name).read_bytes().removeprefix(b"\xef\xbb\xbf")) | changed
    made = await client.create(base, {key: value for key, value in resource.items() if value is not None})
    shown = validated(made.json, release)
    assert shown["id"] != resource["id"]  # ids are ours
    left_out = {"id", "meta", "status", "end", "parameter", "channel", "channelType", *changed}
    assert {key: value for key, value in shown.items() if key not in left_out} == {
        key: value for key, value in resource.items() if key not in left_out
    }
