"""Reads delivery status notifications (RFC 3464; A-40): what became of a mail of ours, and which one it was. Pure."""

from __future__ import annotations

import msgspec

from broker.channel import Late, LateReport
from broker.core.outcome import Who
from plugins.email.address import SCHEME, Named, from_xtext, is_envelope_id, read_message_id
from plugins.email.mime import Mail, fields_of
from plugins.email.replies import problem_of, shown

ACTIONS = {
    "failed": Late.FAILED,
    "delayed": Late.DELAYED,
    "delivered": Late.DELIVERED,
    "relayed": Late.DELIVERED,  # to a server that promises no more reports
    "expanded": Late.DELIVERED,
}


class Notice(msgspec.Struct, frozen=True, kw_only=True):
    """What a notification says of one recipient."""

    message_id: str
    addresses: tuple[str, ...]  # the transmission's, by whatever the notification tells; the likeliest first
    what: Late
    note: str
    status: str

    def reports(self) -> list[LateReport]:
        """To be tried in turn, until the broker knows one."""
        text = f"The mail was taken and could not be delivered after all: {self.note}."
        problem = problem_of(self.status, text, who=Who.RECEIVER) if self.what is Late.FAILED else None
        return [
            LateReport(message_id=self.message_id, address=one, what=self.what, note=self.note, problem=problem)
            for one in self.addresses
        ]


def notices_of(mail: Mail) -> list[Notice]:
    """Those about mails that may be ours; raises `MessageInvalid` where the notification cannot be read."""
    status = next((part for part in mail.leaves if part.type == "message/delivery-status"), None)
    if status is None:
        return []
    blocks = fields_of(mail.body(status))
    whole, recipients = (blocks[0], blocks[1:]) if blocks else ({}, [])
    if "action" in whole:  # some forget the empty line
        recipients = [whole, *recipients]
    named = _named(mail)
    envelope_id = from_xtext(whole.get("original-envelope-id", "")).strip()
    message_id = envelope_id if is_envelope_id(envelope_id) else named.message_id if named else ""
    if not message_id:
        return []
    about = named if named and named.message_id == message_id else None
    found = (_notice(recipient, message_id, about) for recipient in recipients[:20])
    return [notice for notice in found if notice is not None]


def _notice(recipient: dict[str, str], message_id: str, named: Named | None) -> Notice | None:
    what = ACTIONS.get(recipient.get("action", "").split("(")[0].strip().lower())
    if what is None:
        return None
    addresses = [SCHEME + _address(recipient.get(field, "")) for field in ("original-recipient", "final-recipient")]
    addresses = [one for one in addresses if one != SCHEME]
    if named and named.address:
        addresses = [named.address]
    elif named:
        addresses = [one for one in addresses if named.matches(one)]
    status = recipient.get("status", "").split("(")[0].strip()
    diagnostic = recipient.get("diagnostic-code", "")
    note = "; ".join(filter(None, (f"{what.value} {shown(status, 20)}".strip(), shown(diagnostic))))
    return Notice(message_id=message_id, addresses=tuple(dict.fromkeys(addresses)), what=what, note=note, status=status)


def _address(field: str) -> str:
    """ "rfc822;lab+2B@x.example" without its type, decoded."""
    kind, semicolon, address = field.partition(";")
    if not semicolon or kind.strip().lower() not in ("rfc822", "utf-8"):
        return ""
    return from_xtext(address.strip()).strip("<>")


def _named(mail: Mail) -> Named | None:
    """By the Message-ID of the mail that came back, or of its header alone; some reports put it into References."""
    for part in mail.leaves:
        if part.type in ("message/rfc822", "text/rfc822-headers", "message/rfc822-headers", "message/global",
                         "message/global-headers"):  # fmt: skip
            body = mail.body(part)
            head = body[: max(body.find(b"\r\n\r\n"), 0) or 60_000][:60_000]
            for block in fields_of(head)[:1]:
                if named := read_message_id(block.get("message-id", "")):
                    return named
    for name in ("in-reply-to", "references"):
        for text in mail.field(name).split()[-1:]:
            if named := read_message_id(text):
                return named
    return None
