"""The email channel's desk: a mail client that hands mails in over SMTP, and aiosmtpd as the smarthost behind it."""

from __future__ import annotations

import asyncio
import base64
import re
from email import policy
from email.message import Message
from email.parser import BytesParser
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote
from uuid import uuid4

import aiosmtplib
from aiosmtpd.smtp import SMTP, Envelope, Session
from e2e_daemon import free_port

from broker.core.attributes import from_attributes, to_attributes
from broker.core.envelope import EMPTY
from broker.core.envelope import Envelope as Attributes
from desks.desk import JSON, WITHIN, XML, Desk, Ended, Got, How, Peer, Says

BROKER = "broker@here.example"
CE = "ce-"
PROBLEM = re.compile(r"\[([a-z0-9-]+)\]$")
LARGEST = 64 * 2**20


def got_of(mail: bytes) -> Got:
    """The message in a mail, as the standard library takes it apart."""
    whole = BytesParser(policy=policy.compat32).parsebytes(mail)
    [part] = [part for part in whole.walk() if part.get_content_disposition() == "attachment"]
    fields = [(name.lower(), "".join(str(value).split())) for name, value in whole.items()]
    found = {name.removeprefix(CE): unquote(value) for name, value in fields if name.startswith(CE)}
    return Got(
        body=bytes(part.get_payload(decode=True)),
        media_type=_media_type(part),
        envelope=from_attributes(found),
        in_reply_to=whole["In-Reply-To"],
    )


def _media_type(part: Message) -> str:
    """As it is written, without the name of the file."""
    written = " ".join(str(part["Content-Type"]).split())
    return re.sub(r'; name="?[^;"]*"?', "", written)


class EmailPeer(Peer):
    """The smarthost."""

    address = "mailto:south@peer.example"

    def __init__(self) -> None:
        super().__init__()
        self.port = free_port()
        self._server: asyncio.Server | None = None
        self._sessions: set[SMTP] = set()

    async def start(self) -> None:
        loop = asyncio.get_running_loop()

        def connected() -> SMTP:
            session = SMTP(self, hostname="smarthost.example", loop=loop, data_size_limit=LARGEST, enable_SMTPUTF8=True)
            self._sessions.add(session)
            return session

        self._server = await loop.create_server(connected, "127.0.0.1", self.port, reuse_address=True)

    async def stop(self) -> None:
        server, self._server = self._server, None
        if server is not None:
            server.close()
            for session in self._sessions:
                if session.transport is not None:
                    session.transport.abort()
            self._sessions.clear()
            await server.wait_closed()

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:
        assert isinstance(envelope.content, bytes)
        match await self.heard(got_of(envelope.content)):
            case Says.REFUSES:
                return "550 5.7.1 we do not take these"
            case Says.LATER:
                return "450 4.2.0 come again"
            case Says.DIES:
                assert server.transport is not None
                server.transport.abort()
        return "250 2.0.0 taken"


class EmailDesk(Desk):
    name = "email"
    says = frozenset(Says)
    unusable = ("mailto:", "mailto:nobody", "mailto:a@b.example?subject=secret", "mailto:a b@c.example")
    has_references = True

    def __init__(self, folder: Path, server: Any = None) -> None:
        super().__init__(folder, server)
        self.port = free_port()

    @staticmethod
    def a_reference(text: str) -> str:
        return f"<{text}@north.example>"

    async def open(self) -> None:
        self.peer = EmailPeer()
        await self.peer.start()

    async def close(self) -> None:
        await self.peer.stop()

    def configuration(self) -> dict[str, Any]:
        block = {
            "from": BROKER,
            "listen": f"127.0.0.1:{self.port}",
            "smarthost": f"smtp://127.0.0.1:{self.peer.port}",
        }
        return {"channels": {"email": block}}

    async def hand_in(
        self,
        body: bytes,
        envelope: Attributes = EMPTY,
        *,
        media_type: str = JSON,
        reference: str | None = None,
    ) -> Ended:
        mail = _mail(body, envelope, media_type, reference or f"<{uuid4()}@north.example>")
        try:
            async with aiosmtplib.SMTP(
                hostname="127.0.0.1", port=self.port, use_tls=False, start_tls=False, timeout=WITHIN,
                local_hostname="north.example",
            ) as client:  # fmt: skip
                _, said = await client.sendmail("system@north.example", [BROKER], mail)
        except aiosmtplib.SMTPRecipientsRefused as refused:
            return _no(refused.recipients[0].code, refused.recipients[0].message)
        except aiosmtplib.SMTPResponseException as refused:
            return _no(refused.code, refused.message)
        except (aiosmtplib.SMTPException, OSError):
            return Ended(how=How.LOST)
        return Ended(how=How.TAKEN, duplicate=" before " in said)


def _mail(body: bytes, envelope: Attributes, media_type: str, message_id: str) -> bytes:
    """As many a mail program writes it: a text, and the message attached in base64."""
    fields = "".join(f"CE-{name}: {_folded(value)}\r\n" for name, value in to_attributes(envelope).items())
    name = "message.xml" if media_type.startswith(XML) else "message.json"
    head = (
        f"From: system@north.example\r\nTo: {BROKER}\r\nSubject: for you\r\nMessage-ID: {message_id}\r\n{fields}"
        'MIME-Version: 1.0\r\nContent-Type: multipart/mixed; boundary="=="\r\n\r\n'
        "--==\r\nContent-Type: text/plain\r\n\r\nSee attachment.\r\n"
        f"--==\r\nContent-Type: {media_type}\r\nContent-Transfer-Encoding: base64\r\n"
        f'Content-Disposition: attachment; filename="{name}"\r\n\r\n'
    )
    return head.encode() + base64.encodebytes(body).replace(b"\n", b"\r\n") + b"--==--\r\n"


def _folded(value: str) -> str:
    written = quote(value, safe="!#$&'()*+,-./:;<=>?@[\\]^_`{|}~")
    return "\r\n ".join(written[at : at + 900] for at in range(0, len(written), 900))


def _no(code: int, text: str) -> Ended:
    found = PROBLEM.search(text.strip())
    problem = found[1] if found else "too-large" if code == 552 else ""
    return Ended(how=How.LATER if code // 100 == 4 else How.REFUSED, problem=problem)
