"""What leaves for a subscriber: its bytes and headers, nothing of ours; consent before data (S-40, S-41, C-25…C-32)."""

from __future__ import annotations

from datetime import timedelta

import pytest
from http_desk import MESSAGE, OUTCOME, full_envelope, read_request

from broker.channel import Deferred, Delivered, Manner, Refused, Taken
from broker.core.outcome import Who

TYPE = "application/fhir+json; fhirVersion=4.0"
TOLD = {"taken": Taken.NOTHING_TO_SAY}
CONSENT = Manner(method="OPTIONS", origin="broker.example", rate=120)


def lines_of(head: bytes) -> list[str]:
    return head.partition(b"\r\n\r\n")[0].decode().split("\r\n")


@pytest.fixture
def wire(peer, send):
    """The request as it was on the wire, its head line by line."""

    async def told(path: str = "/hook", **changes):
        seen = []

        async def behave(reader, writer, raw):
            seen.append(await read_request(reader))
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")

        async with peer(behave) as raw:
            place = raw.url.partition("/fhir")[0]
            end = await send(place + path, media_type=TYPE, **changes)
        assert end == Delivered(**TOLD, status=200, note="200 OK")
        host = place.removeprefix("http://")
        head, _, body = seen[0].partition(b"\r\n\r\n")
        return [line.replace(host, "HOST") for line in lines_of(head)], body

    return told


async def test_a_notification_has_nothing_of_ours_around_it(wire):
    """S-40: the endpoint as it is written, the media type of the Subscription, and each of its headers."""
    headers = (("Authorization", "Bearer secret"), ("X-Ward", " 7 north"))
    head, body = await wire(
        "/hook?token=a%20b", manner=Manner(headers=headers), envelope=full_envelope(digest="sha-256=" + "A" * 43 + "=")
    )
    assert head == [
        "POST /hook?token=a%20b HTTP/1.1",
        "Host: HOST",
        "Authorization: Bearer secret",
        "X-Ward: 7 north",
        f"Content-Type: {TYPE}",
        "User-Agent: fhir-broker",
        f"Content-Length: {len(MESSAGE)}",
    ]
    assert body == MESSAGE


async def test_an_empty_notification_has_no_media_type(wire):
    """S-41: R4 classic without `payload`."""
    head, body = await wire(body=b"", manner=Manner())
    assert head[2:] == ["User-Agent: fhir-broker", "Content-Length: 0"]
    assert body == b""


@pytest.mark.parametrize(
    ("address", "line"),
    [
        ("/fhir", "PUT /fhir/Patient/1 HTTP/1.1"),
        ("/fhir/", "PUT /fhir/Patient/1 HTTP/1.1"),
        ("/fhir?key=x", "PUT /fhir/Patient/1?key=x HTTP/1.1"),
        ("", "PUT /Patient/1 HTTP/1.1"),
    ],
)
async def test_a_classic_payload_is_put_below_its_endpoint(wire, address, line):
    """S-41: the endpoint is a service base, `PUT [endpoint]/[Type]/[id]`."""
    head, body = await wire(address, manner=Manner(method="PUT", path="Patient/1"))
    assert head[0] == line
    assert body == MESSAGE


async def test_who_consented_is_told_each_time_who_sends(wire):
    """C-29."""
    head, _ = await wire(manner=Manner(origin="broker.example"))
    assert "WebHook-Request-Origin: broker.example" in head


async def test_a_subscriber_may_name_its_own_user_agent(wire):
    head, _ = await wire(manner=Manner(headers=(("user-agent", "ward"),)))
    assert [line for line in head if line.lower().startswith("user-agent")] == ["user-agent: ward"]


@pytest.mark.parametrize(
    "header",
    [
        ("X-Secret", "a\r\nHost: other"),
        ("X-Secret", "a\nb"),
        ("X-Secret", "a\0b"),
        ("X Secret", "a"),
        ("", "a"),
        ("X-Secret:", "a"),
        ("Content-Length", "1"),
        ("content-type", "text/plain"),
        ("HOST", "other.example"),
        ("Transfer-Encoding", "chunked"),
        ("Connection", "close"),
        ("Expect", "100-continue"),
        ("WebHook-Request-Origin", "other.example"),
    ],
)
async def test_a_header_that_would_change_the_request_is_refused_and_never_said(partner, send, header):
    end = await send(partner.url + "/hook", manner=Manner(headers=(header,)))
    assert isinstance(end, Refused)
    assert end.problem.id == "unusable-header"
    assert end.problem.who is Who.BROKER
    assert "other" not in repr(end)
    assert partner.seen == []


@pytest.mark.parametrize("status", [200, 201, 202, 204, 206])
async def test_any_2xx_is_delivered_and_no_message_comes_back_in_it(partner, send, status):
    partner.reply = (status, {"Content-Type": "application/fhir+json"}, b"" if status == 204 else MESSAGE)
    end = await send(partner.url + "/hook", manner=Manner())
    assert isinstance(end, Delivered)
    assert (end.taken, end.status, end.body) == (Taken.NOTHING_TO_SAY, status, None)


