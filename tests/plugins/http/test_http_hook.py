"""`/in/{name}`: the rest-hook of another FHIR server points here (S-40, S-41)."""

from __future__ import annotations

import pytest
from http_desk import MESSAGE

from broker.channel import Asked

NOTIFICATION = MESSAGE.replace(b'"message"', b'"subscription-notification"')


async def test_notification_is_an_arrival_of_its_way_in_and_waits_for_nothing(served):
    response = await served.post("/in/south", data=NOTIFICATION)
    assert response.status == 202
    (arrival,) = served.host.arrivals
    assert (arrival.body, arrival.way_in) == (NOTIFICATION, "south")
    assert arrival.asked == Asked(asynchronous=True)


async def test_refusal_of_a_notification_is_said_to_its_server(served):
    response = await served.post("/in/south", data=NOTIFICATION, headers={"Content-Type": "text/plain"})
    assert response.status == 415
    assert served.host.arrivals == []


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("POST", "/in/south", b""),
        ("PUT", "/in/south/Patient/1", b'{"resourceType":"Patient"}'),
        ("POST", "/in/south/Patient/1", b'{"resourceType":"Patient"}'),
    ],
)
async def test_what_does_not_say_what_happened_is_refused_with_a_word_on_what_does(served, method, path, body):
    """S-41: an empty notification, or the bare resource."""
    reply = await served.post(path, data=body, method=method, headers={"Content-Type": None} if not body else {})
    assert reply.status == 422
    assert "classic-notification" in reply.ids
    assert "backport-payload-content" in reply.body.decode()
    assert served.host.arrivals == []
