"""Steps of retention: each ends in time, all come to an end, and whatever happens between them, nothing open goes."""

from __future__ import annotations

import asyncio
from pathlib import Path
from tempfile import TemporaryDirectory
from unittest.mock import patch

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from store_shelf import NOTHING, Shelf
from store_values import DAY, NOW, delivery, expecting, mail, new, settlement

from broker.core.delivery import AnswerState, State
from broker.store import Copy, Filter, NewDelivery, retention


async def test_step_ends_when_its_time_is_over(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(5):
        await shelf.carried(f"{number}")
    shelf.now = NOW + 10 * DAY
    monkeypatch.setattr(retention, "LONG", 0.0)
    for _ in range(5):
        step = await shelf.step()
        assert (step.body, step.more) == (1, True), "one message is looked at however long it takes"
    assert await shelf.step() == NOTHING


async def test_round_looks_at_what_is_held_up_to_a_number_and_goes_on_from_there_in_the_next(
    shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retention, "HELD_AT_ONCE", 6)
    monkeypatch.setattr(retention, "AT_ONCE", 4)
    positions = [await shelf.keep(new(f"{number}")) for number in range(10)]
    await shelf.after(100)
    assert shelf.rows("held") == 10
    for position in positions:
        await shelf.store.settle(settlement(position))
    shelf.now = NOW + 200 * DAY
    rounds = [0]
    while len(rounds) < 4:
        step = await shelf.step()
        rounds[-1] += step.body
        if not step.more:
            rounds.append(0)
    assert max(rounds) <= 6
    assert sum(rounds) == 10


async def test_what_is_held_leaves_half_of_the_time_to_the_walk(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    held = [await shelf.keep(new(f"held{number}")) for number in range(3)]
    await shelf.after(10)
    shelf.now = NOW
    walked = [await shelf.carried(f"{number}") for number in range(3)]
    monkeypatch.setattr(retention, "LONG", 0.0)
    shelf.now = NOW + 11 * DAY
    for _ in range(len(held)):
        assert (await shelf.step()).body == 1
    assert [await shelf.store.body(position) for position in walked] == [None] * 3


KINDS = ("waiting", "unanswered", "mail", "unread")
DEEDS = ("done", "dead", "dropped", "redriven", "missing", "told", "copied")


def deliveries_of(kind: str, name: str) -> tuple[NewDelivery, ...]:
    if kind == "waiting":
        return (delivery(),)
    if kind == "unanswered":
        return (expecting(),)
    return (mail(f"urn:{name}", unread_by=NOW + DAY if kind == "unread" else None), delivery())


class Model:
    """What is known of one message: its kind, its delivery's state, and whether somebody waits for word of it."""

    def __init__(self, kind: str, name: str, position: int) -> None:
        self.kind, self.name, self.position = kind, name, position
        self.state = State.WAITING
        self.asks = kind == "unanswered"
        self.unread = kind == "unread"
        self.number = 2 if kind in ("mail", "unread") else 1

    @property
    def is_open(self) -> bool:
        return self.state in (State.WAITING, State.DEAD) or self.asks or self.unread

    async def becomes(self, deed: str, shelf: Shelf) -> None:
        store, at = shelf.store, (self.position, self.number)
        if deed == "done" and self.state is State.WAITING:
            await store.settle(settlement(*at))
            self.state = State.DONE
        elif deed == "dead" and self.state is State.WAITING:
            await store.settle(settlement(*at, state=State.DEAD, answer=AnswerState.CLOSED))
            self.state, self.asks = State.DEAD, False
        elif deed == "dropped" and self.state is State.DEAD:
            assert await store.drop(*at, shelf.now, "nobody wants it")
            self.state = State.WITHDRAWN
        elif deed == "redriven" and self.state is State.DEAD:
            assert await store.redrive(*at, shelf.now, shelf.now + DAY)
            self.state, self.asks = State.WAITING, self.kind == "unanswered"
        elif deed == "missing" and self.asks:
            await store.missing(*at, shelf.now, None)
            self.asks = False
        elif deed == "told" and self.unread:
            await store.unread(f"urn:{self.name}", self.position, None)
            self.unread = False
        elif deed == "copied" and self.is_open:
            assert await store.accept(new(self.name)) == Copy(position=self.position), "its identity is kept"

    async def check(self, shelf: Shelf) -> None:
        if not self.is_open:
            return
        assert await shelf.store.body(self.position) == self.name.encode()
        assert len(await shelf.store.deliveries(self.position)) == self.number
        if self.number == 2:
            page = await shelf.store.read(f"urn:{self.name}", 0, 5, Filter(), False, 1 << 20)
            assert [entry.position for entry in page.entries] == [self.position]


MOVES = st.one_of(
    st.tuples(st.just("comes"), st.sampled_from(KINDS)),
    st.tuples(st.sampled_from(DEEDS), st.integers(0, 30)),
    st.tuples(st.just("days"), st.integers(1, 25)),
    st.tuples(st.just("steps"), st.integers(1, 4)),
    st.just(("restart", 0)),
)


@settings(max_examples=80, deadline=None)
@given(
    first=st.sampled_from(KINDS),
    moves=st.lists(MOVES, min_size=5, max_size=40),
    at_once=st.integers(1, 4),
    held_at_once=st.integers(1, 4),
    in_time=st.booleans(),
)
def test_nothing_open_goes_whatever_happens_between_the_steps_and_the_rest_goes_in_the_end(
    first: str, moves: list[tuple[str, str | int]], at_once: int, held_at_once: int, in_time: bool
) -> None:
    async def run(path: Path) -> None:
        shelf = Shelf(path)
        models: list[Model] = []
        for move, how in [("comes", first), *moves]:
            if move == "comes":
                name = f"m{len(models)}"
                position = await shelf.keep(new(name, *deliveries_of(str(how), name), body=name.encode()))
                models.append(Model(str(how), name, position))
            elif move == "days":
                shelf.now += int(how) * DAY
            elif move == "restart":
                await shelf.reopen()
            elif move == "steps":
                for _ in range(int(how)):
                    await shelf.step()
                for model in models:
                    await model.check(shelf)
            elif models:
                await models[int(how) % len(models)].becomes(move, shelf)
        await shelf.after((shelf.now - NOW).days + 100)
        for model in models:
            await model.check(shelf)
        assert shelf.rows("message") == sum(model.is_open for model in models)
        await shelf.store.close()

    limits = {"AT_ONCE": at_once, "HELD_AT_ONCE": held_at_once, "LONG": 60.0 if in_time else 0.0}
    with TemporaryDirectory() as folder, patch.multiple(retention, **limits):
        asyncio.run(run(Path(folder) / "broker.db"))