async def test_a_redirect_is_refused_and_not_followed(partner, send):
    """C-27."""
    partner.reply = (307, {"Location": partner.url + "/other"}, b"")
    end = await send(partner.url + "/hook", manner=Manner())
    assert isinstance(end, Refused)
    assert end.problem.id == "redirected"
    assert len(partner.seen) == 1


async def test_410_says_that_nothing_more_is_to_be_sent(partner, send):
    """C-27."""
    partner.reply = (410, {}, OUTCOME)
    end = await send(partner.url + "/hook", manner=Manner())
    assert isinstance(end, Refused)
    assert (end.problem.id, end.problem.code, end.problem.who, end.status) == ("gone", "deleted", Who.RECEIVER, 410)


async def test_415_is_refused_and_429_waits_as_long_as_it_says(partner, send):
    """C-27."""
    partner.reply = (415, {}, b"")
    end = await send(partner.url + "/hook", manner=Manner())
    assert isinstance(end, Refused)
    assert end.problem.code == "not-supported"
    partner.reply = (429, {"Retry-After": "90"}, b"")
    end = await send(partner.url + "/hook", manner=Manner())
    assert isinstance(end, Deferred)
    assert end.retry_after == timedelta(seconds=90)


async def test_a_subscriber_that_cannot_be_reached_is_tried_again(peer, send):
    async with peer(b"") as raw:
        end = await send(raw.url, manner=Manner())
    assert isinstance(end, Deferred)


async def test_our_own_address_is_no_endpoint(send):
    end = await send("http://broker.example/events", manner=Manner(method="PUT", path="Patient/1"))
    assert isinstance(end, Refused)
    assert end.problem.id == "own-address"
    assert "Subscription" in end.problem.text


# --- consent (C-28…C-30) ---


async def test_consent_is_asked_for_at_the_very_url_before_any_data(peer, send):
    seen = []

    async def behave(reader, writer, raw):
        seen.append(await read_request(reader))
        writer.write(b"HTTP/1.1 204 No Content\r\nWebHook-Allowed-Origin: *\r\nWebHook-Allowed-Rate: 60\r\n\r\n")

    manner = Manner(
        method="OPTIONS",
        origin="broker.example",
        callback="https://broker.example/consent/x",
        rate=120,
        headers=(("Authorization", "Bearer secret"),),
    )
    async with peer(behave) as raw:
        end = await send(raw.url + "?a=b", body=b"", manner=manner)
    assert end == Delivered(**TOLD, status=204, note="204 No Content, consents, 60 a minute")
    head = lines_of(seen[0])
    assert head[0] == "OPTIONS /fhir/$process-message?a=b HTTP/1.1"
    assert head[2:] == [
        "Authorization: Bearer secret",
        "User-Agent: fhir-broker",
        "WebHook-Request-Origin: broker.example",
        "WebHook-Request-Callback: https://broker.example/consent/x",
        "WebHook-Request-Rate: 120",
        "Content-Length: 0",
    ]


@pytest.mark.parametrize("status", [200, 204, 405, 500])
@pytest.mark.parametrize("origin", ["*", "broker.example", "Broker.Example"])
async def test_the_header_alone_is_consent_whatever_the_status(partner, send, status, origin):
    """C-29."""
    partner.reply = (status, {"WebHook-Allowed-Origin": origin}, b"")
    end = await send(partner.url + "/hook", body=b"", manner=CONSENT)
    assert isinstance(end, Delivered)
    assert end.status == status


@pytest.mark.parametrize("status", [200, 204, 404, 405, 410])
async def test_an_answer_without_the_header_is_no_consent(partner, send, status):
    partner.reply = (status, {"Allow": "POST, OPTIONS"}, b"")
    end = await send(partner.url + "/hook", body=b"", manner=CONSENT)
    assert isinstance(end, Refused)
    assert (end.problem.id, end.problem.who, end.status) == ("no-consent", Who.RECEIVER, status)


async def test_consent_to_another_is_none(partner, send):
    partner.reply = (200, {"WebHook-Allowed-Origin": "other.example"}, b"")
    for manner in (CONSENT, Manner(method="OPTIONS", origin="broker.example", callback="https://broker.example/c")):
        end = await send(partner.url + "/hook", body=b"", manner=manner)
        assert isinstance(end, Refused)
        assert end.problem.id == "no-consent"


async def test_where_a_callback_was_offered_consent_may_come_later(partner, send):
    """C-30."""
    partner.reply = (200, {}, b"")
    manner = Manner(method="OPTIONS", origin="broker.example", callback="https://broker.example/consent/x")
    end = await send(partner.url + "/hook", body=b"", manner=manner)
    assert isinstance(end, Deferred)
    assert not end.of_peer


async def test_a_target_in_trouble_is_asked_again(partner, send):
    partner.reply = (503, {"Retry-After": "5"}, b"")
    end = await send(partner.url + "/hook", body=b"", manner=CONSENT)
    assert isinstance(end, Deferred)
    assert end.retry_after == timedelta(seconds=5)
