"""`GET {base}/metadata`: what this broker says it can do, in the asked release (M-75)."""

from __future__ import annotations

from collections.abc import Sequence

from aiohttp import web

from broker.api.asking import Asking, Here, asked_of
from broker.api.directory_resources import ENDPOINT_PARAMS, ORGANIZATION_PARAMS
from broker.api.pages import PAGING
from broker.api.parameters import Parameters
from broker.api.search import BUNDLE_PARAMS
from broker.api.subscription_asking import SERVED
from broker.api.subscription_service import SubscriptionService
from broker.core.fhir.capability import capability_statement
from broker.core.fhir.header import Format, Release
from broker.core.fhir.write import Resource, shapes, write
from broker.core.subscription.capability import subscription_resources, websocket_extension

# A server may ignore `mode` (R4 http.html#capabilities): we have one statement.
MODES = ("full", "normative", "terminology")


class Metadata:
    def __init__(
        self,
        *,
        here: Here,
        software_version: str,
        endpoints: Sequence[tuple[str, str]],
        reliable_cache_minutes: int,
        events: Sequence[str],
        subscriptions: SubscriptionService | None = None,
    ) -> None:
        self._here = here
        self._version = software_version
        self._endpoints = tuple(endpoints)
        self._minutes = reliable_cache_minutes
        self._events = tuple(events)
        self._subscriptions = subscriptions
        self._since = here.now()  # the statement is as old as the configuration it speaks of
        self._written: dict[tuple[str, Release, Format], bytes] = {}  # bases × releases × formats: a handful

    async def statement(self, request: web.Request) -> web.StreamResponse:
        asking = Asking(request, self._here)
        asked = Parameters(await asked_of(request), known=("mode",), strict=asking.is_strict)
        asked.one_of("mode", MODES)
        if asking.named is not None and asking.named is not Release.R4B:
            asking.named = shapes(asking.named)  # the label says what is written, not what was asked for
        key = (asking.base, asking.release, asking.format)
        if key not in self._written:
            self._written[key] = self._write(asking)
        return asking.answer(self._written[key])

    def _write(self, asking: Asking) -> bytes:
        statement = capability_statement(
            release=asking.release,
            base_url=asking.base,
            software_version=self._version,
            date=self._since,
            endpoints=self._endpoints or [("http", f"{asking.base}/$process-message")],
            reliable_cache_minutes=self._minutes,
            events=self._events,
            search_params={
                "Bundle": BUNDLE_PARAMS,
                "Endpoint": ENDPOINT_PARAMS,
                "Organization": ORGANIZATION_PARAMS,
            },
            more=self._of_subscriptions(asking.release),
            extensions=self._sockets(asking.release),
        )
        return write(statement, asking.format)

    def _of_subscriptions(self, release: Release) -> Sequence[Resource]:
        service = self._subscriptions
        if service is None or release not in SERVED:
            return ()
        return subscription_resources(release, service.topics, PAGING, sockets=bool(service.sockets))

    def _sockets(self, release: Release) -> Sequence[Resource]:
        """Where classic Subscriptions are bound, which only R4 and R4B have (S-42)."""
        service = self._subscriptions
        if service is None or not service.sockets or release not in (Release.R4, Release.R4B):
            return ()
        return (websocket_extension(service.sockets),)
