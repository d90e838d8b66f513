"""Lets pamqp read what it would end the connection over: one message that it cannot read would come again for ever.

RabbitMQ passes on texts that are no UTF-8, and times that are none. They are read as far as can be, and refused later,
each with its message, which is then laid aside.
"""

from __future__ import annotations

import datetime

from pamqp import decode
from pamqp.common import FieldTable

UNREADABLE = "x-unreadable-headers"  # stands for all headers of a message; its value are their bytes


def be_lenient() -> None:
    """From now on, in this process; a second call changes nothing."""
    decode.METHODS.update(shortstr=short_text, table=table, timestamp=instant)
    decode.TABLE_MAPPING[b"T"] = instant


def short_text(data: bytes) -> tuple[int, str]:
    """Bytes that are no UTF-8 become lone surrogates."""
    if not data:
        raise ValueError("a short string is missing")
    end = data[0] + 1
    return end, data[1:end].decode("utf-8", "surrogateescape")


def instant(data: bytes) -> tuple[int, datetime.datetime | None]:
    try:
        return decode.timestamp(data)
    except (ValueError, OverflowError, OSError):  # past the year 9999
        return 8, None


def table(data: bytes) -> tuple[int, FieldTable]:
    try:
        return decode.field_table(data)
    except (ValueError, OverflowError, IndexError):  # a name is no UTF-8
        end = 4 + int.from_bytes(data[:4])
        return end, {UNREADABLE: data[4:end]}


def as_unicode(text: str) -> str:
    """With a sign in the place of what is none."""
    return text if text.isascii() else text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
