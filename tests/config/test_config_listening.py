from __future__ import annotations

import pytest

from broker.config.listening import listen
from broker.config.mistake import Wrong


@pytest.mark.parametrize(
    ("text", "loopback"),
    [
        ("127.0.0.1:8080", True),
        ("127.1.2.3:80", True),
        ("localhost:0", True),
        ("[::1]:8080", True),
        ("unix:/run/broker.sock", True),
        ("0.0.0.0:8080", False),
        ("[::]:8080", False),
        ("10.0.0.5:8080", False),
        ("broker.example:8080", False),
    ],
)
def test_a_listener_is_read_and_written_and_knows_loopback(text: str, loopback: bool) -> None:
    where = listen(text)
    assert str(where) == text
    assert where.is_loopback is loopback


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("8080", "did you mean 127.0.0.1:8080?"),
        (":8080", "did you mean 127.0.0.1:8080?"),
        ("127.0.0.1", "did you mean 127.0.0.1:8080?"),
        ("http://127.0.0.1:8080/", "did you mean 127.0.0.1:8080?"),
        ("::1:8080", ""),
        ("[1.2.3]:80", ""),
        ("unix:", "unix:/run/fhir-broker/http.sock"),
        ("127.0.0.1:80 ", ""),
    ],
)
def test_what_is_no_listener_is_wrong_with_the_nearest_one(text: str, hint: str) -> None:
    with pytest.raises(Wrong, match="must be host:port or unix:PATH") as caught:
        listen(text)
    assert caught.value.hint == hint


def test_a_port_has_an_end() -> None:
    with pytest.raises(Wrong, match="above 65535"):
        listen("127.0.0.1:65536")
