"""What a mail is to us: it carries one message, reports on one of ours, or was written for nobody. Pure."""

from __future__ import annotations

import msgspec

from broker.core.cloudevent import MEDIA_TYPE as EVENT
from broker.core.cloudevent import read_event
from broker.core.envelope import Envelope
from broker.core.fhir.media import FORMATS
from broker.core.outcome import BadRequest, LoopDetected, MessageInvalid
from plugins.email.binding import read_fields
from plugins.email.mime import Mail, Part, read_mail

MOST_HOPS = 50  # Received fields; RFC 5321 asks for a hundred at most, and no honest way is that long
FHIR = frozenset(name for name in FORMATS if "fhir" in name)
PERHAPS = frozenset(name for name in FORMATS if "/" in name) - FHIR  # application/json, text/xml, …
BY_NAME = {".json": "application/fhir+json", ".xml": "application/fhir+xml"}
SIGNS = (b'"resourceType"', b"http://hl7.org/fhir")
# Of no use to rules and traces, and long: what servers on the way say to each other.
UNTOLD = frozenset({"received", "dkim-signature", "arc-seal", "arc-message-signature", "arc-authentication-results"})


class Letter(msgspec.Struct, frozen=True, kw_only=True):
    """A mail that carries a message."""

    body: bytes
    media_type: str
    fields: tuple[tuple[str, str], ...]  # all of the mail
    message_id: str | None
    envelope: Envelope  # of the fields, or of an event in structured mode


class Silent(msgspec.Struct, frozen=True, kw_only=True):
    """A mail that some program wrote by itself: it is taken and thrown away, since nothing may answer it (A-41)."""

    why: str


def read_letter(data: bytes) -> tuple[Mail, bool]:
    """The mail taken apart, and whether it is a delivery status notification."""
    mail = read_mail(data)
    if sum(name == "received" for name, _ in mail.fields) > MOST_HOPS:
        raise LoopDetected(f"the mail has passed more than {MOST_HOPS} servers: it runs in a circle")
    return mail, mail.top.type == "multipart/report" and report_type(mail) == "delivery-status"


def report_type(mail: Mail) -> str:
    return mail.top.parameter("report-type").lower()


def open_letter(mail: Mail, *, null_sender: bool) -> Letter | Silent:
    """The message of a mail; raises a refusal that says what to send instead."""
    candidates = [(part, media) for part in mail.leaves if (media := _media_type(mail, part))]
    if len(candidates) > 1:
        raise BadRequest(
            f"the mail has {len(candidates)} FHIR messages in it; send one mail for each",
            id="several-messages-in-mail",
            code="structure",
        )
    if candidates:
        return _letter(mail, *candidates[0])
    if mail.top.type == "multipart/report":
        return Silent(why=f"a report: {report_type(mail)[:60] or 'of no type'}")
    if null_sender:
        return Silent(why="it comes from <>: nobody hears what is said to it")
    if mail.field("auto-submitted").lower().startswith("auto-replied"):
        return Silent(why="an automatic reply")
    raise MessageInvalid(
        "the mail has no FHIR message in it; attach one as application/fhir+json or application/fhir+xml in base64."
        " Nobody reads mails here",
        id="no-message-in-mail",
        code="required",
    )


def _letter(mail: Mail, part: Part, media_type: str) -> Letter:
    body = mail.body(part)
    if media_type == EVENT:
        event = read_event(body)
        body, media_type, envelope = event.body, event.media_type, event.envelope
    else:
        envelope = read_fields(mail.fields)
    return Letter(
        body=body,
        media_type=media_type,
        fields=tuple((name, value) for name, value in mail.fields if name not in UNTOLD),
        message_id=mail.field("message-id") or None,
        envelope=envelope,
    )


def _media_type(mail: Mail, part: Part) -> str:
    """The media type of a part that is a message, or nothing."""
    if part.type == EVENT:
        return EVENT
    if part.type in FHIR:
        return _with_parameters(part.type, part)
    dot = part.filename.lower().rfind(".")
    named = BY_NAME.get(part.filename.lower()[dot:]) if dot >= 0 else None
    if not (named or part.type in PERHAPS) or part.type.startswith("multipart/"):
        return ""
    # Anything may be called x.xml: only what looks like FHIR is a message, or is refused as one.
    body = mail.body(part)
    if not any(sign in body for sign in SIGNS):
        return ""
    return _with_parameters(part.type if part.type in PERHAPS else str(named), part)


def _with_parameters(bare: str, part: Part) -> str:
    """With what tells how to read it; the name of a file does not."""
    kept = [(name, part.parameter(name.lower())) for name in ("fhirVersion", "charset")]
    return bare + "".join(f"; {name}={value}" for name, value in kept if value)
