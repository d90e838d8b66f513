"""CloudEvents in and out over HTTP: three modes, consent, any data (C-5, C-6, C-15…C-20, C-25…C-31, C-63)."""

from __future__ import annotations

import base64
import json
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from http_desk import MESSAGE, MESSAGE_ID, RECEIPT, ScriptedHost, full_envelope, transmission

from broker.channel import Answer, AnswerKind, Delivered
from broker.core.answer import Receipt
from broker.core.cloudevent import read_event
from broker.core.outcome import Busy, NoRoute, Problem
from plugins.http.sender import HttpSender
from plugins.http.settings import HttpSettings

CORPUS = Path(__file__).parents[2] / "corpus" / "cloudevents"
BATCH, STRUCTURED = "application/cloudevents-batch+json", "application/cloudevents+json"
EVENT = {"specversion": "1.0", "id": "e-1", "source": "/wards/7", "type": "hospital_admission"}
CE = {f"ce-{name}": value for name, value in EVENT.items()}


def event(**members: Any) -> dict[str, Any]:
    return {**EVENT, **members}


def as_json(value: Any) -> bytes:
    return json.dumps(value).encode()


# --- the three modes ---


async def test_a_binary_event_is_its_body_and_its_headers(served):
    """C-16, C-17."""
    headers = {**CE, "ce-subject": "NHI%20123", "ce-destination": "urn:oid:1", "Content-Type": "text/plain; charset=x"}
    reply = await served.post("/events", b"any \xff bytes", headers=headers)
    assert reply.status == 202
    (arrival,) = served.host.arrivals
    assert (arrival.body, arrival.media_type) == (b"any \xff bytes", "text/plain; charset=x")
    envelope = arrival.envelope
    assert (envelope.id, envelope.source, envelope.type) == ("e-1", "/wards/7", "hospital_admission")
    assert (envelope.destination, envelope.more) == (("urn:oid:1",), (("subject", "NHI 123"),))
    assert arrival.event
    assert arrival.asked.asynchronous


async def test_an_event_is_acknowledged_with_our_id_and_its_status_url(served):
    """C-27: 202, accepted and not yet processed; whatever the caller says that it can read."""
    reply = await served.post("/events", b"x", headers={**CE, "Content-Type": "text/plain", "Accept": "text/html"})
    assert reply.status == 202
    assert reply.headers["Content-Location"] == f"http://broker.example/fhir/status/{MESSAGE_ID}"
    assert "accepted" in reply.ids


@pytest.mark.parametrize(
    "content_type", [STRUCTURED, "Application/CloudEvents+JSON; charset=utf-8", f'{STRUCTURED};charset="UTF-8"']
)
async def test_a_structured_event_carries_the_text_of_its_data(served, content_type):
    """C-4, C-15: not written anew."""
    data = b'{ "a" : 1.50,  "b":"\\u00e6" }'
    body = as_json(event(comexample=True)).replace(
        b"}", b', "datacontenttype":"application/json","data":' + data + b"}"
    )
    assert (await served.post("/events", body, headers={"Content-Type": content_type})).status == 202
    (arrival,) = served.host.arrivals
    assert (arrival.body, arrival.media_type) == (data, "application/json")
    assert arrival.envelope.more == (("comexample", "true"),)


async def test_a_batch_is_taken_event_by_event_in_its_order(served):
    """C-19, and C-15: the longer prefix is tried first."""
    events = [event(id=f"e-{n}", data_base64=base64.b64encode(bytes([n])).decode()) for n in range(3)]
    reply = await served.post("/events", as_json(events), headers={"Content-Type": f"{BATCH}; charset=utf-8"})
    assert reply.status == 202
    assert [(one.envelope.id, one.body) for one in served.host.arrivals] == [(f"e-{n}", bytes([n])) for n in range(3)]
    assert [issue["expression"] for issue in reply.json["issue"]] == [["[0]"], ["[1]"], ["[2]"]]
    assert served.host.room.held == 0


