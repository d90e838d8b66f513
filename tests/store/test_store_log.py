"""SQLite's log is measured, and shrinks by itself once nothing keeps it from being put away."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path

import pytest
from store_values import delivery, new

from broker.store import Kept
from broker.store.sqlite import SqliteStore

LARGEST = 8 << 20
BODY = bytes(64 << 10)


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SqliteStore]:
    store = SqliteStore(tmp_path / "broker.db", max_wal=LARGEST)
    yield store
    await store.close()


async def keep(store: SqliteStore, name: str, count: int) -> None:
    for number in range(count):
        await store.accept(new(f"bundle:{name}-{number}", delivery(), body=BODY))


async def until_small(store: SqliteStore) -> None:
    for _ in range(500):
        if store.wal() <= LARGEST:
            return
        await asyncio.sleep(0.02)
    raise AssertionError(f"the log still has {store.wal()} bytes")


def size_of(tmp_path: Path) -> int:
    return (tmp_path / "broker.db-wal").stat().st_size


async def test_log_pinned_by_a_reader_is_seen_to_grow_and_shrinks_once_the_reader_goes(
    store: SqliteStore, tmp_path: Path
) -> None:
    await keep(store, "before", 1)
    with closing(sqlite3.connect(tmp_path / "broker.db", isolation_level=None)) as other:
        other.execute("BEGIN")
        other.execute("SELECT count(*) FROM message").fetchone()
        await keep(store, "pinned", 150)
        assert store.wal() == size_of(tmp_path) > LARGEST
        await asyncio.sleep(1)  # checkpoints are tried, and cannot
        assert store.wal() > LARGEST
        kept = await store.accept(new("bundle:settled", delivery()))  # who may write is the flow's to say
        assert isinstance(kept, Kept)
        other.execute("COMMIT")
    await until_small(store)  # nothing is written meanwhile: it heals by itself
    assert size_of(tmp_path) <= LARGEST
    assert (await store.counts()).messages == 152


async def test_log_stays_small_while_much_is_written_and_read(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "broker.db", max_wal=4 * LARGEST)
    largest = 0
    for number in range(10):
        await keep(store, str(number), 60)
        await store.counts()
        largest = max(largest, store.wal())
        await asyncio.sleep(0.05)
    written = (await store.counts()).messages * len(BODY)
    assert store.cannot_write() is None
    await store.close()
    assert 0 < largest <= 4 * LARGEST < written
