"""Connections to the smarthost: made, encrypted, logged in, kept for the next mail."""

from __future__ import annotations

import asyncio
import ssl
from dataclasses import dataclass

from aiosmtplib import SMTP
from aiosmtplib.errors import SMTPAuthenticationError, SMTPException, SMTPResponseException, SMTPTimeoutError

from plugins.email.replies import shown
from plugins.email.settings import EmailSettings, StartTls

IDLE = 30.0  # seconds a connection is kept without a mail; servers under stress close it sooner themselves
MOST_MAILS = 100  # by one connection: servers that balance their load like to see a new one now and then
MOST_KEPT = 64


class NoSmarthost(Exception):
    """There is no connection to be had; the text says why."""


@dataclass(slots=True, kw_only=True, eq=False)
class Line:
    """A connection that is ready for MAIL."""

    client: SMTP
    mails: int = 0
    since: float = 0.0  # when it was put back

    @property
    def is_open(self) -> bool:
        return self.client.is_connected

    @property
    def size(self) -> int:
        """The largest mail that the server takes; 0 where it does not say."""
        said = self.client.esmtp_extensions.get("size", "").strip()
        return int(said) if said.isascii() and said.isdigit() and len(said) < 19 else 0

    def offers(self, extension: str) -> bool:
        return self.client.supports_extension(extension)

    def close(self) -> None:
        self.client.close()

    def part(self) -> None:
        """Says goodbye, so that the server's log tells of no lost connection, and waits for no answer."""
        protocol = self.client.protocol
        if protocol is not None and self.is_open:
            protocol.write(b"QUIT\r\n")
        self.close()


class Lines:
    """The connections that wait for a mail. How many are used at once is the lane's business."""

    def __init__(self, settings: EmailSettings) -> None:
        self._settings = settings
        self._to = settings.to()
        self._kept: list[Line] = []
        self._context: ssl.SSLContext | None = None
        self._closing: asyncio.TimerHandle | None = None

    async def get(self, seconds: float, *, fresh: bool) -> Line:
        """A connection, one that was kept if there is one; raises `NoSmarthost`."""
        while self._kept and not fresh:
            line = self._kept.pop()
            if line.is_open:
                return line
        return await self._dial(seconds)

    def put(self, line: Line) -> None:
        """Back for the next mail."""
        loop = asyncio.get_running_loop()
        if not line.is_open or line.mails >= MOST_MAILS or len(self._kept) >= MOST_KEPT:
            line.part()
            return
        line.since = loop.time()
        self._kept.append(line)
        if self._closing is None:
            self._closing = loop.call_later(IDLE, self._close_idle)

    def stop(self) -> None:
        if self._closing is not None:
            self._closing.cancel()
            self._closing = None
        for line in self._kept:
            line.part()
        self._kept.clear()

    def _close_idle(self) -> None:
        loop = asyncio.get_running_loop()
        self._closing = None
        idle = [line for line in self._kept if loop.time() - line.since >= IDLE or not line.is_open]
        for line in idle:
            line.part()
        self._kept = [line for line in self._kept if line not in idle]
        if self._kept:
            self._closing = loop.call_later(IDLE, self._close_idle)

    # --- making one ---

    async def _dial(self, seconds: float) -> Line:
        to = self._to
        context = await self._tls()
        client = SMTP(
            hostname=to.host, port=to.port, use_tls=to.tls, start_tls=False, tls_context=context,
            local_hostname=self._settings.name, timeout=seconds,
        )  # fmt: skip
        what = "no connection to the smarthost"
        ready = False
        try:
            async with asyncio.timeout(seconds):
                await client.connect()
                what = "the smarthost does not greet"
                await client.ehlo()
                what = "no TLS with the smarthost"
                await self._encrypt(client)
                what = "the smarthost does not let us log in"
                if to.user is not None and to.password is not None:
                    await client.login(to.user, to.password)
            ready = True
        except (SMTPAuthenticationError, SMTPResponseException) as error:
            raise NoSmarthost(f"{what}: {error.code} {shown(str(error.message))}") from None
        except (TimeoutError, SMTPTimeoutError):
            raise NoSmarthost(f"{what} in {seconds:g} s") from None
        except ssl.SSLCertVerificationError as error:
            raise NoSmarthost(f"the smarthost's certificate: {shown(error.verify_message)}") from None
        except (OSError, SMTPException, ssl.SSLError, ValueError) as error:
            # Never the text of a foreign exception: it may quote what was on the wire. Its kind says enough.
            cause = error.__cause__ or error
            raise NoSmarthost(f"{what} ({type(cause).__name__})") from None
        finally:
            if not ready:
                client.close()
        return Line(client=client)

    async def _encrypt(self, client: SMTP) -> None:
        policy, to = self._settings.starttls, self._to
        if to.tls or policy is StartTls.OFF:
            return
        offered = client.supports_extension("starttls")
        if (policy is StartTls.AUTO and to.is_loopback) or (policy is StartTls.OPTIONAL and not offered):
            return
        if not offered:
            raise NoSmarthost("the smarthost offers no STARTTLS, and it is required (`starttls`)")
        await client.starttls()
        await client.ehlo()

    async def _tls(self) -> ssl.SSLContext:
        if self._context is None:
            ca = self._settings.smarthost_ca
            self._context = await asyncio.to_thread(ssl.create_default_context, cafile=str(ca) if ca else None)
            self._context.minimum_version = ssl.TLSVersion.TLSv1_2
        return self._context
