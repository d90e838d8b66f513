"""Every store and every channel that there is, for the suites that all of them must pass."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from channel_office import Office, Servers, opened
from desks import DESKS

sys.path.insert(0, str(Path(__file__).parent.parent / "store"))  # the values that stores are tested with

from store_values import NOW

from broker.store import Store
from broker.store.memory import MemoryStore
from broker.store.sqlite import SqliteStore


@pytest.fixture(params=["sqlite", "memory"])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Store]:
    kinds = {
        "sqlite": lambda: SqliteStore(tmp_path / "broker.db", now=lambda: NOW),
        "memory": lambda: MemoryStore(now=lambda: NOW),
    }
    opened: Store = kinds[request.param]()
    yield opened
    await opened.close()


@pytest.fixture(scope="session")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    with ExitStack() as stack:
        yield Servers(tmp_path_factory.mktemp("servers"), stack)


@pytest.fixture(params=DESKS, ids=lambda desk: desk.name)
async def office(request: pytest.FixtureRequest, servers: Servers, tmp_path: Path) -> AsyncIterator[Office]:
    """A broker that runs, with a channel and both its ends."""
    async with opened(request.param, tmp_path, servers.of(request.param)) as one:
        yield one
