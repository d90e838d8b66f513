"""The desks of the channels' suite: one for each channel. A new channel writes its own and adds it here."""

from __future__ import annotations

import pytest

from desks.amqp import AmqpDesk
from desks.desk import Desk, ListeningDesk, Says
from desks.email import EmailDesk
from desks.file import FileDesk
from desks.http import HttpDesk
from desks.websocket import WebSocketDesk

DESKS: tuple[type[Desk], ...] = (HttpDesk, FileDesk, AmqpDesk, WebSocketDesk, EmailDesk)


def whose_peer_says(line: Says) -> pytest.MarkDecorator:
    """Those protocols in which the other side can say so."""
    return _those([desk for desk in DESKS if line in desk.says])


def whose_caller_has_a_reference() -> pytest.MarkDecorator:
    return _those([desk for desk in DESKS if desk.has_references])


def whose_caller_has_an_address() -> pytest.MarkDecorator:
    return _those([desk for desk in DESKS if issubclass(desk, ListeningDesk)])


def _those(desks: list[type[Desk]]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("office", desks, indirect=True, ids=lambda desk: desk.name)
