"""Every store and every channel that there is, for the suites that all of them must pass."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from channel_office import Office, opened
from desks import DESKS

sys.path.insert(0, str(Path(__file__).parent.parent / "store"))  # the values that stores are tested with

from store_values import NOW

from broker.store import Store
from broker.store.sqlite import SqliteStore


@pytest.fixture(params=[SqliteStore])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Store]:
    opened = request.param(tmp_path / "broker.db", now=lambda: NOW)
    yield opened
    await opened.close()


@pytest.fixture(params=DESKS, ids=lambda desk: desk.name)
async def office(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Office]:
    """A broker that runs, with a channel and both its ends."""
    async with opened(request.param, tmp_path) as one:
        yield one