async def test_an_empty_batch_is_nothing_to_do(served):
    reply = await served.post("/events", b" [ ] ", headers={"Content-Type": BATCH})
    assert (reply.status, reply.body) == (204, b"")


@pytest.mark.parametrize("body", [b'{"much": "wow"}', b"", b"null"])
@pytest.mark.parametrize("name", [None, "ward"])
async def test_the_way_in_may_have_a_name_that_rules_know(served, body, name):
    path = "/events" if name is None else f"/in/{name}/events"
    headers = {**CE, "Content-Type": "application/json" if body else None}
    assert (await served.post(path, body, headers=headers, skip_auto_headers=["Content-Type"])).status == 202
    (arrival,) = served.host.arrivals
    assert (arrival.way_in, arrival.body) == (name, body)
    assert arrival.media_type == ("application/json" if body else "")


async def test_a_body_that_does_not_say_what_it_is_is_any_bytes(served):
    headers = {**CE, "Content-Type": None}
    await served.post("/events", b"x", headers=headers, skip_auto_headers=["Content-Type"])
    assert served.host.arrivals[0].media_type == "application/octet-stream"


@pytest.mark.parametrize("data", [{}, {"data": None}, {"datacontenttype": "text/plain"}])
async def test_no_data_and_null_are_two_things(served, data):
    """C-5."""
    await served.post("/events", as_json(event(**data)), headers={"Content-Type": STRUCTURED})
    assert served.host.arrivals[0].body == (b"null" if "data" in data else b"")


# --- what is refused ---


@pytest.mark.parametrize("missing", ["id", "source", "type", "specversion"])
async def test_what_lacks_a_required_attribute_is_no_event(served, missing):
    """C-18."""
    headers = {**CE, "Content-Type": "application/json", f"ce-{missing}": None}
    reply = await served.post("/events", b"{}", headers=headers)
    assert (reply.status, reply.issue["expression"]) == (400, [f"http.ce-{missing}"])
    members = {name: value for name, value in EVENT.items() if name != missing}
    reply = await served.post("/events", as_json(members), headers={"Content-Type": STRUCTURED})
    assert (reply.status, reply.issue["expression"]) == (400, [missing])
    assert served.host.arrivals == []


@pytest.mark.parametrize(
    "content_type",
    [
        "application/cloudevents+avro",
        "application/cloudevents",
        "application/cloudevents-batch",
        "application/cloudevents-batch+avro",
        f"{STRUCTURED}; charset=utf-16",
    ],
)
async def test_a_format_of_events_that_is_not_read_here_is_415(served, content_type):
    """C-20, C-27: never taken for a binary event."""
    reply = await served.post("/events", b"{}", headers={**CE, "Content-Type": content_type})
    assert reply.status == 415
    assert served.host.arrivals == []


@pytest.mark.parametrize(
    "headers",
    [
        {"ce-datacontenttype": "text/plain"},
        {"ce-specversion": "0.3"},
        {"ce-subject": "%C0%A0"},
        {"ce-expirytime": "tomorrow"},
    ],
)
async def test_a_malformed_attribute_is_400(served, headers):
    """C-16, C-17."""
    reply = await served.post("/events", b"{}", headers={**CE, "Content-Type": "application/json", **headers})
    assert (reply.status, reply.issue["expression"]) == (400, [f"http.{next(iter(headers))}"])


@pytest.mark.parametrize(
    ("body", "where"),
    [
        (b"{}", "$"),
        (b'[{"specversion":"1.0"}]', "[0].id"),
        (as_json([EVENT, event(data=1, data_base64="AA==")]), "[1].data_base64"),
        (as_json([EVENT, 7]), "[1].$"),
    ],
)
async def test_a_batch_that_cannot_be_read_is_refused_whole(served, body, where):
    """C-19."""
    reply = await served.post("/events", body, headers={"Content-Type": BATCH})
    assert (reply.status, reply.issue["expression"]) == (400, [where])
    assert served.host.arrivals == []


