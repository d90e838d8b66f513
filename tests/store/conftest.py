"""The embedded store, opened as often as asked on one file."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from store_values import NOW

from broker.store.sqlite import SqliteStore

Open = Callable[[], SqliteStore]


@pytest.fixture
async def open_store(tmp_path: Path) -> AsyncIterator[Open]:
    stores: list[SqliteStore] = []

    def opened() -> SqliteStore:
        stores.append(SqliteStore(tmp_path / "broker.db", now=lambda: NOW))
        return stores[-1]

    yield opened
    for store in stores:
        if not store._writer._stopping.is_set():
            await store.close()


@pytest.fixture
async def store(open_store: Open) -> SqliteStore:
    return open_store()
