"""One attempt over a WebSocket that we open: one kept connection for each address, shared by all that goes there."""

from __future__ import annotations

import asyncio
import ssl

from broker.channel import Deferred, Delivered, Host, Refused, Transmission
from broker.core.outcome import Problem, Who
from broker.dialing import NotDialed, client_context
from plugins.websocket.address import is_own, uri_of
from plugins.websocket.partner import Partner, Unshaken
from plugins.websocket.settings import WebSocketSettings

USER_AGENT = "fhir-broker"
Attempted = Delivered | Deferred | Refused


class WebSocketSender:
    def __init__(self, settings: WebSocketSettings, host: Host) -> None:
        self._host = host
        self._settings = settings
        self._own = tuple(_own_urls(settings))
        self._context: ssl.SSLContext | None = None
        self._partners: dict[str, Partner] = {}
        self._opening: dict[str, asyncio.Task[Partner]] = {}
        self._all: set[Partner] = set()
        self._stopped = False

    async def attempt(self, transmission: Transmission) -> Attempted:
        """Makes one attempt and says how it ended."""
        address = transmission.address
        try:
            uri_of(address)
            if any(is_own(address, own) for own in self._own):
                return _unusable("own-address", "the address is this broker's own")
        except ValueError as exc:
            return _unusable("unusable-address", str(exc))
        if self._stopped:
            return Deferred(note="this broker is stopping", left=False)
        try:
            partner = self._partners.get(address)
            if partner is None or not partner.is_open:
                partner = await self._open(address, transmission.connect.total_seconds())
        except Unshaken as unshaken:
            return unshaken.end
        except ValueError:
            return _unusable("unusable-address", "the address's host is no name")
        return await partner.send(transmission)

    async def stop(self) -> None:
        self._stopped = True
        for task in self._opening.values():
            task.cancel()
        await asyncio.gather(*self._opening.values(), return_exceptions=True)
        await asyncio.gather(*(partner.close() for partner in list(self._all)))

    async def _open(self, address: str, seconds: float) -> Partner:
        """Attempts that need the same connection share one handshake; one that is given up leaves it to the others."""
        task = self._opening.get(address)
        if task is None:
            task = self._opening[address] = asyncio.create_task(self._dial(address, seconds))
            task.add_done_callback(lambda done: self._opened(address, done))
        return await asyncio.shield(task)

    def _opened(self, address: str, task: asyncio.Task[Partner]) -> None:
        self._opening.pop(address, None)
        if not task.cancelled():
            task.exception()  # whoever waits for it has it

    async def _dial(self, address: str, seconds: float) -> Partner:
        context = self._tls() if uri_of(address).secure else None
        idle = self._settings.idle.total_seconds()
        partner = Partner(address, self._host, context, idle=idle, gone=self._gone)
        await partner.open(seconds, USER_AGENT)
        self._partners[address] = partner
        self._all.add(partner)
        return partner

    def _gone(self, partner: Partner) -> None:
        self._all.discard(partner)
        if self._partners.get(partner.address) is partner:
            del self._partners[partner.address]

    def _tls(self) -> ssl.SSLContext:
        if self._context is None:
            try:
                self._context = client_context(self._settings.client_ca)
            except NotDialed as not_dialed:
                raise Unshaken(Deferred(note=str(not_dialed), of_peer=True, left=False)) from None
        return self._context


def _own_urls(settings: WebSocketSettings) -> list[str]:
    """How others reach us, and where we listen: both lead back here."""
    own = [settings.url] if settings.url else []
    if not settings.listen.startswith("unix:") and not settings.listen.endswith(":0"):
        own.append(f"ws://{settings.listen}")
    return own


def _unusable(id: str, why: str) -> Refused:
    text = f"The message cannot be sent: {why}; correct the directory or the rule that gives this address."
    return Refused(note=why, problem=Problem(code="processing", id=id, text=text, who=Who.BROKER))
