"""`Content-Digest` (RFC 9530) and the envelope's `digest`: written, read and compared."""

from __future__ import annotations

import asyncio
import base64
import binascii
import hashlib
import re

HASHES = {"sha-256": "sha256", "sha-512": "sha512"}  # the two of RFC 9530 that are not broken
_MEMBER = re.compile(r"([a-z*][a-z0-9_.*-]*)=:([A-Za-z0-9+/=]*):(?:\s*;.*)?", re.ASCII)
_ATTRIBUTE = re.compile(r"sha-256=([A-Za-z0-9+/]{43}=)", re.ASCII)
BESIDE_THE_LOOP = 1024 * 1024  # hashing this much takes longer than anybody else should wait


def content_digest(attribute: str) -> str:
    """The header for the envelope's attribute "sha-256=…"."""
    algorithm, _, value = attribute.partition("=")
    return f"{algorithm}=:{value}:"


def parse_content_digest(field: str) -> dict[str, bytes]:
    """The digests of a `Content-Digest` that we can check; ValueError where it is none."""
    found: dict[str, bytes] = {}
    for member in field.split(","):
        match = _MEMBER.fullmatch(member.strip())
        if match is None:
            raise ValueError("Content-Digest is written like sha-256=:BASE64:")
        if match[1] in HASHES:
            found[match[1]] = _decoded(match[2])
    return found


def parse_attribute(text: str) -> bytes:
    """The digest of "sha-256=" and base64; ValueError where it is none."""
    match = _ATTRIBUTE.fullmatch(text)
    if match is None:
        raise ValueError("a digest is written sha-256= and base64")
    return _decoded(match[1])


def _decoded(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except binascii.Error:
        raise ValueError("a digest is written in base64") from None


async def digest_of(body: bytes, algorithm: str = "sha-256") -> bytes:
    if len(body) < BESIDE_THE_LOOP:
        return hashlib.new(HASHES[algorithm], body).digest()
    return await asyncio.to_thread(lambda: hashlib.new(HASHES[algorithm], body).digest())


async def attribute_of(body: bytes) -> str:
    """The envelope's attribute for these bytes."""
    return f"sha-256={base64.b64encode(await digest_of(body)).decode()}"
