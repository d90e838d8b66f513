"""One attempt over mail: handed to the smarthost, and one of three ends (A-36, A-43)."""

from __future__ import annotations

import asyncio

from aiosmtplib.errors import SMTPException
from aiosmtplib.response import SMTPResponse

from broker.channel import Deferred, Delivered, Host, Refused, Transmission
from broker.core.outcome import Problem, Who
from plugins.email.address import Mailboxes, mailbox_of, xtext
from plugins.email.compose import compose, recipient_of
from plugins.email.replies import not_delivered, problem_of, shown
from plugins.email.settings import EmailSettings
from plugins.email.smarthost import Line, Lines, NoSmarthost

BESIDE_THE_LOOP = 256 * 1024  # bytes of a message that takes longer to write than anybody else should wait
RESET = 5.0  # seconds for RSET: a connection that does not even answer that is not worth keeping

Attempted = Delivered | Deferred | Refused


class _Stale(Exception):
    """A connection that was kept had ended meanwhile, before it took anything."""


class EmailSender:
    """Shares the connections to the smarthost; how many there are is its lane's business (broker.channel.Sender)."""

    def __init__(self, settings: EmailSettings, host: Host) -> None:
        self._from = settings.from_
        self._ours = Mailboxes(settings.from_, settings.recipients)
        self._host = host
        self._lines = Lines(settings)

    async def attempt(self, transmission: Transmission) -> Attempted:
        """Makes one attempt and says how it ended."""
        try:
            recipient = recipient_of(transmission.address)
        except ValueError as exc:
            return _unusable(str(exc))
        if transmission.manner is not None and recipient in self._ours:
            return _unusable(
                "a notification to this broker's own mailbox would come back as a message, to be told of again"
            )
        at = self._host.now()
        if len(transmission.body) > BESIDE_THE_LOOP:
            mail = await asyncio.to_thread(compose, transmission, sender=self._from, at=at)
        else:
            mail = compose(transmission, sender=self._from, at=at)
        try:
            try:
                return await self._by(await self._line(transmission, fresh=False), transmission, recipient, mail)
            except _Stale:
                return await self._by(await self._line(transmission, fresh=True), transmission, recipient, mail)
        except NoSmarthost as no:
            return Deferred(note=str(no), of_peer=True, left=False)

    async def stop(self) -> None:
        self._lines.stop()

    async def _line(self, transmission: Transmission, *, fresh: bool) -> Line:
        return await self._lines.get(transmission.connect.total_seconds(), fresh=fresh)

    async def _by(self, line: Line, transmission: Transmission, recipient: str, mail: bytes) -> Attempted:
        """Hands the mail over by this connection, and puts that back if it can be used again."""
        exchange = _Exchange(line, transmission)
        again = False
        try:
            end = await exchange.run(self._from, recipient, mail)
            again = await exchange.is_ready_again()
            return end
        except (SMTPException, OSError) as error:
            if line.mails and not exchange.answered:
                raise _Stale from None
            lost = "in time" if isinstance(error, TimeoutError) else "before the connection ended"
            sent = "; whether the mail was taken is not known" if exchange.left else ""
            return Deferred(note=f"no answer to {exchange.what} {lost}{sent}", of_peer=True, left=exchange.left)
        finally:
            if again:
                self._lines.put(line)
            else:
                line.close()


class _Exchange:
    """MAIL, RCPT, DATA and the mail, and how far it has come."""

    def __init__(self, line: Line, transmission: Transmission) -> None:
        self._line = line
        self._transmission = transmission
        self._answer = transmission.answer.total_seconds()
        self._open = False  # a transaction stands, and needs RSET before the next
        self.what = "MAIL"
        self.answered = False  # the server has said anything at all in this exchange
        self.left = False  # the mail may have reached it

    async def run(self, sender: str, recipient: str, mail: bytes) -> Attempted:
        line = self._line
        if line.size and len(mail) > line.size:
            self.answered = True
            return _too_large(len(mail), line.size)
        international = not recipient.isascii()
        if international and not line.offers("smtputf8"):
            self.answered = True
            return _unusable("the smarthost cannot carry a recipient that is not written in ASCII (SMTPUTF8)")
        options, wishes = self._options(len(mail), international=international)
        if self._transmission.manner is not None and not mail.isascii() and line.offers("8bitmime"):
            options.append(b"BODY=8BITMIME")  # parts that came so; what we write ourselves is ASCII
        reply = await self._say(b"MAIL FROM:<%s>" % sender.encode("ascii"), options)
        if reply.code == 421 and line.mails:
            raise _Stale
        if reply.code != 250:
            return self._no(reply)
        self.what, self._open = "RCPT", True
        reply = await self._say(b"RCPT TO:<%s>" % recipient.encode("utf-8"), wishes)
        if reply.code not in (250, 251):
            return self._no(reply)
        self.what = "DATA"
        reply = await self._say(b"DATA", [])
        if reply.code != 354:
            return self._no(reply)
        self.what, self.left = "the mail", True
        reply = await self._send(mail)
        self._open = False
        if reply.code // 100 != 2:
            return self._no(reply)
        line.mails += 1
        return Delivered(status=reply.code, note=f"{reply.code} {shown(reply.message)}".rstrip())

    def _options(self, size: int, *, international: bool) -> tuple[list[bytes], list[bytes]]:
        """Of MAIL and of RCPT: what the server offers of SIZE, SMTPUTF8 and DSN (RFC 3461)."""
        line, transmission = self._line, self._transmission
        options = [b"SIZE=%d" % size] if line.offers("size") else []
        if international:
            options.append(b"SMTPUTF8")
        if not line.offers("dsn"):
            return options, []
        options += [b"RET=HDRS", b"ENVID=" + xtext(transmission.message_id).encode("ascii")]
        named = mailbox_of(transmission.address)
        original = [] if not named.isascii() else [b"ORCPT=rfc822;" + xtext(named).encode("ascii")]
        return options, [b"NOTIFY=FAILURE,DELAY", *original]

    async def _say(self, command: bytes, options: list[bytes]) -> SMTPResponse:
        reply = await self._line.client.execute_command(command, *options, timeout=self._answer)
        self.answered = True
        return reply

    async def _send(self, mail: bytes) -> SMTPResponse:
        """The mail, written as it is: it has no line that begins with a dot, and all of them end in CRLF."""
        protocol = self._line.client.protocol
        if protocol is None:
            raise ConnectionResetError
        protocol.write(mail)
        protocol.write(b".\r\n")
        return await protocol.read_response(timeout=self._answer)

    def _no(self, reply: SMTPResponse) -> Deferred | Refused:
        return not_delivered(reply.code, reply.message, what=self.what, left=self.left, recipient=self.what == "RCPT")

    async def is_ready_again(self) -> bool:
        """Whether the connection can carry another mail."""
        client = self._line.client
        if not client.is_connected:
            return False
        if not self._open:
            return True
        try:
            reply = await client.execute_command(b"RSET", timeout=RESET)
        except (SMTPException, OSError):  # the mail has had its answer: what comes after changes nothing
            return False
        return bool(reply.code == 250)


def _too_large(size: int, limit: int) -> Refused:
    text = f"The mail has {size} octets, and the smarthost takes {limit}."
    return Refused(
        note=f"{size} octets, the smarthost takes {limit}", problem=problem_of("5.3.4", text, id="too-large")
    )


def _unusable(why: str) -> Refused:
    text = f"The message cannot be sent: {why}; correct the directory, the rule or the Subscription with this address."
    return Refused(note=why, problem=Problem(code="processing", id="unusable-address", text=text, who=Who.BROKER))
