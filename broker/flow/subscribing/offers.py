"""What is served to which party: channels, topics, endpoints, and how much it is told (S-8, S-9, S-61, S-63)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import timedelta

from broker.core.address_pattern import Url, read_url
from broker.core.outcome import SubscriptionRefused
from broker.core.subscription.check import ChannelOffer, Offer
from broker.core.subscription.subscription import Content, Model, Subscription
from broker.core.subscription.topic import Topic

EVENTS = "events"  # where CloudEvents come in, outside the FHIR base


class Offers:
    def __init__(
        self,
        *,
        base_url: str,
        channels: Mapping[tuple[str, str], ChannelOffer],
        topic: Callable[[str], Topic | None],
        may_point_at: Callable[[str], bool],
        known: Callable[[str], bool],
        cap: Callable[[str], Content],
        parties: bool,
        shortest_heartbeat: timedelta = timedelta(seconds=10),
    ) -> None:
        """`may_point_at` is the operator's list, `known` tells what the directory has, `cap` is by party."""
        self._base = _url(base_url)
        self._channels = channels
        self._topic = topic
        self._may_point_at = may_point_at
        self._known = known
        self._cap = cap
        self._parties = parties
        self._heartbeat = shortest_heartbeat

    def of(self, owner: str, subscription: Subscription) -> Offer:
        """What this party is offered for such a subscription.

        What is told as messages goes by the directory, so it is the directory, too, that allows their endpoints (S-51).
        """
        cap = self._cap(owner)
        return Offer(
            channels=self._channels,
            topic=self._topic,
            may_point_at=self._may_be_written_to if subscription.channel.code == "message" else self._may_point_at,
            cap=cap,
            default_content=cap if Content.ID_ONLY.exceeds(cap) else Content.ID_ONLY,
            reads_mailbox=not self._parties,  # then whoever reaches us reads all mailboxes (S-57a)
            shortest_heartbeat=self._heartbeat,
        )

    def _may_be_written_to(self, endpoint: str) -> bool:
        return self._may_point_at(endpoint) or self._known(endpoint)

    def refuse_own(self, subscription: Subscription) -> None:
        """We are not told by ourselves: what would be told would be told of again."""
        there = _url(subscription.endpoint)
        if self._base is None or there is None:
            return
        if (there.host, there.port) != (self._base.host, self._base.port):
            return
        mine = () if self._base.path == ("",) else self._base.path
        if there.path[: len(mine)] == mine or there.path[0] == EVENTS:
            native = subscription.model is Model.NATIVE
            raise SubscriptionRefused(
                "The endpoint is this broker's own: name the subscriber's.",
                id="endpoint-is-ours",
                code="business-rule",
                expression="Subscription.endpoint" if native else "Subscription.channel.endpoint",
            )


def _url(text: str) -> Url | None:
    try:
        return read_url(text)
    except ValueError:
        return None
