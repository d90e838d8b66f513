"""One SMTP or LMTP connection: aiosmtpd's commands, limits of our own, and a DATA that is bounded while it comes."""

from __future__ import annotations

import asyncio
import re
import ssl
from typing import Any, Protocol, cast

import structlog
from aiosmtpd.lmtp import LMTP
from aiosmtpd.smtp import SMTP

from broker.channel import Hold, Room
from broker.core.outcome import Refusal, TooLarge
from plugins.email.replies import reply_of

log = structlog.get_logger("broker.email")

IDLE = 300.0  # seconds between two commands (RFC 5321, section 4.5.3.2.7)
IDLE_WHEN_FULL = 10.0  # once half of the connections are taken, as Postfix does under stress
SLOW = 60.0  # seconds for a mail of any size, …
SLOWEST = 64 * 1024  # … and one more for each so many octets that have come
PIECE = 64 * 1024
HANDSHAKE = 30.0  # seconds for STARTTLS
MOST_COMMANDS = 10_000  # of one kind in one connection: a sender that keeps it open makes a new one then
MOST_RECIPIENTS = 100  # RFC 5321, section 4.5.3.1.8
LONGEST_PATH = 256  # octets (RFC 5321, section 4.5.3.1.3)
END = b"\r\n.\r\n"

# A path, with a source route that nobody means any more, and what follows it.
_PATH = re.compile(r'\s*<(?:@[^:<>"\s]*:)?((?:"(?:[^"\\\r\n]|\\.)*"@)?[^<>"\s\x00-\x1f\x7f]*)>((?:\s.*)?)', re.DOTALL)


class Desk(Protocol):
    """Who is behind the connections: the receiver."""

    room: Room
    open: bool
    tls: ssl.SSLContext | None
    longest: int  # octets of a mail
    name: str

    @property
    def is_crowded(self) -> bool: ...

    def knows(self, recipient: str) -> bool: ...

    def entered(self, session: Session) -> bool: ...

    def left(self, session: Session) -> None: ...

    async def take(self, session: Session, mail: bytes, hold: Hold) -> str: ...


