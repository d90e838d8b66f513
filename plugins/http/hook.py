"""`/in/{name}`: where the rest-hook of another FHIR server may point (S-40), and what one is told that tells nothing.

Its notifications are messages as any other, and answered as soon as they are kept: 2xx is all that such a server wants.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from aiohttp import web

from broker.channel import Asked
from broker.web import HttpRefusal

if TYPE_CHECKING:
    from plugins.http.receiver import HttpReceiver

PATH = "/in/{name}"
CLASSIC = (
    "this notification is of the query-based model of R4, which does not say what happened in a way that can be told "
    "on: subscribe to a topic there (a Subscription with `backport-payload-content`), with this URL as its endpoint"
)


class Hook:
    def __init__(self, receiver: HttpReceiver) -> None:
        self._receiver = receiver

    def add_to(self, app: web.Application) -> None:
        app.router.add_route("POST", PATH, self.notified)
        for method in ("PUT", "POST"):  # S-41: the resource, at a URL of its own
            app.router.add_route(method, PATH + "/{type:[A-Z][A-Za-z]+}/{id}", self.classic)

    async def notified(self, request: web.Request) -> web.StreamResponse:
        receiver = self._receiver
        receiver.check_open()
        if not request.can_read_body:
            return await self.classic(request)
        at = receiver.now()
        said = receiver.read(request, Asked(asynchronous=True))
        answer, _ = await receiver.read_and_take(request, said, at)
        return (await said.answering.processed(answer)).response()

    async def classic(self, request: web.Request) -> web.StreamResponse:
        raise HttpRefusal(CLASSIC, status=422, code="not-supported", id="classic-notification")
