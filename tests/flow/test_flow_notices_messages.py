"""Notifications as FHIR messages: by the directory where it knows the endpoint, else to the server that it names."""

from __future__ import annotations

import orjson
import pytest
from flow_post import ENDPOINTS, A
from flow_subscribers import SubscribedPost, Subscribing, subscription

from broker.core.policy import Rule
from broker.core.subscription.subscription import R5_CHANNELS, ChannelType, Status, Subscription

SERVER = "test://server/fhir"


def written(endpoint: str) -> Subscription:
    return subscription(channel=ChannelType(R5_CHANNELS, "message"), endpoint=endpoint)


async def addresses(post: SubscribedPost, endpoint: str) -> list[str]:
    """Where its handshake went."""
    row = await post.subscribes(written(endpoint))
    await post.rest()
    assert post.row(row).life.status is Status.ACTIVE, post.row(row).life
    return [sent.address for sent in post.script.sent]


async def test_endpoint_that_the_directory_knows_is_reached_by_it(subscribing: Subscribing) -> None:
    """S-51."""
    post = await subscribing()
    assert await addresses(post, A) == [ENDPOINTS[A]]
    (sent,) = post.script.sent
    bundle = orjson.loads(sent.body)
    assert (bundle["type"], bundle["entry"][1]["resource"]["type"]) == ("message", "subscription-notification")
    assert sent.manner is None  # a message as any: with an envelope


@pytest.mark.parametrize("endpoint", [SERVER, f"{SERVER}/", f"{SERVER}/$process-message"])
async def test_server_that_nobody_else_knows_is_reached_by_its_base_url(
    subscribing: Subscribing, endpoint: str
) -> None:
    """S-47."""
    post = await subscribing()
    assert await addresses(post, endpoint) == [f"{SERVER}/$process-message"]


async def test_name_that_nobody_knows_is_an_error_that_says_so(subscribing: Subscribing) -> None:
    post = await subscribing()
    row = await post.subscribes(written("urn:oid:9.9.9"))
    await post.rest()
    life = post.row(row).life
    assert life.status is Status.ERROR
    assert "urn:oid:9.9.9" in life.error


async def test_what_a_rule_refuses_is_not_sent_past_it(subscribing: Subscribing) -> None:
    post = await subscribing(rules=(Rule(name="none of these", refuse="not over here"),))
    row = await post.subscribes(written(SERVER))
    await post.rest()
    assert post.row(row).life.status is Status.ERROR
    assert post.script.sent == []
