"""Writes the mail of a transmission (A-36): one attachment, and a line for whoever opens it by mistake. Pure."""

from __future__ import annotations

import binascii
from datetime import datetime
from email.utils import format_datetime

import msgspec

from broker.channel import Transmission
from broker.core.fhir.header import Format
from broker.core.fhir.media import media_type
from broker.core.outcome import Refusal
from plugins.email.address import is_message_id, mailbox_of, message_id_of, on_the_wire
from plugins.email.binding import write_fields

LINE = 76  # of base64 (RFC 2045, section 6.8)
PIECE = 57 * 1024  # bytes that make whole lines
TEXT = (
    "This mail carries a message from one computer to another; the message is in the attachment.\r\n"
    "If you got it by mistake, please delete it and tell the sender. Nobody reads answers to this address.\r\n"
)


def recipient_of(address: str) -> str:
    """The recipient as it is written to servers; ValueError says why the address cannot be used."""
    return on_the_wire(mailbox_of(address))


def compose(transmission: Transmission, *, sender: str, at: datetime) -> bytes:
    """The whole mail, its lines ending in CRLF and none of them beginning with a dot: it can be sent as it is."""
    boundary = f"=_{transmission.message_id}"  # no line of base64 has _ in it, and the text does not
    head = _head(transmission, sender, at) + (
        "MIME-Version: 1.0\r\n"
        f'Content-Type: multipart/mixed; boundary="{boundary}"\r\n'
        "\r\n"
        f"--{boundary}\r\n"
        "Content-Type: text/plain; charset=us-ascii\r\n"
        "\r\n"
        f"{TEXT}"
        f"--{boundary}\r\n"
        f"Content-Type: {transmission.media_type or 'application/octet-stream'}\r\n"
        "Content-Transfer-Encoding: base64\r\n"
        f'Content-Disposition: attachment; filename="{_file(transmission.media_type)}"\r\n'
        "\r\n"
    )
    body = transmission.body
    pieces = [_in_lines(body[at : at + PIECE]) for at in range(0, len(body), PIECE)]
    return b"".join([head.encode("utf-8"), *pieces, f"--{boundary}--\r\n".encode()])


def _in_lines(piece: bytes) -> bytes:
    """Base64 in lines; a piece at a time, since the lines of a large message take twice its room."""
    written = binascii.b2a_base64(piece, newline=False)
    return b"\r\n".join([*[written[at : at + LINE] for at in range(0, len(written), LINE)], b""])


def _head(transmission: Transmission, sender: str, at: datetime) -> str:
    envelope = transmission.envelope
    if envelope.timeleft is not None:  # whoever waits, does not wait for a mail
        envelope = msgspec.structs.replace(envelope, timeleft=None)
    domain = sender.rpartition("@")[2]
    reference = transmission.in_reply_to or ""
    answers = f"In-Reply-To: {reference}\r\nReferences: {reference}\r\n" if is_message_id(reference) else ""
    return (
        f"From: {sender}\r\n"
        f"To: {recipient_of(transmission.address)}\r\n"
        f"Date: {format_datetime(at)}\r\n"
        f"Message-ID: {message_id_of(transmission.message_id, transmission.address, domain)}\r\n"
        f"{answers}"
        "Subject: FHIR message\r\n"
        "Auto-Submitted: auto-generated\r\n"
        f"{write_fields(envelope)}"
    )


def _file(media: str) -> str:
    try:
        format = media_type(media).format
    except Refusal:
        return "message.bin"
    return "message.xml" if format is Format.XML else "message.json"
