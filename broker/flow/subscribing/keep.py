"""Keep: notifications of other servers that name no way on are kept for our own subscribers, instead of refused."""

from __future__ import annotations

import asyncio

from broker.core.addressing import name_key
from broker.core.outcome import NoRoute
from broker.core.policy import Policy
from broker.core.routing import Decision, Route
from broker.core.subscription.relay import Relayed, relayed
from broker.flow.aside import ASIDE
from broker.flow.here import Here
from broker.flow.letter import Letter
from broker.flow.subscribing.registry import Registry

NOWHERE = frozenset({"no-destination", "unknown-destination"})  # of a refusal: no rule and no directory has spoken


class Keeping:
    """Asked only of messages that would be refused."""

    def __init__(self, *, here: Here, registry: Registry, policy: Policy) -> None:
        self._registry = registry
        self._policy = policy
        self._base = here.base_url.rstrip("/")
        self._names = frozenset({name_key(here.endpoint), name_key(self._base)})

    async def route(self, letter: Letter, refusal: NoRoute) -> Route | None:
        """Kept, and carried nowhere: what is a notification of a topic of ours, for nobody else but us."""
        problems = (refusal.problem, *refusal.also)
        if letter.header.is_response or not all(one.id in NOWHERE for one in problems):
            return None
        if not all(self._is_ours(name) for name in letter.destinations):
            return None
        if not await self._is_of_ours(letter):
            return None
        names = letter.destinations or (None,)
        return Route.of(tuple([Decision(destination=name, rule=None, policy=self._policy, log=True) for name in names]))

    def _is_ours(self, name: str) -> bool:
        """Whether a name means this broker: its endpoint, or a URL of its own, as a Subscription may say (S-51)."""
        return name_key(name) in self._names or name.startswith((f"{self._base}/", f"{self._base}?"))

    async def _is_of_ours(self, letter: Letter) -> bool:
        if len(letter.body) > ASIDE:
            return await asyncio.to_thread(self._relayed, letter) is not None
        return self._relayed(letter) is not None

    def _relayed(self, letter: Letter) -> Relayed | None:
        return relayed(letter.body, letter.header, self._registry.topics, way_in=letter.message.way_in)
