"""The desks of the channels' suite: one for each channel. A new channel writes its own and adds it here."""

from __future__ import annotations

from desks.desk import Desk, Says
from desks.file import FileDesk
from desks.http import HttpDesk

DESKS: tuple[type[Desk], ...] = (HttpDesk, FileDesk)


def whose_peer_says(line: Says) -> list[type[Desk]]:
    """The desks of those protocols in which the other side can say so."""
    return [desk for desk in DESKS if line in desk.says]


def whose_caller_has_a_reference() -> list[type[Desk]]:
    return [desk for desk in DESKS if desk.has_references]


def whose_caller_has_an_address() -> list[type[Desk]]:
    return [desk for desk in DESKS if desk.has_reply_addresses]
