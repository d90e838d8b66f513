"""A notification as a message of ours: with one delivery, to the endpoint or, as a FHIR message, by the directory."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from datetime import datetime, timedelta

import msgspec

from broker.core.addressing import name_key
from broker.core.delivery import State
from broker.core.message import Fate, Message, digest_text
from broker.core.outcome import NoRoute, Who
from broker.core.policy import Expects, Order, Policy
from broker.core.resolution import Whereabouts
from broker.core.routing import Question, decide
from broker.core.rules import RuleSet
from broker.core.subscription.notification import Kind
from broker.core.subscription.subscription import Subscription
from broker.flow.here import Here
from broker.flow.plan import Planning
from broker.flow.subscribing.composing import Composed
from broker.plugins import Channels
from broker.store import NewDelivery, NewMessage
from broker.store.telling import Subscribed

PROCESS = "$process-message"
REMEMBERED = 20_000  # lanes; beyond, they are worked out anew


class Posting:
    def __init__(
        self,
        *,
        here: Here,
        channels: Channels,
        planning: Planning,
        directory: Callable[[], Whereabouts],
        rules: RuleSet,
        policy: Policy,
        may_point_at: Callable[[str], bool],
    ) -> None:
        self._here = here
        self._channels = channels
        self._planning = planning
        self._directory = directory
        self._rules = rules
        # nobody answers a notification, and nobody but its subscription hears how it ended
        sync = msgspec.structs.replace(policy.sync, expects=Expects.NOTHING)
        self._policy = msgspec.structs.replace(policy, sync=sync, bounce="never", order=Order.NONE)
        self._may_point_at = may_point_at  # the operator's list, as it is now
        self._lanes: dict[str, str] = {}  # by endpoint
        self._policies: dict[timedelta, Policy] = {}  # by the limit of one attempt; few

    def lane_of(self, subscription: Subscription) -> str:
        """Where it goes, as far as can be said before it is composed; raises NoRoute."""
        if subscription.channel.code == "message":
            return subscription.endpoint
        return self._lane_at(subscription.endpoint, subscription.endpoint)

    def _lane_at(self, address: str, endpoint: str) -> str:
        lane = self._lanes.get(address)
        if lane is not None:
            return lane
        if not self._may_point_at(endpoint):
            raise NoRoute(
                "the endpoint is not on the list of those that may be notified any more: ask the operator",
                id="endpoint-not-allowed",
                who=Who.BROKER,
            )
        if len(self._lanes) >= REMEMBERED:
            self._lanes.clear()
        try:
            lane = self._lanes[address] = self._channels.lane_of(address)
            return lane
        except ValueError as error:
            raise NoRoute(f"the endpoint cannot be used: {error}", id="no-usable-address", who=Who.BROKER) from error

    def message(self, row: Subscribed, kind: Kind, composed: Composed, url: str) -> NewMessage:
        """All that is decided about it; raises NoRoute where a FHIR message has no way to the endpoint."""
        here, now = self._here, self._here.now()
        sha256 = hashlib.sha256(composed.body).digest()
        message = Message(
            header=composed.header,
            envelope=composed.envelope,
            media_type=composed.media_type,
            source=here.endpoint,
            digest=digest_text(sha256),
            size=len(composed.body),
            channel="broker",
            peer="",
            at=now,
            fate=Fate.NOTICE,
        )
        if row.subscription.channel.code == "message":
            delivery = self._by_directory(row.subscription, kind, message, now)
        else:
            delivery = self._to_endpoint(row.subscription, kind, url, now)
        return NewMessage(
            message=message,
            body=composed.body,
            digest=sha256,
            source_key=here.endpoint,
            identity=None,
            quotes=(),
            deliveries=(delivery,),
        )

    def _to_endpoint(self, subscription: Subscription, kind: Kind, url: str, now: datetime) -> NewDelivery:
        policy = self._policy_of(subscription)
        return NewDelivery(
            destination=url,
            key=name_key(url),
            address=subscription.endpoint,
            lane=self.lane_of(subscription),
            state=State.WAITING,
            due=now + policy.retry.first,
            expiry=_expiry(subscription, kind, policy, now),
            policy=policy,
            rule="subscriptions",
            fixed=True,
            priority=policy.priority,
        )

    def _by_directory(self, subscription: Subscription, kind: Kind, message: Message, now: datetime) -> NewDelivery:
        """As any message goes, by the rules too; of several addresses the first (S-47, S-51)."""
        question = Question(
            header=message.header, destinations=(subscription.endpoint,), source=self._here.endpoint, channel="broker",
            event_type=message.envelope.type, now=now,
        )  # fmt: skip
        policy = self._policy_of(subscription)
        route = decide(question, self._rules, self._directory(), policy)
        if route.is_refused:
            refusal = route.refusal()
            if refusal.problem.id == NoRoute.id and "://" in subscription.endpoint:
                return self._to_server(subscription, kind, now)
            raise refusal
        route, planned = self._planning.deliveries(route, message, now=now)
        if route.is_refused:
            raise route.refusal()
        expiry = min(planned[0].expiry, _expiry(subscription, kind, policy, now))
        return msgspec.structs.replace(planned[0], expiry=expiry)

    def _to_server(self, subscription: Subscription, kind: Kind, now: datetime) -> NewDelivery:
        """What no rule and no directory knows is the base URL of a FHIR server (S-47) on the operator's list."""
        endpoint = subscription.endpoint
        address = endpoint if endpoint.endswith(PROCESS) else f"{endpoint.rstrip('/')}/{PROCESS}"
        there = msgspec.structs.replace(subscription, endpoint=address)
        delivery = self._to_endpoint(there, kind, endpoint, now)
        return msgspec.structs.replace(delivery, lane=self._lane_at(address, endpoint))

    def _policy_of(self, subscription: Subscription) -> Policy:
        """The operator's, with the subscriber's own limit of one attempt (S-19)."""
        limit = subscription.timeout
        if limit is None:
            return self._policy
        policy = self._policies.get(limit)
        if policy is None:
            lane = msgspec.structs.replace(self._policy.lane, answer=limit)
            policy = self._policies[limit] = msgspec.structs.replace(self._policy, lane=lane)
        return policy


def _expiry(subscription: Subscription, kind: Kind, policy: Policy, now: datetime) -> datetime:
    """A heartbeat is worth nothing when the next is due."""
    if kind is Kind.HEARTBEAT and subscription.heartbeat is not None:
        return now + min(subscription.heartbeat, policy.retry.give_up)
    return now + policy.retry.give_up
