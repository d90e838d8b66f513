"""The embedded store, opened as often as asked on one file."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from store_shelf import Shelf
from store_values import NOW

from broker.store import retention
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
        if not store._writer.is_closed:
            await store.close()


@pytest.fixture
async def store(open_store: Open) -> SqliteStore:
    return open_store()


@pytest.fixture
async def shelf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Shelf]:
    """Its steps end by number, never by the time that a busy machine takes for one."""
    monkeypatch.setattr(retention, "LONG", 60.0)
    shelf = Shelf(tmp_path / "broker.db")
    yield shelf
    if not shelf.store._writer.is_closed:
        await shelf.store.close()
