"""The envelope in a mail: each CloudEvents attribute is a field `CE-name`, its value percent-encoded as on HTTP.

CloudEvents has no binding for mail; this is ours (docs/email.md). An encoded value has no space in it, so a field may
be folded anywhere, and what servers on the way fold anew is read as it was written.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from urllib.parse import quote

from broker.core.attributes import BadAttribute, from_attributes, to_attributes
from broker.core.envelope import EMPTY, Envelope
from broker.core.outcome import BadRequest

PREFIX = "ce-"
LINE = 76  # of a folded field
_PLAIN = "!#$&'()*+,-./:;<=>?@[\\]^_`{|}~"  # C-17: all of U+0021 to U+007E but " and %
_PERCENT = re.compile(rb"%([0-9A-Fa-f]{2})")


def write_fields(envelope: Envelope) -> str:
    """The header fields that carry this envelope."""
    return "".join(_field(name, quote(value, safe=_PLAIN)) for name, value in to_attributes(envelope).items())


def _field(name: str, value: str) -> str:
    written = f"CE-{name}: {value}"
    if len(written) <= LINE:
        return f"{written}\r\n"
    rest = [value[at : at + LINE] for at in range(0, len(value), LINE)]
    return f"CE-{name}: " + "\r\n ".join(["", *rest] if len(name) + 5 > LINE else rest) + "\r\n"


def read_fields(fields: Iterable[tuple[str, str]]) -> Envelope:
    """The envelope of a mail; a malformed attribute is refused by the name of its field."""
    found: dict[str, str] = {}
    for name, value in fields:
        lower = name.lower()
        if not lower.startswith(PREFIX):
            continue
        attribute = lower.removeprefix(PREFIX)
        if attribute in found:
            raise _refused(attribute, "is there more than once")
        raw = "".join(value.split()).encode("utf-8", "surrogateescape")
        try:
            found[attribute] = _PERCENT.sub(lambda match: bytes([int(match[1], 16)]), raw).decode("utf-8")
        except UnicodeDecodeError:
            raise _refused(attribute, "is not percent-encoded UTF-8") from None
    try:
        return from_attributes(found) if found else EMPTY
    except BadAttribute as bad:
        raise _refused(bad.name, str(bad)) from None


def _refused(attribute: str, text: str) -> BadRequest:
    field = f"{PREFIX}{attribute[:60]}"
    return BadRequest(f"the header field {field} {text}", id="bad-envelope", expression=f"email.{field}")
