from __future__ import annotations

import pytest

from broker.core.subscription.targets import Target, Targets


@pytest.mark.parametrize(
    ("pattern", "meant", "not_meant"),
    [
        ("https://*.partner.example/*", "https://a.partner.example/hook", "https://partner.example.evil/hook"),
        ("http://127.0.0.1:9000/*", "http://127.0.0.1:9000/x", "http://127.0.0.1:9001/x"),
        ("mailto:*@ward.example", "mailto:nurse@WARD.example", "mailto:nurse@ward.example.evil"),
        ("mailto:nurse@ward.example", "MAILTO:nurse@ward.example", "mailto:doctor@ward.example"),
        ("mailto:*@*.example", "mailto:a@b.c.example", "mailto:a@example"),
        ("mailto:*@ward.example", "mailto:a@ward.example", "mailto:a@evil.org,b@ward.example"),
        ("mailto:*@ward.example", "mailto:a@ward.example", "mailto:*@ward.example"),
        ("amqp:?routing_key=told", "amqp:?routing_key=told", "amqp:?routing_key=told2"),
        ("amqp:?exchange=told&routing_key=*", "amqp:?exchange=told&routing_key=a.b",
         "amqp:?exchange=told&routing_key="),
        ("amqp:?exchange=told&routing_key=*", "amqp:?exchange=told&routing_key=a",
         "amqp:?exchange=told&routing_key=a&exchange=other"),
        ("amqp://rabbit.example/vhost", "amqp://rabbit.example/vhost?exchange=a", "amqp://rabbit.example/other"),
    ],
)  # fmt: skip
def test_a_pattern_means_what_it_says_and_nothing_like_it(pattern: str, meant: str, not_meant: str) -> None:
    assert Target(pattern).matches(meant)
    assert not Target(pattern).matches(not_meant)
    assert Targets([pattern]).match(meant)
    assert not Targets([pattern]).match(not_meant)


@pytest.mark.parametrize(
    "pattern", ["*", "https:*", "mailto:*", "mailto:*@*", "mailto:a b@c", "a@b", "amqp:*", "amqp:?*", "amqp:?a=*&b=c"]
)
def test_what_would_mean_everything_or_nothing_is_no_pattern(pattern: str) -> None:
    with pytest.raises(ValueError, match="no pattern"):
        Target(pattern)


def test_an_empty_list_means_nothing() -> None:
    assert not Targets([]).match("https://a.example/")
