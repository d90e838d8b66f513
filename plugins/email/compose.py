"""Writes the mail of a transmission: a message as its attachment (A-36), or a notification for people (S-45). Pure."""

from __future__ import annotations

import binascii
import re
from datetime import datetime
from email.header import Header
from email.utils import format_datetime

import msgspec

from broker.channel import Manner, Transmission
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
NOTIFICATION = "FHIR notification"  # the subject of one that has none of its own
LONGEST_SUBJECT = 300  # characters
_FOR_PEOPLE = re.compile(r"(text/plain|text/html|multipart/[a-z]+)\s*(?:;|$)", re.IGNORECASE)
_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]+")  # a line's end in a subject would begin a field
_LINE_END = re.compile(rb"\r\n|\r|\n")
_DOTS = re.compile(rb"^\.", re.MULTILINE)


def recipient_of(address: str) -> str:
    """The recipient as it is written to servers; ValueError says why the address cannot be used."""
    return on_the_wire(mailbox_of(address))


def compose(transmission: Transmission, *, sender: str, at: datetime) -> bytes:
    """The whole mail, its lines ending in CRLF and none of them beginning with a dot: it can be sent as it is."""
    manner = transmission.manner
    if manner is not None and (kind := _FOR_PEOPLE.match(transmission.media_type)):
        return _notification(transmission, manner, sender, at, whole=kind[1].lower().startswith("multipart/"))
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
    return b"".join([head.encode("utf-8"), *_base64(transmission.body), f"--{boundary}--\r\n".encode()])


def _notification(transmission: Transmission, manner: Manner, sender: str, at: datetime, *, whole: bool) -> bytes:
    """What a subscriber asked for, with nothing of ours around it.

    A text goes in base64, so that its lines may be of any length and in any script. What has parts is `whole`: they
    say themselves how they are encoded, and only the ends of lines and dots are the transport's (RFC 2045, 6.4).
    """
    media, body = transmission.media_type, transmission.body
    if whole:
        body = _DOTS.sub(b"..", _LINE_END.sub(b"\r\n", body))
        encoding, pieces = "7bit" if body.isascii() else "8bit", [body, b"" if body.endswith(b"\r\n") else b"\r\n"]
    else:
        media = media if "charset" in media.lower() else f"{media}; charset=utf-8"
        encoding, pieces = "base64", _base64(body)
    head = (
        f"{_addressed(transmission, sender, at)}"
        f"Subject: {_subject(manner.subject)}\r\n"
        "Auto-Submitted: auto-generated\r\n"
        "MIME-Version: 1.0\r\n"
        f"Content-Type: {media}\r\n"
        f"Content-Transfer-Encoding: {encoding}\r\n"
        "\r\n"
    )
    return b"".join([head.encode("utf-8"), *pieces])


def _subject(text: str) -> str:
    """In one line or folded ones; what is not ASCII as RFC 2047 has it."""
    text = _UNPRINTABLE.sub(" ", text)[:LONGEST_SUBJECT].strip() or NOTIFICATION
    charset = "us-ascii" if text.isascii() else "utf-8"
    return Header(text, charset, header_name="Subject", maxlinelen=LINE).encode(linesep="\r\n")


def _base64(body: bytes) -> list[bytes]:
    return [_in_lines(body[at : at + PIECE]) for at in range(0, len(body), PIECE)]


def _in_lines(piece: bytes) -> bytes:
    """Base64 in lines; a piece at a time, since the lines of a large message take twice its room."""
    written = binascii.b2a_base64(piece, newline=False)
    return b"\r\n".join([*[written[at : at + LINE] for at in range(0, len(written), LINE)], b""])


def _head(transmission: Transmission, sender: str, at: datetime) -> str:
    envelope = transmission.envelope
    if envelope.timeleft is not None:  # whoever waits, does not wait for a mail
        envelope = msgspec.structs.replace(envelope, timeleft=None)
    reference = transmission.in_reply_to or ""
    answers = f"In-Reply-To: {reference}\r\nReferences: {reference}\r\n" if is_message_id(reference) else ""
    return (
        f"{_addressed(transmission, sender, at)}"
        f"{answers}"
        "Subject: FHIR message\r\n"
        "Auto-Submitted: auto-generated\r\n"
        f"{write_fields(envelope)}"
    )


def _addressed(transmission: Transmission, sender: str, at: datetime) -> str:
    domain = sender.rpartition("@")[2]
    return (
        f"From: {sender}\r\n"
        f"To: {recipient_of(transmission.address)}\r\n"
        f"Date: {format_datetime(at)}\r\n"
        f"Message-ID: {message_id_of(transmission.message_id, transmission.address, domain)}\r\n"
    )


def _file(media: str) -> str:
    try:
        format = media_type(media).format
    except Refusal:
        return "message.bin"
    return "message.xml" if format is Format.XML else "message.json"
