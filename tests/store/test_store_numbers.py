"""Event numbers under whatever happens: none is left out, none is given twice, none goes before it was told."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import sqlite3
import sys
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory
from unittest.mock import patch

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from store_shelf import Shelf
from store_subscriptions import ACTIVE, event, notification, numbers, subscribed, subscription
from store_teller import FIRST, SUBSCRIPTIONS
from store_values import DAY, NOW, new, settlement

from broker.core.delivery import AnswerState, State
from broker.core.subscription.notification import Kind
from broker.store import Kept, StoreError, retention, telling_sqlite
from broker.store.sqlite import SqliteStore

ALL = 1 << 60
TELLER = Path(__file__).with_name("store_teller.py")


class Known:
    """What one subscription must have: where each number happened, and up to where it was told."""

    def __init__(self, key: int) -> None:
        self.key = key
        self.positions: list[int] = []  # of number 1, 2 …
        self.sent = 0
        self.was_told = 0  # the highest that `sent` ever was: retention may take so many

    def hears(self, position: int) -> None:
        self.positions.append(position)

    async def check(self, shelf: Shelf, dice: random.Random) -> None:
        """Whatever is asked for: all that may not be gone is there, in order, and nothing else."""
        counted = len(self.positions)
        since = dice.randint(0, counted + 2)
        until = dice.choice((ALL, dice.randint(since, counted + 3)))
        limit = dice.randint(1, counted + 3)
        found = await shelf.store.heard(self.key, since, until, limit)
        got = [one.number for one in found]
        assert got == sorted(set(got))
        assert len(got) <= limit
        assert all(since <= one.number <= until for one in found)
        assert all(one.position == self.positions[one.number - 1] for one in found)
        there = self.surely_there(shelf)
        upto = until if len(got) < limit else got[-1]
        assert [n for n in there if since <= n <= upto] == [n for n in got if n in there]

    def surely_there(self, shelf: Shelf) -> list[int]:
        """From the highest down to where the first row is gone; what was not told yet is never gone."""
        with closing(sqlite3.connect(shelf.path)) as db:
            rows = {row[0] for row in db.execute("SELECT number FROM heard WHERE key = ?", (self.key,))}
        lowest = counted = len(self.positions)
        while lowest > 0 and lowest in rows:
            lowest -= 1
        assert lowest <= self.was_told
        return list(range(lowest + 1, counted + 1))


MOVES = st.one_of(
    st.tuples(st.just("subscribe"), st.just(0)),
    st.tuples(st.just("unsubscribe"), st.integers(0, 9)),
    st.tuples(st.just("tell"), st.integers(1, 40)),
    st.tuples(st.just("tell"), st.integers(1, 40)),
    st.tuples(st.just("again"), st.just(0)),
    st.tuples(st.just("moves"), st.integers(0, 9)),
    st.tuples(st.just("dies"), st.integers(0, 99)),
    st.tuples(st.just("days"), st.integers(1, 60)),
    st.tuples(st.just("steps"), st.integers(1, 30)),
    st.tuples(st.just("restart"), st.just(0)),
)


class Story:
    """A store to which all that happens to subscriptions happens, and what is known of it."""

    def __init__(self, path: Path, dice: random.Random) -> None:
        self.shelf, self.dice = Shelf(path), dice
        self.known: list[Known] = []
        self.positions: list[int] = []
        self.named = 0

    async def happens(self, move: str, how: int) -> None:
        if move == "subscribe":
            self.named += 1
            self.known.append(Known((await subscribed(self.shelf.store, f"s{self.named}")).key))
        elif move == "unsubscribe" and self.known:
            gone = self.known.pop(how % len(self.known))
            assert await self.shelf.store.unsubscribe(gone.key)
            assert await numbers(self.shelf.store, gone.key) == []
        elif move == "tell":
            await self.tell(how)
        elif move == "again":
            assert await self.shelf.store.tell(await self.shelf.store.told(), [event(1, *self.keys())]) == {}
        elif move == "moves" and self.known:
            await self.moves(self.known[how % len(self.known)])
        elif move == "dies" and self.positions:
            dead = settlement(self.positions[how % len(self.positions)], state=State.DEAD, answer=AnswerState.CLOSED)
            await self.shelf.store.settle(dead)
        elif move == "days":
            self.shelf.now += how * DAY
        elif move == "steps":
            for _ in range(how):
                await self.shelf.step()
        elif move == "restart":
            await self.shelf.reopen()

    def keys(self) -> list[int]:
        return [one.key for one in self.known]

    async def tell(self, count: int) -> None:
        """In the order of the log, each heard by some; who is gone is among them."""
        events = []
        for _ in range(count):
            position = await self.shelf.keep(new(None))
            if self.dice.random() < 0.9:  # the others wait for ever, and keep their trace
                await self.shelf.store.settle(settlement(position))
            self.positions.append(position)
            hearing = self.dice.sample(self.known, self.dice.randint(0, len(self.known)))
            for one in hearing:
                one.hears(position)
            events.append(event(position, 10_000, *[one.key for one in hearing]))
        told = await self.shelf.store.tell(self.positions[-1], events)
        assert told == {key: counted for key, counted in self.counted().items() if key in told}

    def counted(self) -> dict[int, int]:
        return {one.key: len(one.positions) for one in self.known}

    async def moves(self, one: Known) -> None:
        """Onward as a rule; now and then it asks for what it was told already."""
        one.sent = self.dice.randint(0 if self.dice.random() < 0.1 else one.sent, len(one.positions))
        one.was_told = max(one.was_told, one.sent)
        assert await self.shelf.store.move(one.key, ACTIVE, sent=one.sent)

    async def check(self) -> None:
        assert {row.key: (row.counted, row.sent) for row in await self.shelf.store.subscribed()} == {
            one.key: (len(one.positions), one.sent) for one in self.known
        }
        for one in self.known:
            await one.check(self.shelf, self.dice)


@settings(max_examples=60, deadline=None)
@given(
    moves=st.lists(MOVES, min_size=5, max_size=40),
    seed=st.integers(0, 1 << 30),
    stride=st.sampled_from((2, 5, 64)),
    forgotten=st.sampled_from((1, 1_000)),
)
def test_every_number_is_there_until_it_was_told_and_its_time_is_over(
    moves: list[tuple[str, int]], seed: int, stride: int, forgotten: int
) -> None:
    async def run(path: Path) -> None:
        story = Story(path, random.Random(seed))
        for move, how in [("subscribe", 0), ("subscribe", 0), *moves]:
            await story.happens(move, how)
            await story.check()
        await story.shelf.store.close()

    limits = {"STRIDE": stride, "MARKED": f"(key + number) % {stride} = 0", "FORGOTTEN": forgotten}
    with (
        TemporaryDirectory() as folder,
        patch.multiple(telling_sqlite, **limits),
        patch.multiple(retention, LONG=60.0),
    ):
        asyncio.run(run(Path(folder) / "broker.db"))


async def test_group_of_which_one_fails_gives_the_others_the_same_numbers_once(store: SqliteStore) -> None:
    key = (await subscribed(store)).key
    taken = subscription("s1")
    told = [
        store.tell(1, [event(1, key)]),
        store.subscribe(taken, ACTIVE, owner="", at=NOW, most=9),
        store.tell(2, [event(2, key)]),
        store.notice(key, notification(), Kind.EVENT, first=1, last=1),
    ]
    first, failed, second, notice = await asyncio.gather(*told, return_exceptions=True)
    assert (first, second) == ({key: 1}, {key: 2})
    assert isinstance(failed, StoreError)
    assert isinstance(notice, Kept)
    assert [(one.number, one.position) for one in await store.heard(key, 0, ALL, 9)] == [(1, 1), (2, 2)]


# -- retention


async def test_event_goes_with_the_trace_of_its_message_and_not_before_it_was_told(shelf: Shelf) -> None:
    one, other = (await subscribed(shelf.store, "a")).key, (await subscribed(shelf.store, "b")).key
    positions = [await shelf.carried(f"{n}") for n in range(3)]
    await shelf.store.tell(positions[-1], [event(position, one, other) for position in positions])
    await shelf.store.move(one, ACTIVE, sent=3)
    await shelf.store.move(other, ACTIVE, sent=1)
    await shelf.after(39)
    assert await numbers(shelf.store, one) == [1, 2, 3], "its bytes are gone, and it can still be told of by its id"
    assert await shelf.store.body(positions[0]) is None
    went = await shelf.after(41)
    assert went.trace == 1
    assert await numbers(shelf.store, one) == []
    assert await numbers(shelf.store, other) == [2, 3]
    assert await shelf.store.stored(positions[1]) is not None, "who is still to be told needs it"
    await shelf.store.move(other, ACTIVE, sent=3)
    await shelf.after(42)
    assert await numbers(shelf.store, other) == []
    assert [shelf.rows(table) for table in ("message", "event", "heard", "mark")] == [0, 0, 0, 0]
    position = await shelf.keep(new("later"))
    assert await shelf.store.tell(position, [event(position, one)]) == {one: 4}, "numbers go on"


async def test_many_who_heard_of_one_event_are_forgotten_in_several_looks(
    shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(telling_sqlite, "FORGOTTEN", 3)
    keys = [(await subscribed(shelf.store, f"{n}")).key for n in range(8)]
    position = await shelf.carried()
    await shelf.store.tell(position, [event(position, *keys)])
    for key in keys:
        await shelf.store.move(key, ACTIVE, sent=1)
    await shelf.after(40)
    assert [shelf.rows(table) for table in ("message", "event", "heard", "held")] == [0, 0, 0, 0]


async def test_what_somebody_heard_who_is_gone_goes_with_the_message(shelf: Shelf) -> None:
    key = (await subscribed(shelf.store)).key
    position = await shelf.carried()
    await shelf.store.tell(position, [event(position, key)])
    await shelf.store.unsubscribe(key)
    await shelf.after(41)
    assert [shelf.rows(table) for table in ("message", "event", "heard", "mark", "counter")] == [0] * 5


async def test_event_that_is_told_after_its_message_is_gone_does_not_stay_for_ever(shelf: Shelf) -> None:
    key = (await subscribed(shelf.store)).key
    position = await shelf.carried()
    await shelf.after(41)
    await shelf.store.tell(position, [event(position, key)])
    await shelf.after(42)
    assert await numbers(shelf.store, key) == [1], "it was not told yet"
    await shelf.store.move(key, ACTIVE, sent=1)
    await shelf.after(43)
    assert [shelf.rows(table) for table in ("event", "heard", "held")] == [0, 0, 0]


async def test_notice_goes_like_any_message_that_was_carried(shelf: Shelf) -> None:
    key = (await subscribed(shelf.store)).key
    kept = await shelf.store.notice(key, notification(), Kind.HANDSHAKE)
    assert isinstance(kept, Kept)
    await shelf.after(41)
    assert shelf.rows("message") == 1, "it waits"
    await shelf.store.settle(settlement(kept.position))
    await shelf.after(90)
    assert [shelf.rows(table) for table in ("message", "delivery", "notice")] == [0, 0, 0]


# -- the end of the process


class Confirmed:
    """What the teller said before it was killed."""

    def __init__(self) -> None:
        self.told = 0
        self.numbers: dict[int, int] = {}
        self.sent = 0
        self.noticed = 0

    def hear(self, line: str) -> None:
        what, *values = line.split()
        if what == "told":
            self.told = max(self.told, int(values[0]))
            for value in values[1:]:
                key, number = value.split(":")
                self.numbers[int(key)] = int(number)
        elif what == "moved":
            self.sent = int(values[0])
        else:
            self.noticed = int(values[0])


async def killed(path: Path, seed: int, confirmed: Confirmed) -> None:
    """Lets it work for so many lines, and kills it in the middle of whatever it does then."""
    paths = os.pathsep.join([str(TELLER.parent), *sys.path])
    process = await asyncio.create_subprocess_exec(
        sys.executable, str(TELLER), str(path), str(seed),
        stdout=asyncio.subprocess.PIPE, env={**os.environ, "PYTHONPATH": paths},
    )  # fmt: skip
    assert process.stdout is not None
    for _ in range(random.Random(seed).randint(20, 200)):
        line = await process.stdout.readline()
        assert line, "it ended by itself"
        confirmed.hear(line.decode())
    process.send_signal(signal.SIGKILL)
    for line in (await process.stdout.read()).splitlines(keepends=True):
        if line.endswith(b"\n"):
            confirmed.hear(line.decode())
    assert await process.wait() == -signal.SIGKILL


async def test_process_that_is_killed_at_random_leaves_no_gap_and_nothing_confirmed_is_lost(tmp_path: Path) -> None:
    path, confirmed = tmp_path / "broker.db", Confirmed()
    async with asyncio.timeout(120):
        for seed in range(6):
            await killed(path, seed, confirmed)
            store = SqliteStore(path, now=lambda: NOW)
            try:
                await check(store, confirmed)
            finally:
                await store.close()
    assert confirmed.told > FIRST


async def check(store: SqliteStore, confirmed: Confirmed) -> None:
    told = await store.told()
    assert told >= confirmed.told
    rows = await store.subscribed()
    assert len(rows) <= SUBSCRIPTIONS
    for row in rows:
        heard = await store.heard(row.key, 0, ALL, 1_000_000)
        assert [one.number for one in heard] == list(range(1, row.counted + 1)), "no gap, none twice"
        assert row.counted >= confirmed.numbers.get(row.key, 0)
        positions = [one.position for one in heard]
        assert positions == sorted(set(positions))
        assert all(position <= told for position in positions), "what is not told yet is told after the start"
    first = rows[0]
    assert first.sent >= confirmed.sent
    assert first.notice is not None or first.sent >= confirmed.sent
    if first.notice is not None:
        assert await store.deliveries(first.notice.position), "the one under way is a message"
    assert confirmed.noticed == 0 or await store.stored(confirmed.noticed) is not None
