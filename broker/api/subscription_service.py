"""What the FHIR side asks the running broker about subscriptions; the flow's service fits this shape."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Protocol

from aiohttp import web

from broker.core.fhir.header import Format, Release
from broker.core.subscription.operations import Events, Resend
from broker.core.subscription.topic import Topic
from broker.store.telling import Subscribed

Owner = Callable[[web.Request], str]  # the party that asks; "" while none has proved who it is


class SubscriptionService(Protocol):
    """Raises a `Refusal` for what is not served; an owner of None is the operator, who sees all."""

    @property
    def topics(self) -> tuple[Topic, ...]: ...
    @property
    def sockets(self) -> str: ...  # the URL of the channel that binds sockets; "" where none does
    def due(self, row: Subscribed) -> datetime | None: ...  # what time alone brings next: a heartbeat, its end
    def all(self, owner: str | None) -> tuple[Subscribed, ...]: ...
    def get(self, id: str, owner: str | None) -> Subscribed: ...
    async def create(self, body: bytes, *, format: Format, release: Release, owner: str) -> Subscribed: ...
    async def update(
        self, id: str, body: bytes, *, format: Format, release: Release, owner: str, version: int | None = None
    ) -> Subscribed: ...
    async def delete(self, id: str, *, owner: str, version: int | None = None) -> bool: ...
    def status(
        self, rows: Sequence[Subscribed], *, format: Format, release: Release | None, self_url: str
    ) -> bytes: ...
    async def events(self, id: str, asked: Events, *, owner: str, format: Format, release: Release | None) -> bytes: ...
    async def resend(self, id: str, asked: Resend, *, owner: str) -> tuple[int, int]: ...
    def bind(self, ids: Sequence[str], *, owner: str) -> tuple[str, datetime, tuple[str, ...]]: ...
    def consented(self, token: str) -> None: ...
    async def switch(self, id: str, *, on: bool, why: str = "") -> Subscribed: ...


def nobody(_request: web.Request) -> str:
    """Who asks, while no way to prove it is built: the same for all, so all see the same."""
    return ""
