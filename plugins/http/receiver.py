"""The ways in over HTTP: `$process-message` and `POST /Bundle` become arrivals, and answers become responses."""

from __future__ import annotations

from datetime import UTC, datetime
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from typing import Any

from aiohttp import hdrs, web

from broker.channel import Arrival, Asked, Host, Peer
from broker.core.fhir.media import media_type
from broker.core.outcome import StoreUnavailable
from broker.web import Handler, add_fhir_route, later, pinned_release
from plugins.http.answers import Answering
from plugins.http.asked import asked
from plugins.http.binding import read_envelope, told
from plugins.http.body import DEADLINE, check_attribute, read_body
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
        add_fhir_route(app, "POST", f"/{OPERATION}", self._guarded(self._process))
        # M-40: the operation is of the system; clients that put it on the resource mean the same.
        add_fhir_route(app, "POST", f"/MessageHeader/{OPERATION}", self._guarded(self._process))
        add_fhir_route(app, "POST", "/Bundle", self._guarded(self._create))
        path = f"/in/{{name}}/{OPERATION}"
        app.router.add_route("POST", path, self._guarded(self._process), expect_handler=later)

    async def start(self) -> None:
        self._open = True

    async def stop(self) -> None:
        self._open = False

    def _guarded(self, handler: Handler) -> Handler:
        async def guarded(request: web.Request) -> web.StreamResponse:
            if not self._open:
                raise StoreUnavailable(
                    "this broker is starting or stopping; send the message again",
                    code="transient",
                    id="draining",
                    retry_after=RETRY_WHEN_CLOSED,
                )
            return await handler(request)

        return guarded

    async def _process(self, request: web.Request) -> web.StreamResponse:
        answering = Answering(request, self._host.base_url)
        arrival = await self._arrival(request, asked(request))
        return await answering.processed(await self._host.accept(arrival))

    async def _create(self, request: web.Request) -> web.StreamResponse:
        answering = Answering(request, self._host.base_url)
        arrival = await self._arrival(request, Asked(asynchronous=True))
        answer = await self._host.accept(arrival)
        return await answering.created(answer, arrival.body, arrival.media_type)

    async def _arrival(self, request: web.Request, wishes: Asked) -> Arrival:
        """Everything that the headers alone can refuse is refused before a byte of the body is read."""
        content_type = request.headers.get(hdrs.CONTENT_TYPE, "")
        media_type(content_type)  # 415 (M-51); the flow reads it again with the body
        at = datetime.now(UTC)  # `timeleft` runs from here, not from the end of a slow body
        envelope = read_envelope(request.headers)
        body = await read_body(request, self._host.max_message, deadline=self.body_deadline)
        await check_attribute(body, envelope.digest)
        return Arrival(
            channel="http",
            peer=Peer(address=peer_address(request, self._proxies)),
            body=body,
            media_type=content_type,
            at=at,
            release=pinned_release(request),
            envelope=envelope,
            asked=wishes,
            way_in=request.match_info.get("name"),
            headers=told(request.headers),
        )


def peer_address(request: web.Request, proxies: tuple[IPv4Network | IPv6Network, ...]) -> str:
    """Who is at the other end; behind our own proxies, whom the last of them saw."""
    transport = request.transport
    name: Any = transport.get_extra_info("peername") if transport is not None else None
    if not isinstance(name, (tuple, list)):
        return "unix"
    seen = str(name[0])
    if proxies and _is_inside(seen, proxies):
        chain = [hop.strip() for field in request.headers.getall("X-Forwarded-For", ()) for hop in field.split(",")]
        for hop in reversed(chain):
            if not _is_address(hop):
                break  # what stands before it may be anybody's invention
            seen = hop
            if not _is_inside(hop, proxies):
                return hop
        if chain:
            return seen
    return f"[{seen}]:{name[1]}" if ":" in seen else f"{seen}:{name[1]}"


def _is_inside(address: str, networks: tuple[IPv4Network | IPv6Network, ...]) -> bool:
    return _is_address(address) and any(ip_address(address) in network for network in networks)


def _is_address(text: str) -> bool:
    try:
        ip_address(text)
    except ValueError:
        return False
    return True
