"""What may stand where the configuration names endpoints, or patterns of them and of addresses.

Three ways of matching: a *name* ends in `*` after a whole arc or segment (A-5); an *address* is read as a URL, with
`*.` in front of its host and `*` as the last segment of its path; an *event* takes `*` anywhere.
"""

from __future__ import annotations

import re

from broker.config.mistake import Wrong
from broker.core.address_pattern import AddressPattern
from broker.core.addressing import SEPARATORS, check_name_pattern
from broker.core.subscription.targets import Target

SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*):")
_LAST_PART = re.compile(rf"[^{re.escape(SEPARATORS)}]*$")
_BLANK = re.compile(r"\s")


def scheme_of(uri: str) -> str:
    """In lower case; empty where there is none."""
    found = SCHEME.match(uri)
    return found[1].lower() if found else ""


def absolute_uri(text: str) -> str:
    if _BLANK.search(text) or not scheme_of(text) or not text.partition(":")[2]:
        raise Wrong("must be an absolute URI, such as urn:oid:2.999.1 or https://broker.example")
    if "*" in text:
        raise Wrong("must be one URI without `*`")
    return text


def name(text: str) -> str:
    """One endpoint as partners write it: a URI, `system|value`, or whatever else they use (A-2)."""
    if not text or text != text.strip():
        raise Wrong("must be the name of an endpoint")
    if "*" in text:
        raise Wrong("must be one endpoint without `*`")
    return text


def name_pattern(text: str) -> str:
    """A name, or all that begin alike: `*` stands at the end, after a whole arc or segment (A-5)."""
    if not text or text != text.strip():
        raise Wrong("must be the name of an endpoint")
    star = text.find("*")
    if 0 <= star < len(text) - 1:
        raise Wrong("may have `*` only at its end", f"did you mean {_LAST_PART.sub('', text[:star])}*?")
    if star > 0 and text[star - 1] not in SEPARATORS:
        separator = "/" if "://" in text else "."
        raise Wrong("must end in `*` after a whole arc or segment", f"did you mean {text[:star]}{separator}*?")
    try:
        check_name_pattern(text)
    except ValueError:
        raise Wrong("means no namespace", "`*` is every name") from None
    return text


def as_it_stands(text: str) -> str:
    if "*" in text:
        raise Wrong("is compared as it stands, without `*`")
    return text


def star_at_end(text: str) -> str:
    if "*" in text[:-1]:
        raise Wrong("may have `*` only at its end")
    return text


def address_pattern(text: str) -> str:
    """`https://*.partner.example/*`: read as a URL, by whole labels and whole segments (design: the contract)."""
    try:
        AddressPattern.parse(text)
    except ValueError as error:
        raise Wrong("must be a pattern such as https://*.partner.example/*", str(error.__context__ or error)) from None
    return text


def target_pattern(text: str) -> str:
    """Where subscriptions may be told (S-61): by URL, `mailto:*@host`, or `amqp:?exchange=…&routing_key=*`."""
    try:
        Target(text)
    except ValueError as error:
        hint = str(error.__context__ or "mailto:*@partner.example, amqp:?exchange=told&routing_key=*")
        raise Wrong("must be a pattern such as https://*.partner.example/*", hint) from None
    return text