async def test_a_batch_has_a_bound(serve):
    async with serve(ScriptedHost(), HttpSettings(events_in_batch=2)) as served:
        reply = await served.post("/events", as_json([EVENT] * 3), headers={"Content-Type": BATCH})
        assert (reply.status, served.host.arrivals) == (413, [])
        assert "events_in_batch" in reply.issue["details"]["text"]
        assert (await served.post("/events", as_json([EVENT] * 2), headers={"Content-Type": BATCH})).status == 202


async def test_one_refused_event_is_an_error_for_the_batch_that_says_which(served):
    """C-19: the others are kept, and known when the batch comes again."""

    async def answer(arrival):
        if arrival.envelope.id == "e-1":
            raise Busy("not now", retry_after=7)
        if arrival.envelope.id == "e-2":
            raise NoRoute("nobody is called so", expression="destination")
        return Answer(kind=AnswerKind.ACCEPTED, receipt=RECEIPT)

    served.host.answer = answer
    events = as_json([event(id=f"e-{n}") for n in range(4)])
    reply = await served.post("/events", events, headers={"Content-Type": BATCH})
    assert reply.status == 404, "what will not pass decides: the same batch would be refused again"
    assert [issue.get("expression") for issue in reply.json["issue"]] == [["[2].destination"], ["[1]"], None]
    assert "(2) are kept" in reply.json["issue"][-1]["details"]["text"]


async def test_a_batch_that_is_refused_for_now_says_when(served):
    """C-27: Retry-After, the longest that any of its events asks for."""

    async def answer(arrival):
        raise Busy("not now", retry_after=7 if arrival.envelope.id == "e-1" else 3)

    served.host.answer = answer
    reply = await served.post(
        "/events", as_json([event(id=f"e-{n}") for n in range(3)]), headers={"Content-Type": BATCH}
    )
    assert (reply.status, reply.headers["Retry-After"]) == (503, "7")


async def test_copies_in_a_batch_are_told_as_what_became_of_the_first(served):
    duplicate = Receipt(message_id=MESSAGE_ID, position=7, duplicate=True)
    problem = Problem(code="business-rule", id="refused-by-receiver", text="no")

    async def answer(arrival):
        refused = arrival.envelope.id == "e-1"
        return Answer(
            kind=AnswerKind.REFUSED if refused else AnswerKind.ACCEPTED,
            receipt=duplicate,
            problem=problem if refused else None,
        )

    served.host.answer = answer
    headers = {"Content-Type": BATCH}
    reply = await served.post("/events", as_json([event(id="e-0")]), headers=headers)
    assert (reply.status, "duplicate" in reply.ids) == (202, True)
    reply = await served.post("/events", as_json([event(id="e-0"), event(id="e-1")]), headers=headers)
    assert reply.status >= 400
    assert (reply.issue["expression"], "refused-by-receiver" in reply.ids) == (["[1]"], True)


async def test_data_of_64_kib_is_taken_and_what_is_over_the_limit_is_413(serve):
    """C-6; a structured event is larger than its data, which alone counts."""
    async with serve(ScriptedHost(max_message=65536)) as served:
        for size, status in ((65536, 202), (65537, 413)):
            encoded = base64.b64encode(b"x" * size).decode()
            one = event(id=f"e-{size}", data_base64=encoded)
            assert (await served.post("/events", as_json(one), headers={"Content-Type": STRUCTURED})).status == status
            assert (await served.post("/events", as_json([one]), headers={"Content-Type": BATCH})).status == status
            headers = {**CE, "Content-Type": "text/plain"}
            assert (await served.post("/events", b"x" * size, headers=headers)).status == status


async def test_an_event_whose_digest_is_another_is_refused_as_changed(served):
    digest = "sha-256=" + base64.b64encode(b"x" * 32).decode()
    reply = await served.post("/events", as_json(event(digest=digest, data=1)), headers={"Content-Type": STRUCTURED})
    assert (reply.status, reply.issue["code"]) == (400, "transient")


async def test_no_event_is_taken_while_the_broker_starts_or_stops(served):
    await served.receiver.stop()
    reply = await served.post("/events", b"", headers=CE)
    assert (reply.status, reply.headers["Retry-After"]) == (503, "5")


# --- consent (C-31) ---


