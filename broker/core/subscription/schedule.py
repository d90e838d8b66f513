"""What a subscription wants next, and whether what is on its way to it is still wanted (S-15 to S-17, S-22)."""

from __future__ import annotations

from datetime import datetime

import msgspec

from broker.core.subscription import life as lives
from broker.core.subscription.check import CLOUDEVENTS
from broker.core.subscription.life import Happening, Life, Policy
from broker.core.subscription.notification import Kind
from broker.core.subscription.subscription import Content, Model, Status, Subscription

STOPPED = frozenset({Status.OFF, Status.ENTERED_IN_ERROR})


def is_cloudevents(subscription: Subscription) -> bool:
    return subscription.media_type.partition(";")[0].strip().lower() == CLOUDEVENTS


def has_handshake(subscription: Subscription) -> bool:
    """Whether its channel is tried before it is active.

    Not in the classic model, where every request means that something matched; nor where CloudEvents go into a queue:
    who takes them out may know nothing of subscriptions.
    """
    if subscription.model is Model.CLASSIC:
        return False
    return not is_cloudevents(subscription) or subscription.channel.code == "rest-hook"


def content_of(subscription: Subscription, cap: Content = Content.FULL) -> Content:
    """How much it is told: what was agreed, and never more than its party may be told now (S-10, S-63)."""
    if subscription.model is Model.CLASSIC:
        agreed = Content.FULL if subscription.media_type else Content.EMPTY  # S-41
    else:
        agreed = subscription.content or Content.ID_ONLY
    return cap if agreed.exceeds(cap) else agreed


def overdue(subscription: Subscription, life: Life, *, now: datetime, policy: Policy) -> Happening | None:
    """What time alone has brought: its end, or that of an error."""
    due = lives.due(_without_heartbeat(subscription), life, policy=policy)
    return due[1] if due is not None and due[0] <= now else None


def wants(
    subscription: Subscription, life: Life, *, behind: bool, now: datetime, policy: Policy
) -> Kind | Happening | None:
    """What is to be sent, or happens, now; None where nothing is. `behind`: events wait to be told."""
    happening = overdue(subscription, life, now=now, policy=policy)
    if happening is not None:
        return happening
    if life.status is Status.REQUESTED:
        return Kind.HANDSHAKE if has_handshake(subscription) else Happening.GREETED
    if not life.sends:
        return None
    if behind:
        return Kind.EVENT
    due = lives.due(subscription, life, policy=policy)
    return Kind.HEARTBEAT if due is not None and due[0] <= now else None


def looks_again(subscription: Subscription, life: Life, *, under_way: bool, policy: Policy) -> datetime | None:
    """When time alone brings something; while a notification is under way no heartbeat is needed."""
    if under_way or not life.sends:
        subscription = _without_heartbeat(subscription)
    due = lives.due(subscription, life, policy=policy)
    return None if due is None else due[0]


def _without_heartbeat(subscription: Subscription) -> Subscription:
    if subscription.heartbeat is None:
        return subscription
    return msgspec.structs.replace(subscription, heartbeat=None)


def is_stale(life: Life, kind: Kind, *, behind: bool) -> bool:
    """Whether a notification that has not left need not leave any more."""
    if life.status in STOPPED:
        return True
    if kind is Kind.HANDSHAKE:
        return life.status is not Status.REQUESTED  # refused, or consented to by another way
    return life.status is Status.REQUESTED or (kind is Kind.HEARTBEAT and behind)
