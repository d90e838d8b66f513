from __future__ import annotations

import pytest

from broker.core.subscription.offering import channels_offered
from broker.core.subscription.subscription import OWN_CHANNELS, R5_CHANNELS


@pytest.mark.parametrize(
    ("configured", "codes"),
    [
        ((), set()),
        (("http",), {"rest-hook", "message"}),
        (("websocket",), {"websocket"}),
        (("email",), {"email"}),
        (("amqp",), {"amqp"}),
        (("http", "websocket", "email", "amqp", "mqtt"), {"rest-hook", "message", "websocket", "email", "amqp"}),
    ],
)
def test_what_is_offered_is_what_a_configured_channel_can_carry(configured: tuple[str, ...], codes: set[str]) -> None:
    found = channels_offered(configured, ())
    assert {code for _, code in found} == codes
    assert {system for system, code in found if code != "amqp"} <= {R5_CHANNELS}
    assert {system for system, code in found if code == "amqp"} <= {OWN_CHANNELS}


@pytest.mark.parametrize(
    ("allow", "served"),
    [
        ((), False),
        (("https://a.example/*", "mailto:*@b.example"), False),
        (("https://a.example/*", "HTTP://127.0.0.1:9000/*"), True),
    ],
)
def test_plain_http_is_offered_where_the_list_names_it(allow: tuple[str, ...], served: bool) -> None:
    """S-40."""
    for code in ("rest-hook", "message"):
        assert ("http" in channels_offered(("http",), allow)[R5_CHANNELS, code].schemes) is served
