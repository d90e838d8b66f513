"""`{base}/Subscription`: created, read, changed, removed and searched, on every base, in JSON and XML."""

from __future__ import annotations

from email.utils import format_datetime

from aiohttp import hdrs, web

from broker.api.asking import Asking, Here, asked_of
from broker.api.pages import CONTROLS, PAGING, page_of
from broker.api.parameters import Parameters
from broker.api.subscription_asking import (
    SEGMENTS,
    can_be_shown,
    check_release,
    resource_sent,
    shown,
    speak_of,
    version_meant,
)
from broker.api.subscription_search import subscriptions_meant
from broker.api.subscription_service import Owner, SubscriptionService
from broker.core.fhir.write import write
from broker.core.outcome import NotFound, Problem, Severity, Unsupported
from broker.core.subscription.capability import subscription_params
from broker.store.telling import Subscribed
from broker.web import HttpRefusal, preferences


class SubscriptionResources:
    def __init__(self, *, here: Here, service: SubscriptionService, owner: Owner) -> None:
        self._here = here
        self._service = service
        self._owner = owner

    async def create(self, request: web.Request) -> web.StreamResponse:
        asking = Asking(request, self._here)
        if "If-None-Exist" in request.headers:  # to ignore it would make two where its client means one
            raise Unsupported(
                "conditional create is not served: search first, then create",
                id="no-conditional-create",
                expression="http.if-none-exist",
            )
        body, format, release = await resource_sent(request, default=self._here.release, what="Subscription")
        row = await self._service.create(body, format=format, release=release, owner=self._owner(request))
        return self._answer(asking, row, status=201)

    async def read(self, request: web.Request) -> web.StreamResponse:
        asking = Asking(request, self._here)
        row = self._service.get(request.match_info["id"], self._owner(request))
        return self._answer(asking, row)

    async def update(self, request: web.Request) -> web.StreamResponse:
        asking, id, owner = Asking(request, self._here), request.match_info["id"], self._owner(request)
        version = version_meant(request)
        try:
            self._service.get(id, owner)
        except NotFound:
            raise HttpRefusal(
                "no Subscription has this id here, and ids are given by this broker: create it by POST",
                status=405,
                code="not-supported",
                id="no-client-ids",
                expression="http.id",
            ) from None
        body, format, release = await resource_sent(request, default=self._here.release, what="Subscription")
        row = await self._service.update(id, body, format=format, release=release, owner=owner, version=version)
        return self._answer(asking, row)

    async def delete(self, request: web.Request) -> web.StreamResponse:
        """What is not there is as good as deleted."""
        version = version_meant(request)
        await self._service.delete(request.match_info["id"], owner=self._owner(request), version=version)
        return web.Response(status=204)

    async def search(self, request: web.Request) -> web.StreamResponse:
        pairs = await asked_of(request)
        asking = Asking(request, self._here, pairs)
        check_release(asking)
        names = [param.name for param in (*subscription_params(asking.release), *PAGING)]
        asked = Parameters(pairs, known=(*names, *CONTROLS), strict=asking.is_strict)
        rows = subscriptions_meant(self._service.all(self._owner(request)), asked)
        found = [row for row in rows if can_be_shown(row, asking.release)]
        bundle = page_of(
            asking, "Subscription", asked, found,
            lambda row: shown(row, asking.release) or {}, _left_out(len(rows) - len(found)),
        )  # fmt: skip
        return asking.answer(write(bundle, asking.format))

    def _answer(self, asking: Asking, row: Subscribed, *, status: int = 200) -> web.Response:
        check_release(asking)
        resource = shown(row, speak_of(asking, row))
        if resource is None:
            raise self._elsewhere(row)
        headers: dict[str, str] = {
            hdrs.ETAG: f'W/"{row.version}"',
            hdrs.LAST_MODIFIED: format_datetime(row.changed, usegmt=True),
        }
        if status == 201:
            headers[hdrs.LOCATION] = f"{asking.base}/Subscription/{row.subscription.id}"
        writing = asking.request.method in (hdrs.METH_POST, hdrs.METH_PUT)
        if writing and preferences(asking.request).get("return") == "minimal":
            return web.Response(status=status, headers=headers)
        return asking.answer(write(resource, asking.format), status=status, headers=headers)

    def _elsewhere(self, row: Subscribed) -> HttpRefusal:
        base = f"{self._here.base_url}/{SEGMENTS[row.subscription.release]}"
        return HttpRefusal(
            "this Subscription is a search string of R4, which R5 has no words for: "
            f"read it at {base}/Subscription/{row.subscription.id}",
            status=406,
            code="not-supported",
            id="not-acceptable",
            expression="http.accept",
        )


def _left_out(count: int) -> tuple[Problem, ...]:
    if not count:
        return ()
    text = f"{count} query-based Subscriptions of R4 are left out: R5 has no words for them; search at R4's base"
    problem = Problem(code="not-supported", id="left-out", severity=Severity.WARNING, text=text)
    return (problem,)
