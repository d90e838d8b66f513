"""The ways in over HTTP: `$process-message`, `POST /Bundle` and events become arrivals, and answers responses."""

from __future__ import annotations

from datetime import datetime
from ipaddress import ip_network
from urllib.parse import quote

import msgspec
from aiohttp import hdrs, web

from broker.channel import Answer, Arrival, Asked, Hold, Host, Peer
from broker.core.envelope import Envelope
from broker.core.fhir.header import Release
from broker.core.fhir.media import media_type
from broker.core.forwarded import Network, peer_address
from broker.core.outcome import StoreUnavailable
from broker.express import add_express
from broker.web import BASE_PATH, Asking, Reply, add_fhir_route, fhir_paths, later, pinned_release
from plugins.http.answers import Answering
from plugins.http.asked import asked
from plugins.http.binding import read_envelope, told
from plugins.http.body import DEADLINE, check_attribute, check_claims, claims_of, read_body, too_large
from plugins.http.events import Events
from plugins.http.hook import Hook
from plugins.http.settings import HttpSettings

OPERATION = "$process-message"
RETRY_WHEN_CLOSED = 5.0  # seconds: a restart takes about that long


class HttpReceiver:
    """Adds its ways in to `host.web` when it is made; who serves that application listens."""

    body_deadline = DEADLINE

    def __init__(self, settings: HttpSettings, host: Host) -> None:
        self._host = host
        self._proxies = tuple(ip_network(network) for network in settings.behind_proxy)
        self._open = False
        app: web.Application = host.web
        Events(
            settings,
            host,
            check_open=self.check_open,
            peer_of=lambda request: Peer(address=_peer_of(request, self._proxies)),
            body_deadline=lambda: self.body_deadline,
        )
        operation = Operation(self)
        add_fhir_route(app, "POST", f"/{OPERATION}", operation.ordinarily)
        # M-40: the operation is of the system; clients that put it on the resource mean the same.
        add_fhir_route(app, "POST", f"/MessageHeader/{OPERATION}", operation.ordinarily)
        add_fhir_route(app, "POST", "/Bundle", Creation(self).ordinarily)
        path = f"/in/{{name}}/{OPERATION}"
        app.router.add_route("POST", path, operation.ordinarily, expect_handler=later)
        Hook(self).add_to(app)
        for base in fhir_paths(app[BASE_PATH]):
            for name in (OPERATION, quote(OPERATION)):
                for query in ("", "?async=true"):
                    add_express(app, f"{base}/{name}{query}", operation)

    async def start(self) -> None:
        self._open = True

    async def stop(self) -> None:
        self._open = False

    def check_open(self) -> None:
        if not self._open:
            raise StoreUnavailable(
                "this broker is starting or stopping; send the message again",
                code="transient",
                id="draining",
                retry_after=RETRY_WHEN_CLOSED,
            )

    def read(self, request: Asking, wishes: Asked) -> Said:
        """Everything that the head alone can refuse is refused before a byte of the body is read."""
        answering = Answering(request, self._host.base_url)
        content_type = request.headers.get(hdrs.CONTENT_TYPE, "")
        media_type(content_type)  # 415 (M-51); the flow reads it again with the body
        return Said(
            answering=answering,
            content_type=content_type,
            release=pinned_release(request),
            envelope=read_envelope(request.headers),
            asked=wishes,
            peer=Peer(address=_peer_of(request, self._proxies)),
            way_in=request.match_info.get("name"),
            headers=told(request.headers),
            claims=claims_of(request),
        )

    def arrival(self, said: Said, body: bytes, at: datetime, hold: Hold | None = None) -> Arrival:
        return Arrival(
            channel="http",
            peer=said.peer,
            body=body,
            media_type=said.content_type,
            at=at,
            release=said.release,
            envelope=said.envelope,
            asked=said.asked,
            way_in=said.way_in,
            headers=said.headers,
            hold=hold,
        )

    async def read_and_take(self, request: web.Request, said: Said, at: datetime) -> tuple[Answer, bytes]:
        """Reads the body and hands it in; its hold ends with that, however it ends."""
        host = self._host
        body, hold = await read_body(request, host.max_message, room=host.room, deadline=self.body_deadline)
        try:
            if said.envelope.digest is not None:
                await check_attribute(body, said.envelope.digest)
            return await host.accept(self.arrival(said, body, at, hold)), body
        finally:
            if hold is not None:
                hold.let_go()

    def now(self) -> datetime:
        return self._host.now()

    async def take_whole(self, said: Said, body: bytes) -> Answer:
        """Takes in a body that is here, checked as one that is read would be."""
        self.check_open()
        host, digest = self._host, said.envelope.digest
        at = host.now()
        if len(body) > host.max_message:
            raise too_large(host.max_message)
        if said.claims:
            await check_claims(body, said.claims)
        if digest is not None:
            await check_attribute(body, digest)
        return await host.accept(self.arrival(said, body, at))


class Said(msgspec.Struct, frozen=True, kw_only=True):
    """What the head of a request says: the same for every message that comes with the same head."""

    answering: Answering
    content_type: str
    release: Release | None
    envelope: Envelope
    asked: Asked
    peer: Peer
    way_in: str | None
    headers: tuple[tuple[str, str], ...]
    claims: dict[str, bytes]  # digests of the body by their algorithm


class Operation:
    """`$process-message`: answers as the design's six lines say."""

    def __init__(self, receiver: HttpReceiver) -> None:
        self._receiver = receiver

    def read(self, request: Asking) -> Said:
        return self._receiver.read(request, asked(request))

    async def answer(self, said: Said, body: bytes) -> Reply:
        return await said.answering.processed(await self._receiver.take_whole(said, body))

    async def ordinarily(self, request: web.Request) -> web.StreamResponse:
        receiver = self._receiver
        receiver.check_open()
        at = receiver.now()  # `timeleft` runs from here, not from the end of a slow body
        said = self.read(request)
        answer, _ = await receiver.read_and_take(request, said, at)
        return (await said.answering.processed(answer)).response()


class Creation:
    """`POST /Bundle`: custody, for clients that only know REST (M-52)."""

    def __init__(self, receiver: HttpReceiver) -> None:
        self._receiver = receiver

    async def ordinarily(self, request: web.Request) -> web.StreamResponse:
        receiver = self._receiver
        receiver.check_open()
        at = receiver.now()
        said = receiver.read(request, Asked(asynchronous=True))
        answer, body = await receiver.read_and_take(request, said, at)
        return (await said.answering.created(answer, body, said.content_type)).response()


def _peer_of(request: Asking, proxies: tuple[Network, ...]) -> str:
    transport = request.transport
    name = transport.get_extra_info("peername") if transport is not None else None
    return peer_address(name, request.headers.getall("X-Forwarded-For", ()) if proxies else (), proxies)
