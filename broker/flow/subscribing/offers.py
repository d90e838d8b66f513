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
        known: Callable[[str], bool] = lambda endpoint: False,
        cap: Content = Content.ID_ONLY,
        caps: Mapping[str, Content | None] | None = None,
        shortest_heartbeat: timedelta = timedelta(seconds=10),
    ) -> None:
        """`known` are endpoints of the directory, which messages may be sent to by name; `caps` are by party."""
        self._base = _url(base_url)
        self.channels = channels
        self._topic = topic
        self._may_point_at = may_point_at
        self._known = known
        self._cap = cap
        self._caps = caps or {}
        self._heartbeat = shortest_heartbeat

    def of(self, owner: str) -> Offer:
        cap = self._caps.get(owner) or self._cap
        return Offer(
            channels=self.channels,
            topic=self._topic,
            may_point_at=self._allowed,
            cap=cap,
            default_content=cap if Content.ID_ONLY.exceeds(cap) else Content.ID_ONLY,
            reads_mailbox=not self._caps,  # while no party is configured, who reaches us reads all mailboxes (S-57a)
            shortest_heartbeat=self._heartbeat,
        )

    def _allowed(self, endpoint: str) -> bool:
        """An address must be on the operator's list; a name is looked up, so the directory's entry allows it."""
        if endpoint.lower().startswith("urn:"):
            return self._known(endpoint)
        return self._may_point_at(endpoint)

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
