"""Which server, exchange and queue an address means, and the lane that it belongs to."""

from __future__ import annotations

import pytest

from plugins.amqp.address import Server, peer_of, queue_address, read_login, read_place, read_server


@pytest.mark.parametrize(
    ("address", "peer"),
    [
        ("amqp:?exchange=fhir&routing_key=out", "amqp:?exchange=fhir"),
        ("amqp:?exchange=fhir&routing_key=other", "amqp:?exchange=fhir"),
        ("amqp:?routing_key=clinic.in", "amqp:"),
        ("AMQPS://Gateway.example/vhost?exchange=fhir", "amqps://gateway.example:5671/vhost?exchange=fhir"),
        ("amqp://gateway.example:5673/?routing_key=q", "amqp://gateway.example:5673/"),
        ("amqp://[::1]/V?exchange=a%20b", "amqp://[::1]:5672/V?exchange=a%20b"),
        ("amqp://h/a%2Fb?exchange=x", "amqp://h:5672/a%2Fb?exchange=x"),
    ],
)
def test_lane_is_server_and_exchange(address: str, peer: str) -> None:
    assert peer_of(address) == peer


@pytest.mark.parametrize(
    ("address", "why"),
    [
        ("amqp:", "neither an exchange nor"),
        ("amqp:?exchange=", "neither an exchange nor"),
        ("amqp:fhir.in", "write amqp:?exchange="),
        ("amqps:?exchange=x", "without a host"),
        ("amqp://u:secret@h/?exchange=x", "no user or password"),
        ("amqp://h/a/b?exchange=x", "one segment"),
        ("amqp:///v?exchange=x", "names no host"),
        ("amqp://h:0/?exchange=x", "port 0"),
        ("amqp:?exchange=x&exchange=y", "twice"),
        ("amqp:?exchang=x", "exchang, where"),
        ("amqp:?x", "not name=value"),
        ("amqp:?exchange=a b", "begins with"),
        ("https://h/?exchange=x", "begins with"),
        (f"amqp:?exchange={'x' * 128}", "at most 127"),
        ("amqp:?exchange=k%C3%B8", "ASCII letters"),
        (f"amqp:?routing_key={'x' * 256}", "at most 255"),
    ],
)
def test_address_that_cannot_be_used_says_why(address: str, why: str) -> None:
    with pytest.raises(ValueError, match=why.replace("?", r"\?")) as caught:
        peer_of(address)
    assert "secret" not in str(caught.value)


def test_queue_has_an_address_that_leads_to_it_whatever_its_name() -> None:
    name = "amq.rabbitmq.reply-to.g1h2AA==.x&y+z æ"
    place = read_place(queue_address(name))
    assert (place.server, place.exchange, place.routing_key) == (None, "", name)


def test_url_of_a_server_says_login_and_vhost_and_never_shows_the_login() -> None:
    url = "amqps://bro%40ker:p%2Fw@rabbit.example/clinic%2Fone"
    server = read_server(url, user=True)
    assert server == Server(host="rabbit.example", port=5671, vhost="clinic/one", tls=True)
    assert read_login(url) == ("bro@ker", "p/w")
    assert str(server) == "amqps://rabbit.example:5671/clinic%2Fone"
    assert read_login("amqp://h/") == ("guest", "guest")
