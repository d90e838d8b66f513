"""Every store that there is, for the suite that all of them must pass."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

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
