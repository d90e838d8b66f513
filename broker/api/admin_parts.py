"""What the operator's side asks the running broker for; the flow's own parts fit these shapes."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from datetime import datetime, timedelta
from typing import Any, Protocol

from broker.api.subscription_service import SubscriptionService
from broker.core.hold import Hold
from broker.core.ids import MessageIds
from broker.core.policy import LanePolicy, Policy
from broker.core.rules import RuleSet
from broker.directory import Directory, Snapshot
from broker.store import Store


class HereLike(Protocol):
    """Who this broker is, and its clock."""

    @property
    def endpoint(self) -> str: ...
    @property
    def base_url(self) -> str: ...
    @property
    def ids(self) -> MessageIds: ...
    @property
    def event_prefix(self) -> str: ...
    @property
    def max_message(self) -> int: ...
    @property
    def min_free(self) -> int: ...
    @property
    def max_wal(self) -> int: ...
    @property
    def now(self) -> Callable[[], datetime]: ...


class LaneLike(Protocol):
    """A lane as memory knows it."""

    @property
    def name(self) -> str: ...
    @property
    def waiting(self) -> int: ...
    @property
    def under_way(self) -> Mapping[int, set[int]]: ...
    @property
    def is_open(self) -> bool: ...
    @property
    def closed_until(self) -> datetime | None: ...
    @property
    def reason(self) -> str: ...
    @property
    def next_due(self) -> datetime | None: ...
    @property
    def left_alone(self) -> tuple[tuple[str, datetime, str], ...]: ...
    @property
    def policy(self) -> LanePolicy: ...


class DeliveringLike(Protocol):
    @property
    def lanes(self) -> Mapping[str, LaneLike]: ...
    @property
    def holds(self) -> Mapping[str, Hold]: ...
    async def hold(self, hold: Hold) -> None: ...
    async def resume(self, name: str) -> bool: ...
    def woken(self, lane: str, key: str) -> None: ...
    def is_under_way(self, lane: str, position: int, number: int) -> bool: ...


class CallersLike(Protocol):
    def count(self) -> int: ...


class HealthLike(Protocol):
    @property
    def uptime(self) -> timedelta: ...
    def report(self, *, detailed: bool) -> tuple[bool, dict[str, Any]]: ...


class Parts:
    """What the admin routes work with."""

    def __init__(
        self,
        *,
        here: HereLike,
        store: Store,
        directory: Directory,
        rules: RuleSet,
        defaults: Policy,
        delivering: DeliveringLike,
        health: HealthLike,
        changed: Callable[[Snapshot, Snapshot], Awaitable[int]] | None,
        subscriptions: SubscriptionService | None = None,
    ) -> None:
        self.here = here
        self.store = store
        self.directory = directory
        self.rules = rules
        self.defaults = defaults
        self.delivering = delivering
        self.health = health
        self.changed = changed  # told of a directory that was read anew; says how many deliveries that woke
        self.subscriptions = subscriptions  # None where the configuration serves none