class Session(SMTP):
    """A connection from its greeting to its end."""

    line_length_limit = PIECE  # of the reader: longer command lines are refused by `command_size_limit`

    def __init__(self, desk: Desk, loop: asyncio.AbstractEventLoop, *, require_tls: bool) -> None:
        self.desk = desk
        self.busy = False  # a mail is on its way in
        self.refused: Refusal | None = None
        super().__init__(
            self,
            data_size_limit=desk.longest,
            enable_SMTPUTF8=True,
            hostname=desk.name,
            ident="fhir-broker",
            tls_context=desk.tls,
            require_starttls=require_tls,
            timeout=IDLE,
            command_call_limit=MOST_COMMANDS,
            loop=loop,
        )

    # --- the connection ---

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        if not self.desk.entered(self):
            assert self._handler_coroutine is not None
            self._handler_coroutine.cancel()  # before it greets
            self.part("421 4.3.2 too many connections; come again in a moment")

    def connection_lost(self, error: Exception | None) -> None:
        self.desk.left(self)
        super().connection_lost(error)

    def part(self, reply: str) -> None:
        """Says why, and closes."""
        transport: Any = self.transport
        if transport is not None and not transport.is_closing():
            transport.write(f"{reply}\r\n".encode("ascii"))
            transport.close()

    def _reset_timeout(self, duration: float | None = None) -> None:
        super()._reset_timeout(duration or (IDLE_WHEN_FULL if self.desk.is_crowded else IDLE))

    def _timeout_cb(self) -> None:
        self.part("421 4.4.2 nothing came for too long; goodbye")

    @property
    def peer_address(self) -> str:
        peer = self.session.peer if self.session is not None else None
        if not isinstance(peer, tuple):
            return "unix"
        return f"[{peer[0]}]:{peer[1]}" if ":" in peer[0] else f"{peer[0]}:{peer[1]}"

    async def handle_exception(self, error: Exception) -> str:
        """A bug is ours: the sender hears nothing of it but to come again."""
        log.error("a session failed", peer=self.peer_address, exc_info=error)
        return "451 4.3.0 the broker failed; send the mail again later"

    # --- commands ---

    async def handle_EHLO(self, _server: Any, session: Any, _envelope: Any, name: str, lines: list[str]) -> list[str]:
        session.host_name = name
        kept = [line for line in lines if not line.startswith("250-AUTH")]  # parties prove themselves otherwise
        return [*kept[:-1], "250-PIPELINING", kept[-1]]

    async def smtp_AUTH(self, arg: str) -> None:
        await self.push("502 5.5.1 there is nobody to log in as")

    async def smtp_VRFY(self, arg: str) -> None:
        await self.push("252 2.1.5 send a mail and see")

    async def smtp_STARTTLS(self, arg: str) -> None:
        if arg:
            await self.push("501 5.5.4 STARTTLS stands alone")
            return
        if self.tls_context is None or self._tls_protocol is not None:
            await self.push("503 5.5.1 STARTTLS is not offered now")
            return
        await self.push("220 2.0.0 go ahead")
        # What was sent ahead in the clear is not ours to believe (RFC 3207, section 4.2).
        self._reader._buffer.clear()  # type: ignore[attr-defined]
        plain: Any = self.transport
        try:
            encrypted = await self.loop.start_tls(
                plain, self, self.tls_context, server_side=True, ssl_handshake_timeout=HANDSHAKE
            )
        except (OSError, ssl.SSLError) as error:
            log.info("no TLS", peer=self.peer_address, error=type(error).__name__)
            plain.abort()
            return
        if encrypted is None:  # it went away meanwhile
            return
        parts: tuple[Any, ...] = (self._reader, self._writer)
        for part in parts:
            part._transport = encrypted
        self._over_ssl = True
        self._tls_protocol = cast(Any, encrypted)  # only asked whether there is one
        self.transport = encrypted
        assert self.session is not None
        peer = self.session.peer
        self.envelope = self._create_envelope()
        self.session = self._create_session()  # whoever it was has to say so again
        self.session.peer = peer
        self.session.ssl = {"sslcontext": self.tls_context}
        self._reset_timeout()

    def _getaddr(self, arg: str) -> tuple[str | None, str | None]:
        """Address and what follows; the null path is `<>`. Not by the parser of headers, which hostile input breaks."""
        found = _PATH.fullmatch(arg)
        if found is None or len(found[1].encode("utf-8", "surrogateescape")) > LONGEST_PATH:
            return None, None
        try:
            found[1].encode("utf-8")
        except UnicodeEncodeError:
            return None, None
        return found[1] or "<>", found[2].strip()

    async def handle_MAIL(self, _server: Any, _session: Any, envelope: Any, address: str, options: list[str]) -> str:
        if not self.desk.open:
            return "421 4.3.2 the broker is stopping; come again in a moment"
        size = next((option[5:] for option in options if option.startswith("SIZE=")), "0")
        try:
            self.desk.room.check(int(size[:12]) * 72 // 100)  # of base64 in lines, a little less than that is message
        except Refusal as refusal:
            return reply_of(refusal)
        envelope.mail_from = address
        envelope.mail_options.extend(options)
        return "250 2.1.0 OK"

    async def handle_RCPT(self, _server: Any, _session: Any, envelope: Any, address: str, options: list[str]) -> str:
        if not self.desk.knows(address):
            return "550 5.1.1 no such recipient here: this broker takes mails for its own addresses and relays none"
        if len(envelope.rcpt_tos) >= MOST_RECIPIENTS:
            return "452 4.5.3 too many recipients"
        envelope.rcpt_tos.append(address)
        return "250 2.1.5 OK"

    # --- the mail itself ---

    async def smtp_DATA(self, arg: str) -> None:
        if await self.check_helo_needed():
            return
        assert self.envelope is not None
        recipients = len(self.envelope.rcpt_tos)
        if not recipients:
            await self.push("503 5.5.1 RCPT comes first")
            return
        if arg:
            await self.push("501 5.5.4 DATA stands alone")
            return
        self.busy = True
        hold = self.desk.room.hold()
        try:
            reply = await self._data(hold)
        finally:
            hold.let_go()
            self.busy = False
        if reply is None:
            return
        self.envelope = self._create_envelope()
        self._reset_timeout()
        for _ in range(recipients if isinstance(self, LMTP) else 1):  # RFC 2033: an answer for each
            await self.push(reply)
        if not self.desk.open:
            self.part("421 4.3.2 the broker is stopping; come again in a moment")

    async def _data(self, hold: Hold) -> str | None:
        """The answer to a mail; None where the connection is closed instead."""
        try:
            self.desk.room.check(0)
        except Refusal as refusal:  # said before the mail comes, so that it need not
            return reply_of(refusal)
        await self.push("354 end it with a dot on a line of its own")
        assert self._timeout_handle is not None
        self._timeout_handle.cancel()  # the mail has a deadline of its own
        try:
            mail = await self._read_mail(hold)
        except TimeoutError:
            self.part("421 4.4.2 the mail did not come in time")
            return None
        except Refusal as refusal:
            return reply_of(refusal)
        if mail is None:
            self.part("552 5.3.4 far too much; goodbye")
            return None
        return await self.desk.take(self, mail, hold)

    async def _read_mail(self, hold: Hold) -> bytes | None:
        """The mail without its dots (RFC 5321, section 4.5.2).

        One that there is no room for is read to its end and thrown away, so that the sender hears why: a refusal is
        raised then. None where it does not end even so.
        """
        data = bytearray(b"\r\n")  # the end of the command: the very first line may be the dot
        came, refused = 0, None
        start = self.loop.time()
        async with asyncio.timeout(SLOW) as clock:
            while True:
                piece = await self._reader.read(PIECE)
                if not piece:
                    raise ConnectionResetError
                came += len(piece)
                clock.reschedule(start + SLOW + came / SLOWEST)
                seen = len(data)
                data += piece
                end = data.find(END, max(seen - len(END), 0))
                if refused is None:
                    refused = self._no_room(hold, len(piece), came)
                if end >= 0:
                    break
                if refused is not None:
                    if came > 3 * self.desk.longest + PIECE:
                        return None
                    del data[: -len(END)]
        # What follows the dot is the next command: pipelining.
        self._reader._buffer[:0] = data[end + len(END) :]  # type: ignore[attr-defined]
        if refused is not None:
            raise refused
        if data.find(b"\r\n.", 0, end + 2) < 0:  # as in all that we and our like send: one copy, not three
            return bytes(memoryview(data)[2 : end + 2])
        return bytes(memoryview(data)[: end + 2]).replace(b"\r\n.", b"\r\n")[2:]

    def _no_room(self, hold: Hold, more: int, came: int) -> Refusal | None:
        if came > self.desk.longest:
            hold.let_go()
            return TooLarge(f"the mail is larger than the {self.desk.longest} octets that this broker takes")
        try:
            hold.grow(more)
        except Refusal as refusal:
            hold.let_go()
            return refusal
        return None


class LmtpSession(Session, LMTP):
    """LMTP: LHLO instead of EHLO, and an answer for each recipient."""