@pytest.fixture
async def choosy(serve):
    settings = HttpSettings(webhook_origins=("Sender.example",), webhook_rate=600)
    async with serve(ScriptedHost(), settings) as one:
        yield one


async def test_a_sender_that_is_known_may_send(choosy):
    headers = {"WebHook-Request-Origin": "sender.example", "WebHook-Request-Rate": "1000"}
    reply = await choosy.post("/events", None, method="OPTIONS", headers={**headers, "Content-Type": None})
    assert reply.status == 200
    assert reply.headers["WebHook-Allowed-Origin"] == "sender.example"
    assert reply.headers["WebHook-Allowed-Rate"] == "600"


@pytest.mark.parametrize("origin", [None, "", "other.example", "*"])
async def test_a_stranger_gets_405_and_no_consent(choosy, served, origin):
    for one in (choosy, served):
        headers = {"WebHook-Request-Origin": origin, "Content-Type": None}
        reply = await one.post("/events", None, method="OPTIONS", headers=headers)
        assert (reply.status, reply.headers["Allow"]) == (405, "POST")
        assert not [name for name in reply.headers if name.lower().startswith("webhook")]


async def test_all_may_send_where_the_operator_says_so_and_no_rate_is_said_unasked(serve):
    async with serve(ScriptedHost(), HttpSettings(webhook_origins=("*",))) as served:
        headers = {"WebHook-Request-Origin": "any.example", "Content-Type": None}
        reply = await served.post("/events", None, method="OPTIONS", headers=headers)
        assert reply.headers["WebHook-Allowed-Origin"] == "any.example"
        assert "WebHook-Allowed-Rate" not in reply.headers
        headers["WebHook-Request-Rate"] = "1"
        reply = await served.post("/events", None, method="OPTIONS", headers=headers)
        assert reply.headers["WebHook-Allowed-Rate"] == "*"


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"events_in_batch": 0}, "events_in_batch"),
        ({"webhook_rate": -1}, "webhook_rate"),
        ({"webhook_origins": ("a b",)}, "webhook_origins"),
        ({"dataref_above": 10}, "dataref_to"),
        ({"dataref_to": ("https://a.example/*",)}, "dataref_above"),
    ],
)
def test_settings_that_mean_nothing_are_refused(settings, says):
    with pytest.raises(ValueError, match=says):
        HttpSettings(**settings)


# --- what leaves ---


async def test_an_event_leaves_as_its_data_with_its_attributes_in_headers(partner, send):
    """C-8, C-16: to the very address, without anything of FHIR's."""
    envelope = full_envelope(more=(("subject", "a b"), ("dataref", "https://a.example/x"), ("comexample", "1")))
    end = await send(partner.url + "/hook?a=b", body=b"\x00 any", media_type="image/png", envelope=envelope, event=True)
    assert isinstance(end, Delivered)
    (seen,) = partner.seen
    assert (seen.target, seen.body) == ("/hook?a=b", b"\x00 any")
    assert (seen.headers["Content-Type"], "Accept" in seen.headers) == ("image/png", False)
    assert (seen.headers["ce-subject"], seen.headers["ce-comexample"]) == ("a%20b", "1")
    assert seen.headers["ce-dataref"] == "https://a.example/x"


@pytest.mark.parametrize("media_type", ["", "application/json"])
async def test_an_event_without_data_leaves_in_structured_mode(partner, send, media_type):
    """C-25: no event of headers alone."""
    envelope = full_envelope(more=(("subject", "x"),))
    await send(partner.url + "/hook", body=b"", media_type=media_type, envelope=envelope, event=True)
    (seen,) = partner.seen
    assert seen.headers["Content-Type"] == f"{STRUCTURED}; charset=utf-8"
    read = read_event(seen.body)
    assert (read.body, read.media_type, read.envelope.more) == (b"", media_type, (("subject", "x"),))
    assert (read.envelope.id, read.envelope.source, read.envelope.type) == ("b-1", "urn:oid:1.2.3", "org.example.x")


