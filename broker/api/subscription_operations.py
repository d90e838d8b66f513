"""The operations on subscriptions: `$status`, `$events`, `$get-ws-binding-token`, `$resend`, and consent (C-30)."""

from __future__ import annotations

from aiohttp import hdrs, web

from broker.api.asking import Asking, Here, body_of
from broker.api.parameters import url
from broker.api.subscription_asking import LARGEST, check_release, speak_of
from broker.api.subscription_service import Owner, SubscriptionService
from broker.core.fhir.media import media_type
from broker.core.fhir.outcomes import outcome_bytes
from broker.core.fhir.write import write
from broker.core.outcome import Problem, Severity, Who
from broker.core.subscription.operations import (
    read_events,
    read_parameters,
    read_resend,
    read_status,
    read_token_request,
    token_parameters,
)
from broker.web import parameters

SECRET = ((hdrs.CACHE_CONTROL, "no-store"),)
Asked = list[tuple[str, str]]


class SubscriptionOperations:
    def __init__(self, *, here: Here, service: SubscriptionService, owner: Owner) -> None:
        self._here = here
        self._service = service
        self._owner = owner

    async def status(self, request: web.Request) -> web.StreamResponse:
        """Of one, or of all that are asked for; each in the release of the answer."""
        asking, asked = await self._asked(request)
        owner = self._owner(request)
        id = request.match_info.get("id")
        if id is not None:
            rows = [self._service.get(id, owner)]
            speak_of(asking, rows[0])
        else:
            wanted = read_status(asked)
            rows = [
                row
                for row in self._service.all(owner)
                if (not wanted.ids or row.subscription.id in wanted.ids)
                and (not wanted.statuses or row.life.status in wanted.statuses)
            ]
        path = f"Subscription/{id}/$status" if id is not None else "Subscription/$status"
        self_url = url(asking.base, path, asked)
        body = self._service.status(rows, format=asking.format, release=asking.release, self_url=self_url)
        return asking.answer(body)

    async def events(self, request: web.Request) -> web.StreamResponse:
        asking, asked = await self._asked(request)
        id, owner = request.match_info["id"], self._owner(request)
        speak_of(asking, self._service.get(id, owner))
        wanted = read_events(asked)
        body = await self._service.events(id, wanted, owner=owner, format=asking.format, release=asking.release)
        return asking.answer(body)

    async def token(self, request: web.Request) -> web.StreamResponse:
        asking, asked = await self._asked(request)
        id = request.match_info.get("id")
        ids = (id,) if id is not None else read_token_request(asked)
        token, expiration, known = self._service.bind(ids, owner=self._owner(request))
        resource = token_parameters(token=token, expiration=expiration, subscriptions=known, url=self._service.sockets)
        return asking.answer(write(resource, asking.format), headers=SECRET)

    async def resend(self, request: web.Request) -> web.StreamResponse:
        asking, asked = await self._asked(request)
        first, last = await self._service.resend(
            request.match_info["id"], read_resend(asked), owner=self._owner(request)
        )
        text = (
            f"Events {first} to {last} are sent once more over the channel."
            if last > first
            else (f"Event {first} is sent once more over the channel.")
        )
        return self._said(asking, "resending", text)

    async def consented(self, request: web.Request) -> web.StreamResponse:
        """Whoever calls this was asked by OPTIONS whether it may be told, and says yes."""
        asking = Asking(request, self._here)
        self._service.consented(request.match_info["token"])
        return self._said(asking, "consented", "Noted: this endpoint may be told of events.")

    def _said(self, asking: Asking, id: str, text: str) -> web.Response:
        problem = Problem(code="informational", id=id, text=text, severity=Severity.INFORMATION, who=Who.BROKER)
        return asking.answer(outcome_bytes([problem], format=asking.format, release=asking.release))

    async def _asked(self, request: web.Request) -> tuple[Asking, Asked]:
        """What the query says, and the Parameters of a POST."""
        asking, asked = Asking(request, self._here), parameters(request)
        check_release(asking)
        if request.method == hdrs.METH_POST and request.can_read_body:
            sent = media_type(request.headers.get(hdrs.CONTENT_TYPE, ""))
            body = await body_of(request, LARGEST, what="Parameters resource")
            asked = [*asked, *read_parameters(body, format=sent.format)]
        return asking, asked
