"""The first attempt while the message of a caller that waits is not on disk yet; the answer waits for both."""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from flow_post import ACCEPTED, Opened, Post, answered_with, message, policy, response

from broker.channel import Transmission
from broker.core.answer import AnswerKind
from broker.core.outcome import StoreUnavailable
from broker.store import StoreError, writer


@pytest.fixture(autouse=True)
def _store_waits_for_what_follows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer, "FOLLOWS", 30.0)


def on_disk(tmp_path: Path) -> int:
    with closing(sqlite3.connect(tmp_path / "broker.db")) as db:
        return int(db.execute("SELECT count(*) FROM message").fetchone()[0])


async def has_left(post: Post, count: int = 1) -> None:
    for _ in range(100_000):
        if len(post.script.sent) >= count:
            return
        await asyncio.sleep(0)
    raise AssertionError("nothing has left")


async def test_attempt_of_a_caller_that_waits_sets_out_before_the_message_is_on_disk(
    post: Post, tmp_path: Path
) -> None:
    post.script.holds("test://a/in")
    caller = post.calls(message())
    await has_left(post)
    assert on_disk(tmp_path) == 0
    post.script.let_go(answered_with(response()))
    answer = await caller
    assert (answer.kind, answer.body) == (AnswerKind.RESPONSE, response())
    assert on_disk(tmp_path) == 2, "what is answered is kept, request and response"


async def test_nobody_who_has_custody_promised_hears_so_before_the_disk_has_it(post: Post, tmp_path: Path) -> None:
    post.script.holds("test://a/in")
    assert (await post.send(message(), asynchronous=True)).kind is AnswerKind.ACCEPTED
    assert on_disk(tmp_path) == 1


async def test_wait_that_is_over_is_answered_once_the_message_is_on_disk(
    post: Post, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer, "FOLLOWS", 0.05)
    post.script.holds("test://a/in")
    assert (await post.send(message(), wait=0.001)).kind is AnswerKind.KEPT
    assert on_disk(tmp_path) == 1


async def test_response_that_comes_by_itself_finds_its_request_although_it_was_not_on_disk(post: Post) -> None:
    async def answers_first(_sent: Transmission) -> object:
        await post.send(response(), asynchronous=True)
        return ACCEPTED

    post.script.says("test://a/in", answers_first)
    answer = await post.send(message(), wait=20)
    assert (answer.kind, answer.body) == (AnswerKind.RESPONSE, response())


async def test_copy_joins_what_has_set_out_and_is_not_on_disk(post: Post) -> None:
    post.script.holds("test://a/in")
    callers = [post.calls(message()), post.calls(message())]
    await has_left(post)
    await post.rest()
    post.script.let_go(answered_with(response()))
    assert [(await caller).kind for caller in callers] == [AnswerKind.RESPONSE] * 2
    assert len(post.script.sent) == 1


async def test_message_that_set_out_and_could_not_be_kept_is_refused_and_its_attempts_end_is_nobodys(
    post: Post, monkeypatch: pytest.MonkeyPatch
) -> None:
    post.script.holds("test://a/in")
    caller = post.calls(message())
    await has_left(post)
    waits = post.callers._waiting[1][0]
    with monkeypatch.context() as broken:
        broken.setattr(post.store._writer._tx.claims, "put_away", _full)
        with pytest.raises(StoreError):
            await post.store._writer.submit(_nothing)
        with pytest.raises(StoreUnavailable):
            await caller
    post.script.let_go(answered_with(response()))
    await post.rest()
    assert await post.mail() == ()
    assert post.callers.count() == 0
    assert waits.kept is not None
    assert isinstance(waits.kept.exception(), StoreError)
    post.script.says("test://a/in", answered_with(response()))
    assert (await post.send(message())).kind is AnswerKind.RESPONSE, "sent again, it is a new one"
    assert await post.mail() == ()


async def test_message_of_a_stream_does_not_set_out_before_it_is_on_disk(opened: Opened, tmp_path: Path) -> None:
    post = await opened(defaults=policy(order="source"))
    post.script.holds("test://a/in")
    caller = post.calls(message())
    await has_left(post)
    assert on_disk(tmp_path) == 1
    post.script.let_go(answered_with(response()))
    assert (await caller).kind is AnswerKind.RESPONSE


def _full() -> None:
    raise sqlite3.OperationalError("database or disk is full")


def _nothing(_tx: object) -> None:
    """Only something that follows."""