@pytest.mark.parametrize("is_event", [True, False])
async def test_who_takes_structured_events_gets_everything_so(partner, is_event):
    sender = HttpSender(HttpSettings(structured_to=(f"{partner.url}/hook",)), ScriptedHost())
    try:
        envelope = full_envelope(more=(("subject", "x"),))
        await sender.attempt(transmission(partner.url + "/hook", envelope=envelope, event=is_event))
        read = read_event(partner.seen[0].body)
        assert (read.body, read.media_type) == (MESSAGE, "application/fhir+json; fhirVersion=4.0")
        assert (read.envelope.id, read.envelope.more) == ("b-1", (("subject", "x"),))
        await sender.attempt(transmission(partner.url + "/other", envelope=envelope, event=is_event))
        assert (partner.seen[1].body, partner.seen[1].headers["ce-id"]) == (MESSAGE, "b-1")
    finally:
        await sender.stop()


@pytest.mark.parametrize("is_event", [True, False])
async def test_what_is_large_leaves_as_a_reference_to_who_fetches(partner, is_event):
    """C-6: the same id, and where the same bytes are."""
    settings = HttpSettings(dataref_above=100, dataref_to=(f"{partner.url}/fetching/*",))
    sender = HttpSender(settings, ScriptedHost())
    try:
        for path, size, thin in (("/fetching/x", 101, True), ("/fetching/x", 100, False), ("/other", 101, False)):
            body = MESSAGE.ljust(size)[:size]
            sent = transmission(partner.url + path, body=body, envelope=full_envelope(), event=is_event)
            assert isinstance(await sender.attempt(sent), Delivered)
            seen = partner.seen.pop()
            assert ("async=true" in seen.target) is not is_event
            if not thin:
                assert (seen.body, seen.headers["Content-Type"]) == (body, sent.media_type)
                continue
            read = read_event(seen.body)
            assert read.envelope.more == (("dataref", f"http://broker.example/fhir/Bundle/{MESSAGE_ID}"),)
            assert (read.body, read.media_type, read.envelope.id) == (b"", sent.media_type, "b-1")
            assert read.envelope.digest is None, "it is the digest of data that is not there"
    finally:
        await sender.stop()


async def test_who_referred_to_its_data_itself_is_not_overruled(partner):
    settings = HttpSettings(dataref_above=1, dataref_to=(f"{partner.url}/*",))
    sender = HttpSender(settings, ScriptedHost())
    try:
        envelope = full_envelope(more=(("dataref", "https://a.example/x"),))
        await sender.attempt(transmission(partner.url + "/x", body=b"data", envelope=envelope, event=True))
        assert (partner.seen[0].body, partner.seen[0].headers["ce-dataref"]) == (b"data", "https://a.example/x")
    finally:
        await sender.stop()


# --- the corpus ---


@pytest.mark.parametrize("name", ["structured-event-0", "structured-event-1", "v1__structured-event-2"])
async def test_structured_events_of_the_javascript_sdk_are_read(served, name):
    text = (CORPUS / "cloudevents__sdk-javascript" / f"{name}.json").read_bytes()
    assert (await served.post("/events", text, headers={"Content-Type": STRUCTURED})).status == 202
    (arrival,) = served.host.arrivals
    assert (json.loads(arrival.body), arrival.media_type) == ({"much": "wow"}, "application/json")
    assert arrival.envelope.type == "com.github.pull.create"


async def test_an_event_of_an_older_version_is_refused(served):
    """Only 1.0 is understood; 0.3 writes its data another way."""
    text = (CORPUS / "cloudevents__sdk-javascript" / "structured-event-2.json").read_bytes()
    reply = await served.post("/events", text, headers={"Content-Type": STRUCTURED})
    assert reply.status == 400


async def test_an_answer_is_waited_for_no_longer_than_the_attempt_may_take(peer, send):
    async def behave(reader, writer, raw):
        await reader.read()

    async with peer(behave) as raw:
        end = await send(raw.url, body=b"x", event=True, envelope=full_envelope(), answer=timedelta(seconds=0.2))
    assert not isinstance(end, Delivered)
