"""What is sent, as bytes and a media type; a mail of several parts among it (S-45)."""

from __future__ import annotations

import base64
from typing import NamedTuple

from broker.core.subscription.mail import Form


class Entity(NamedTuple):
    body: bytes
    media_type: str


def mail_entity(text: str, form: Form, attachment: tuple[bytes, str] | None, id: str) -> Entity:
    """The body of a mail as MIME has it; its bytes are the same however often it is sent (S-33)."""
    words = text.replace("\n", "\r\n").encode()
    kind = f"text/{'html' if form.html else 'plain'}; charset=utf-8"
    if attachment is None:
        return Entity(words, kind)
    bundle, media = attachment
    ending = "xml" if "xml" in media else "json"
    boundary = f"notification-{id}"
    body = b"".join(
        (
            _part(boundary, kind, words, "inline"),
            _part(boundary, media, bundle, f'attachment; filename="notification.{ending}"'),
            f"--{boundary}--\r\n".encode(),
        )
    )
    return Entity(body, f'multipart/mixed; boundary="{boundary}"')


def _part(boundary: str, media_type: str, body: bytes, disposition: str) -> bytes:
    """In base64, which every mail server on the way leaves alone."""
    head = (
        f"--{boundary}\r\nContent-Type: {media_type}\r\nContent-Transfer-Encoding: base64\r\n"
        f"Content-Disposition: {disposition}\r\n\r\n"
    )
    return head.encode() + base64.encodebytes(body).replace(b"\n", b"\r\n")
