"""Decides which stream a delivery belongs to: those that a rule's `order` lets go only one after the other."""

from __future__ import annotations

import hashlib

import msgspec

from broker.core.addressing import name_key
from broker.core.envelope import Envelope
from broker.core.fhir.header import Header
from broker.core.policy import Order

SUBJECT = "subject"  # the CloudEvents attribute, which the envelope carries among those that are not ours


class Key(msgspec.Struct, frozen=True, kw_only=True):
    """By what a message is ordered at its destination. `kind` is NONE where nothing but the destination is left."""

    kind: Order
    value: str

    def stream(self, destination: str) -> bytes:
        """16 bytes that stand for the stream; `destination` is what makes a delivery of a message unique."""
        text = "\0".join((destination, self.kind.value, self.value))
        return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()


def key_of(order: Order, *, source: str | None, header: Header | None, envelope: Envelope) -> Key | None:
    """None where no order is asked. What the message does not have is made good by its source, then by nothing.

    Both are coarser, so that order is kept where it cannot be told what belongs together.
    """
    if order is Order.NONE:
        return None
    by_source = name_key(source) if source else ""
    value = None if order is Order.SOURCE else _value(order, by_source, header, envelope)
    if value:
        return Key(kind=order, value=value)
    return Key(kind=Order.SOURCE if by_source else Order.NONE, value=by_source)


def _value(order: Order, source: str, header: Header | None, envelope: Envelope) -> str | None:
    if order is Order.CORRELATION:
        return envelope.correlationid
    if order is Order.SUBJECT:
        return next((value for name, value in envelope.more if name == SUBJECT), None)
    focus = header.focus[0] if header is not None and header.focus else None
    # `Patient/1` is one patient with this source and another with the next; what names a scheme is the same anywhere
    return f"{source} {focus}" if focus and ":" not in focus else focus
