"""The ways in over mail: SMTP and LMTP listeners on the broker's own loop, and what becomes of a mail."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import ssl
from datetime import datetime
from pathlib import Path

import structlog

from broker.channel import Arrival, Asked, Hold, Host, Peer
from broker.core.outcome import Refusal
from broker.serving import server_context
from plugins.email.letter import Letter, Silent, open_letter, read_letter
from plugins.email.notice import Notice, notices_of
from plugins.email.replies import reply_of, shown
from plugins.email.session import LmtpSession, Session
from plugins.email.settings import EmailSettings

log = structlog.get_logger("broker.email")

BACKLOG = 128
BESIDE_THE_LOOP = 256 * 1024  # octets of a mail that may take longer to take apart than anybody else should wait
GRACE = 5.0  # seconds that mails under way are given when the broker stops
MARGIN = 256 * 1024  # octets of a mail beside its message: header, other parts
NULL_SENDER = "<>"


class EmailReceiver:
    """Takes mails for its own recipients, and reports on those that were sent (broker.channel.Receiver)."""

    def __init__(self, settings: EmailSettings, host: Host) -> None:
        self._settings = settings
        self._host = host
        self.room = host.room
        self.open = False
        self.tls: ssl.SSLContext | None = None
        self.longest = host.max_message * 78 // 57 + MARGIN  # base64 in lines of 76 and CRLF
        self.name = settings.name
        self._own = _folded(settings.from_)
        known = [_folded(one) for one in settings.recipients] or [self._own]
        self._exact = frozenset(one for one in known if not one.startswith("*@"))
        self._domains = frozenset(one.removeprefix("*@") for one in known if one.startswith("*@"))
        self._sessions: set[Session] = set()
        self._servers: list[asyncio.Server] = []
        self._none_left = asyncio.Event()
        self.listening = ""

    # --- listening ---

    async def start(self) -> None:
        # aiosmtpd logs every command, addresses included; what is worth a line is logged here.
        logging.getLogger("mail.log").setLevel(logging.CRITICAL)
        if self._settings.tls is not None:
            self.tls = server_context(self._settings.tls)
        self.open = True
        try:
            await self._listen(self._settings.listen, Session)
            if self._settings.lmtp is not None:
                await self._listen(self._settings.lmtp, LmtpSession)
        except BaseException:
            await self.stop()
            raise

    async def _listen(self, where: str, kind: type[Session]) -> None:
        loop = asyncio.get_running_loop()
        require_tls = self._settings.require_tls and not where.startswith("unix:")

        def connected() -> asyncio.BaseProtocol:
            return kind(self, loop, require_tls=require_tls)

        if where.startswith("unix:"):
            path = where.removeprefix("unix:")
            _remove_socket(Path(path))
            server: asyncio.Server = await loop.create_unix_server(connected, path, backlog=BACKLOG)
            bound = where
        else:
            host, _, port = where.rpartition(":")
            server = await loop.create_server(connected, host.strip("[]"), int(port), backlog=BACKLOG)
            name = server.sockets[0].getsockname()
            bound = f"[{name[0]}]:{name[1]}" if ":" in name[0] else f"{name[0]}:{name[1]}"
        self.listening = f"{self.listening} {bound}".lstrip()
        self._servers.append(server)

    async def stop(self) -> None:
        """Takes no new mail; one that is on its way in gets its answer."""
        self.open = False
        for server in self._servers:
            server.close()
        self._servers.clear()
        self.listening = ""
        for session in list(self._sessions):
            if not session.busy:
                session.part("421 4.3.2 the broker is stopping; come again in a moment")
        if self._sessions:
            self._none_left.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(GRACE):
                    await self._none_left.wait()
        for session in list(self._sessions):
            session.part("421 4.3.2 the broker is stopping; come again in a moment")

    @property
    def addresses(self) -> list[str]:
        """Where it really listens: port 0 is any free one."""
        sockets = [one for server in self._servers for one in getattr(server, "sockets", ())]
        return [f"{name[0]}:{name[1]}" for one in sockets if isinstance(name := one.getsockname(), tuple)]

    # --- what sessions ask (plugins.email.session.Desk) ---

    @property
    def is_crowded(self) -> bool:
        return len(self._sessions) > self._settings.connections // 2

    def entered(self, session: Session) -> bool:
        """False where there is no place for it."""
        if len(self._sessions) >= self._settings.connections or not self.open:
            return False
        self._sessions.add(session)
        return True

    def left(self, session: Session) -> None:
        self._sessions.discard(session)
        if not self._sessions:
            self._none_left.set()

    def knows(self, recipient: str) -> bool:
        folded = _folded(recipient)
        return folded == self._own or folded in self._exact or folded.rpartition("@")[2] in self._domains

    async def take(self, session: Session, mail: bytes, hold: Hold) -> str:
        """The answer to a mail: it comes after what the mail carries is kept."""
        envelope = session.envelope
        assert envelope is not None
        null_sender = envelope.mail_from == NULL_SENDER
        at = self._host.now()
        try:
            if len(mail) > BESIDE_THE_LOOP:
                opened = await asyncio.to_thread(_opened, mail, null_sender=null_sender)
            else:
                opened = _opened(mail, null_sender=null_sender)
            if isinstance(opened, list):
                return await self._report(session, opened, null_sender=null_sender)
            if isinstance(opened, Silent):
                log.info("a mail was thrown away", peer=session.peer_address, why=opened.why)
                return f"250 2.0.0 not kept: {shown(opened.why)}"
            del mail
            hold.let_go()  # of the mail; from here on its message counts
            way_in = envelope.rcpt_tos[0].rpartition("@")[0]
            return await self._accept(opened, Peer(address=session.peer_address), way_in, at)
        except Refusal as refusal:
            return reply_of(refusal)

    async def _accept(self, letter: Letter, peer: Peer, way_in: str, at: datetime) -> str:
        hold = self.room.hold()
        try:
            hold.grow(len(letter.body))
            answer = await self._host.accept(
                Arrival(
                    channel="email",
                    peer=peer,
                    body=letter.body,
                    media_type=letter.media_type,
                    at=at,
                    envelope=letter.envelope,
                    # Nobody listens for a response in the same exchange, and an address in a mail is anybody's claim:
                    # the response goes where the directory says that its source lives.
                    asked=Asked(asynchronous=True),
                    way_in=way_in,
                    headers=letter.fields,
                    reference=letter.message_id,
                    hold=hold,
                )
            )
        finally:
            hold.let_go()
        known = " before" if answer.receipt.duplicate else ""
        return f"250 2.0.0 accepted{known} as {answer.receipt.message_id}"

    async def _report(self, session: Session, notices: list[Notice], *, null_sender: bool) -> str:
        """Word of mails that we sent. Whatever it says, no mail answers it (A-41)."""
        if not null_sender:
            return "550 5.7.1 a delivery status notification comes from <>"
        told = 0
        for notice in notices:
            for report in notice.reports():
                if await self._host.report(report):
                    told += 1
                    break
        if not told:
            log.info("a delivery status notification is about no mail of ours", peer=session.peer_address)
        return "250 2.0.0 noted" if told else "250 2.0.0 not kept: it is about no mail of ours"


def _opened(data: bytes, *, null_sender: bool) -> list[Notice] | Letter | Silent:
    """Raises a refusal for what none of these is."""
    mail, is_notification = read_letter(data)
    return notices_of(mail) if is_notification else open_letter(mail, null_sender=null_sender)


def _remove_socket(path: Path) -> None:
    """What a broker that was killed has left behind."""
    if path.is_socket():
        path.unlink()


def _folded(mailbox: str) -> str:
    return mailbox.lower()
