"""STARTTLS for those who send to us."""

from __future__ import annotations

import asyncio
import smtplib
import ssl
from pathlib import Path

from email_desk import MESSAGE, OURS, Client, attachment, serving

from broker.core.tls import ClientCertificate, Tls


async def test_starttls_encrypts_and_forgets_what_was_said_before(certificate: tuple[str, str]) -> None:
    cert, key = map(Path, certificate)
    async with serving(tls=Tls(cert=cert, key=key), require_tls=True) as served:

        def talk() -> list[object]:
            context = ssl.create_default_context(cafile=str(cert))
            with smtplib.SMTP("127.0.0.1", served.port, timeout=10) as client:
                client.ehlo("client.example")
                refused = client.docmd("MAIL FROM:<a@b.example>")[0]
                client.starttls(context=context)
                early = client.docmd("MAIL FROM:<a@b.example>")[0]  # before a new EHLO
                client.ehlo("client.example")
                offers = client.has_extn("starttls")
                return [refused, early, offers, client.sendmail("a@b.example", [OURS], attachment())]

        assert await asyncio.to_thread(talk) == [530, 503, False, {}]
        assert served.host.arrivals[0].body == MESSAGE


async def test_what_is_sent_ahead_of_the_handshake_is_not_believed(certificate: tuple[str, str]) -> None:
    """RFC 3207, section 4.2: plain commands that somebody put in before the encryption."""
    cert, key = map(Path, certificate)
    async with serving(tls=Tls(cert=cert, key=key)) as served:
        client = await served.dial()
        await client.say(b"EHLO client.example")
        client.write(b"STARTTLS\r\nMAIL FROM:<evil@b.example>\r\n")
        assert (await client.answer()).startswith("220")
        context = ssl.create_default_context(cafile=str(cert))
        await client.writer.start_tls(context, server_hostname="127.0.0.1")
        assert (await client.say(b"EHLO client.example")).startswith("250-")  # and not the answer to MAIL
        client.close()


async def test_a_client_without_the_asked_certificate_is_not_let_in(certificate: tuple[str, str]) -> None:
    cert, key = map(Path, certificate)
    tls = Tls(cert=cert, key=key, client_ca=cert, client=ClientCertificate.REQUIRED)
    async with serving(tls=tls, require_tls=True) as served:

        def talk() -> str:
            context = ssl.create_default_context(cafile=str(cert))
            try:
                with smtplib.SMTP("127.0.0.1", served.port, timeout=10) as client:
                    client.starttls(context=context)
                    client.ehlo()
                    return str(client.sendmail("a@b.example", [OURS], attachment()))
            except (OSError, smtplib.SMTPException) as error:
                return type(error).__name__

        assert await asyncio.to_thread(talk) != "{}"
        assert served.host.arrivals == []


async def test_on_a_unix_socket_nobody_is_asked_for_tls(certificate: tuple[str, str], tmp_path: Path) -> None:
    cert, key = map(Path, certificate)
    path = tmp_path / "lmtp.sock"
    async with serving(tls=Tls(cert=cert, key=key), require_tls=True, lmtp=f"unix:{path}") as served:
        client = Client(*await asyncio.open_unix_connection(str(path)))
        await client.answer()
        assert (await client.send(attachment(), hello="LHLO")).startswith("250 2.0.0 accepted")
        assert served.host.arrivals[0].peer.address == "unix"
        client.close()
        client = await served.dial()
        assert (await client.begin()).startswith("530")
        client.close()
