"""Who may listen on a socket to what: tokens are given and looked at, ids are looked up (S-42, S-43)."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta

from broker.channel import Peer
from broker.core.outcome import BadRequest, Gone, NotAllowed, NotFound
from broker.core.subscription.binding import How
from broker.core.subscription.subscription import Model, Status, Subscription
from broker.core.subscription.token import Tokens
from broker.flow.here import Here
from broker.flow.subscribing.registry import Registry
from broker.flow.subscribing.socket import MOST_BOUND

WEBSOCKET = "websocket"
ENDED = frozenset({Status.OFF, Status.ENTERED_IN_ERROR})


def is_fed(subscription: Subscription) -> bool:
    """Whether sockets are how it is told."""
    return subscription.channel.code == WEBSOCKET


class Admitting:
    def __init__(self, *, here: Here, registry: Registry, key: bytes, good_for: timedelta) -> None:
        self._here = here
        self._registry = registry
        self._tokens = Tokens(key)
        self._good_for = good_for  # a token

    def token(self, ids: Sequence[str], now: datetime) -> tuple[str, datetime]:
        """A token for these subscriptions, and when it expires; raises Refusal."""
        if not ids or len(ids) > MOST_BOUND:
            raise BadRequest(f"A token is for 1 to {MOST_BOUND} subscriptions: name them by `id`.",
                             id="too-many-for-a-token", expression="id")  # fmt: skip
        keys = []
        for id in ids:
            row = self._registry.find(id)
            if row is None or row.life.status in ENDED:
                raise NotFound(f"Subscription/{id[:64]} is not here, or is off.", expression="id")
            if not is_fed(row.subscription) or row.subscription.model is Model.CLASSIC:
                raise BadRequest(f"Subscription/{id} is not to a topic over websocket: it needs no token.",
                                 id="no-token-needed", expression="id")  # fmt: skip
            keys.append(row.key)
        until = (now + self._good_for).replace(microsecond=0)
        return self._tokens.seal(keys, until), until

    def keys_of(self, how: How, value: str, peer: Peer) -> tuple[int, ...]:
        if how is How.ID:
            return (self._classic(value, peer),)
        found = []
        for key in self._tokens.open(value, self._here.now()).keys:
            row = self._registry.get(key)
            if row is None or not is_fed(row.subscription) or row.life.status in ENDED:
                continue  # since the token was given; what is left of it is good
            if row.owner and peer.party not in (None, row.owner):
                raise NotAllowed("The token is another party's.", id="not-your-token")
            found.append(key)
        if not found:
            raise Gone("No subscription of this token is there any more, or all are off.", id="subscription-ended")
        return tuple(found)

    def _classic(self, id: str, peer: Peer) -> int:
        row = self._registry.find(id)
        if row is None or (row.owner and peer.party != row.owner):
            raise NotFound(f"Subscription/{id} is not here.", id="unknown-subscription")
        if not is_fed(row.subscription):
            raise BadRequest(f"Subscription/{id} is not told over websocket.", id="other-channel")
        if row.subscription.model is not Model.CLASSIC:
            raise BadRequest(f"Subscription/{id} is to a topic: say `bind-with-token`, with a token that"
                             " $get-ws-binding-token gives.", id="needs-a-token")  # fmt: skip
        if row.life.status in ENDED:
            raise Gone(f"Subscription/{id} is off.", id="subscription-ended")
        return row.key
