"""Reads `mailto:` addresses, and writes what of them travels: the recipient, and the Message-ID that names both."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from functools import lru_cache
from urllib.parse import unquote

import msgspec

SCHEME = "mailto:"
LANE = "mailto:smarthost"  # every mail leaves by the same server: that is the peer
LONGEST_LOCAL = 64  # octets (RFC 5321, section 4.5.3.1)
LONGEST_DOMAIN = 255
LONGEST_NAMED = 200  # of an address in a Message-ID: the line stays far below the 998 octets of RFC 5322

_ATOM = r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~\u0080-\U0010ffff-]+"
_LETTER = r"[A-Za-z0-9_\u0080-\U0010ffff]"
_LABEL = rf"{_LETTER}(?:[A-Za-z0-9_\u0080-\U0010ffff-]*{_LETTER})?"
_LOCAL = re.compile(rf"{_ATOM}(?:\.{_ATOM})*")
_DOMAIN = re.compile(rf"{_LABEL}(?:\.{_LABEL})*\.?|\[[0-9A-Za-z:.]+\]")
_NAMED = re.compile(r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~.-]+@[A-Za-z0-9._-]+", re.ASCII)
_UUID = r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"
_OURS = re.compile(rf"<?({_UUID})(?:\+(.+)=([A-Za-z0-9._-]+)|\.([0-9a-f]{{16}}))@[^@<>\s]+>?", re.ASCII)
_MESSAGE_ID = re.compile(r"<[^<>@\s\x00-\x20\x7f]+@[^<>@\s\x00-\x20\x7f]+>")
_XTEXT = re.compile(r"[^\x21-\x2a\x2c-\x3c\x3e-\x7e]")
_XCHAR = re.compile(r"\+([0-9A-F]{2})")


@lru_cache(maxsize=1024)  # addresses are few, attempts are many
def mailbox_of(address: str) -> str:
    """`local@domain` of a mailto: address; ValueError says why it cannot be used."""
    if not address.startswith(SCHEME):
        raise ValueError("an address of this channel begins with mailto:")
    if "?" in address:
        raise ValueError("a mailto: address names a recipient and nothing more; take out what follows the ?")
    try:
        return checked(unquote(address.removeprefix(SCHEME), errors="strict"))
    except UnicodeDecodeError:
        raise ValueError("the address is not percent-encoded UTF-8") from None


def checked(mailbox: str) -> str:
    """A mailbox as it is; ValueError where it is none."""
    local, at, domain = mailbox.rpartition("@")
    if not at or not local or not domain:
        raise ValueError("an e-mail address is local@domain")
    if len(local.encode("utf-8", "replace")) > LONGEST_LOCAL or not _LOCAL.fullmatch(local):
        raise ValueError("what stands before the @ is not the local part of an e-mail address")
    if len(domain.encode("utf-8", "replace")) > LONGEST_DOMAIN or not _DOMAIN.fullmatch(domain):
        raise ValueError("what stands after the @ is not a domain")
    return mailbox


class Mailboxes:
    """The mailboxes of this channel: what comes to them comes to this broker."""

    def __init__(self, own: str, recipients: Sequence[str]) -> None:
        known = {own.lower(), *(one.lower() for one in recipients)}
        self._domains = frozenset(one.removeprefix("*@") for one in known if one.startswith("*@"))
        self._exact = frozenset(known)

    def __contains__(self, mailbox: str) -> bool:
        folded = mailbox.lower()
        return folded in self._exact or folded.rpartition("@")[2] in self._domains


def peer_of(address: str) -> str:
    """The lane of an address."""
    mailbox_of(address)
    return LANE


def on_the_wire(mailbox: str) -> str:
    """The domain in ASCII where it can be (IDNA); the local part as it is."""
    local, _, domain = mailbox.rpartition("@")
    if not domain.isascii():
        try:
            domain = domain.encode("idna").decode("ascii")
        except UnicodeError:
            raise ValueError("the domain cannot be written in ASCII (IDNA)") from None
    return f"{local}@{domain}"


# --- what names a transmission ---------------------------------------------------------------------------------------


class Named(msgspec.Struct, frozen=True, kw_only=True):
    """What a Message-ID of ours says."""

    message_id: str
    address: str | None = None  # None where the address was too strange to be written: `matches` tells
    tag: str = ""

    def matches(self, address: str) -> bool:
        return address == self.address if self.address is not None else _tag(address) == self.tag


def message_id_of(message_id: str, address: str, domain: str) -> str:
    """The Message-ID of a transmission: the same in each attempt, and it names message and address (A-36, A-40)."""
    named = address.removeprefix(SCHEME)
    if _NAMED.fullmatch(named) and len(named) <= LONGEST_NAMED:
        local, _, host = named.rpartition("@")
        return f"<{message_id}+{local}={host}@{domain}>"
    return f"<{message_id}.{_tag(address)}@{domain}>"


def read_message_id(text: str) -> Named | None:
    """What a Message-ID names, None if it is none of ours. Whether we gave it out, the id itself proves."""
    found = _OURS.fullmatch("".join(text[:1000].split()))
    if found is None:
        return None
    message_id, local, host, tag = found.groups()
    if tag:
        return Named(message_id=message_id, tag=tag)
    return Named(message_id=message_id, address=f"{SCHEME}{local}@{host}")


def is_message_id(text: str) -> bool:
    return len(text) <= 900 and text.isascii() and _MESSAGE_ID.fullmatch(text) is not None


def is_envelope_id(text: str) -> bool:
    """Whether an ENVID may be one of ours."""
    return re.fullmatch(_UUID, text) is not None


def _tag(address: str) -> str:
    return hashlib.sha256(address.encode()).hexdigest()[:16]


def xtext(text: str) -> str:
    """RFC 3461, section 4: what a parameter of SMTP may hold."""
    return _XTEXT.sub(lambda match: "".join(f"+{byte:02X}" for byte in match[0].encode()), text)


def from_xtext(text: str) -> str:
    raw = _XCHAR.sub(lambda match: chr(int(match[1], 16)), text)
    try:
        return raw.encode("latin-1").decode("utf-8")
    except UnicodeError:
        return raw
