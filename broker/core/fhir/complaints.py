"""What is said to a sender whose body cannot be read as a message."""

from __future__ import annotations

import re
from collections.abc import Iterable
from difflib import get_close_matches

from msgspec import DecodeError

from broker.core.fhir.wire import DEPTH, HEADER_BYTES
from broker.core.outcome import MessageInvalid, TooLarge

FIRST = "Bundle.entry[0].resource"
NOT_A_MESSAGE = "not-a-message"
WORDS = {
    "str": "a text", "int": "a number", "float": "a number", "bool": "true or false",
    "object": "an object", "array": "a list", "null": "null",
}  # fmt: skip
TYPES = re.compile(r"Expected `([^`]*)`, got `([^`]*)`(?: - at `\$([^`]*)`)?")


def empty() -> MessageInvalid:
    return MessageInvalid("The body is empty: send a Bundle of type message.", id="empty-body", code="required")


def not_utf8(at: int | None = None) -> MessageInvalid:
    where = "" if at is None else f" (byte {at})"
    return MessageInvalid(f"The body is not written in UTF-8{where}: encode it as UTF-8.", id="not-utf-8")


def malformed(language: str, why: str) -> MessageInvalid:
    return MessageInvalid(
        f"The body is not well-formed {language}: {why}. Correct it and send it again.",
        id=f"malformed-{language.lower()}",
    )


def too_deep() -> MessageInvalid:
    return MessageInvalid(
        f"The body is nested more than {DEPTH} levels deep: no FHIR message needs that.", id="too-deep"
    )


def header_too_large() -> TooLarge:
    return TooLarge(
        f"The first entry is larger than {HEADER_BYTES >> 10} KiB: a MessageHeader carries no content itself.",
        id="header-too-large",
        expression=FIRST,
    )


def too_many_entries() -> TooLarge:
    return TooLarge(
        "The Bundle has too many tiny entries to find among them what the MessageHeader refers to.",
        id="too-many-entries",
        expression="Bundle.entry",
    )


def written_twice(where: str, name: str = "") -> MessageInvalid:
    which = f"{where}.{name}" if name else f"A name in {where}"
    return MessageInvalid(
        f"{which} is written twice: two readers may see two different messages. Write every name once.",
        id="duplicate-key",
        expression=f"{where}.{name}" if name else where,
    )


def wrong_type(where: str, expected: str, found: str) -> MessageInvalid:
    wanted = " or ".join(WORDS.get(word, word) for word in expected.split(" | "))
    return MessageInvalid(
        f"{where} must be {wanted}, but is {WORDS.get(found, found)}.", id="wrong-type", expression=where
    )


def wrong_type_of(error: DecodeError, where: str) -> MessageInvalid:
    """The same, out of msgspec's own words, which name types and never values."""
    found = TYPES.match(str(error))
    if found is None:
        return MessageInvalid(f"{where} cannot be read: {error}.", id="wrong-type", expression=where)
    path = (found[3] or "").replace("[...]", "")
    return wrong_type(where + path, found[1], found[2])


def missing(where: str) -> MessageInvalid:
    return MessageInvalid(
        f"{where} is missing: a message must have it.", code="required", id="missing-element", expression=where
    )


def contradiction(where: str, names: Iterable[str]) -> MessageInvalid:
    listed = " and ".join(names)
    return MessageInvalid(
        f"{where} is given as {listed}, which do not say the same: keep one of them.",
        code="invariant",
        id="contradiction",
        expression=where,
    )


def not_a_bundle(found: str) -> MessageInvalid:
    return MessageInvalid(
        f"The body is {_named(found)}: a message is a Bundle of type message.",
        code="invariant",
        id="not-a-bundle",
        expression="Bundle",
    )


def not_a_message(found: str) -> MessageInvalid:
    if not found:
        return missing("Bundle.type")
    if found == "subscription-notification":
        text = (
            "Bundle.type is subscription-notification, but the first entry is no status (bdl-13): "
            "a notification begins with its SubscriptionStatus, or Parameters in R4."
        )
    else:
        text = f"Bundle.type is {_quoted(found)}: only a message or a notification is taken here."
    return MessageInvalid(text, code="invariant", id=NOT_A_MESSAGE, expression="Bundle.type")


def no_message_header(found: str | None, names: Iterable[str] = ()) -> MessageInvalid:
    """`found`: the type of the first entry's resource; None where there is none."""
    if found is None:
        close = get_close_matches("resource", [name for name in names if name != "resource"], n=1)
        text = f"{FIRST} is missing: the first entry must hold the MessageHeader."
        if close:
            text += f" Is {_quoted(close[0])} meant to be 'resource'?"
    else:
        text = f"{FIRST} is {_named(found)}: the first entry must hold the MessageHeader (bdl-12)."
    return MessageInvalid(text, code="invariant", id="no-message-header", expression=FIRST)


def lone_surrogate() -> MessageInvalid:
    return MessageInvalid(
        "The message header holds half of a surrogate pair, which is no character: write the whole pair.",
        code="value",
        id="lone-surrogate",
        expression=FIRST,
    )


def _named(type_: str) -> str:
    return f"a resource of type {_quoted(type_)}" if type_ else "a resource without a type"


def _quoted(text: str) -> str:
    return repr(text if len(text) <= 64 else text[:61] + "...")
