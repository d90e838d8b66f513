"""The desk of the HTTP channel, for the tests of this folder."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest
import uvloop
from http_desk import certificate, partner, peer, send, sender, serve, served

__all__ = ["certificate", "partner", "peer", "send", "sender", "serve", "served"]


def pytest_asyncio_loop_factories(item: pytest.Item) -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    """The client lives close to the loop, so it is tried on the daemon's as well."""
    plain: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {"asyncio": asyncio.new_event_loop}
    return {**plain, "uvloop": uvloop.new_event_loop} if "test_client.py" in item.nodeid else plain
