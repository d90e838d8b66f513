"""The store in memory: what its disk decides. What it shares with every store stands in tests/contract."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest
from store_values import NOW, delivery, expecting, new, settlement

from broker.core.delivery import State
from broker.store import Copy, Kept, StoreError, memory
from broker.store.memory import Disk, Entry, MemoryStore


class FullDisk(Disk):
    is_full = False
    syncs = 0

    def delay(self) -> float:
        return 0.001

    def sync(self, entries: Sequence[Entry]) -> None:
        if self.is_full:
            raise OSError("no space left on device")
        self.syncs += 1
        super().sync(entries)


@pytest.fixture
def disk() -> FullDisk:
    return FullDisk()


def opened(disk: Disk) -> MemoryStore:
    return MemoryStore(disk, now=lambda: NOW)


async def test_what_was_synced_is_there_after_a_crash_and_what_was_not_is_nowhere(disk: FullDisk) -> None:
    store = opened(disk)
    await store.accept(new("1"))
    await store.settle(settlement(1))
    store.accept(new("2"))  # and the power goes
    after = opened(disk)
    assert [one.state for one in await after.deliveries(1)] == [State.DONE]
    assert await after.stored(2) is None
    assert (await after.accept(new("3"))).position == 2


async def test_what_comes_together_is_synced_together(disk: FullDisk) -> None:
    store = opened(disk)
    await asyncio.gather(*(store.accept(new(f"{n}")) for n in range(5)))
    assert disk.syncs == 1


async def test_full_disk_keeps_nothing_and_says_so(disk: FullDisk) -> None:
    store = opened(disk)
    await store.accept(new("1"))
    disk.is_full = True
    with pytest.raises(StoreError):
        await store.accept(new("2"))
    assert store.cannot_write() is not None
    assert await store.stored(2) is None
    disk.is_full = False
    assert await store.accept(new("2")) == Kept(position=2, numbers=(1,)), "its identity is free again"
    assert store.cannot_write() is None


async def test_end_of_an_attempt_is_written_once_there_is_room(disk: FullDisk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "AGAIN", 0.001)
    store = opened(disk)
    await store.accept(new("1"))
    disk.is_full = True
    settled = store.settle(settlement(1))
    with pytest.raises(StoreError):
        await store.accept(new("2"))
    assert [one.state for one in await store.deliveries(1)] == [State.WAITING]
    disk.is_full = False
    assert (await settled).changed == 1


async def test_what_is_told_ahead_may_still_be_lost_and_its_position_is_given_to_no_other(disk: FullDisk) -> None:
    store = opened(disk)
    known, kept = store.accept_early(new("1", expecting()))
    told = await known
    assert not kept.done()
    disk.is_full = True
    with pytest.raises(StoreError):
        await kept
    disk.is_full = False
    other = await store.accept(new("2", delivery()))
    assert other.position > told.position
    assert await opened(disk).stored(told.position) is None


async def test_copy_of_what_was_told_ahead_is_one_and_a_reader_waits_for_the_disk(disk: FullDisk) -> None:
    store = opened(disk)
    known, kept = store.accept_early(new("1", expecting()))
    told = await known
    assert await store.accept(new("1")) == Copy(position=told.position)
    known, kept = store.accept_early(new("2", expecting()))
    assert await store.stored((await known).position) is not None
    assert kept.done()
