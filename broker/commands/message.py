"""A message file, as the commands `send` and `route` take it."""

from __future__ import annotations

import sys
from pathlib import Path

from broker.commands.ends import Ended, Exit


def read_message(file: Path) -> tuple[bytes, str]:
    """Its bytes and media type, XML or JSON by its first character; `-` is stdin."""
    try:
        body = sys.stdin.buffer.read() if str(file) == "-" else file.read_bytes()
    except OSError as error:
        raise Ended(Exit.FAILED, f"{file} cannot be read: {error.strerror}") from None
    if not body.strip():
        raise Ended(Exit.FAILED, f"{file} is empty")
    is_xml = body.removeprefix(b"\xef\xbb\xbf").lstrip()[:1] == b"<"
    return body, f"application/fhir+{'xml' if is_xml else 'json'}"
