"""Large messages are read in a process of their own: with the same result, and whatever becomes of that process."""

from __future__ import annotations

import asyncio
import hashlib
import re
import time
from collections.abc import AsyncIterator, Awaitable
from pathlib import Path

import psutil
import pytest
from flow_post import START, A, Opened, message, response

from broker.channel import Arrival, Delivered, Peer
from broker.core.fhir.header import Header, Release
from broker.core.message import digest_text
from broker.core.outcome import MessageInvalid, Problem, Refusal
from broker.flow import aside as asides
from broker.flow.aside import ASIDE, Aside
from broker.flow.aside_reader import Question, said_of
from broker.flow.letter import opened_here

CORPUS = Path(__file__).parent.parent / "corpus"
FILES = sorted(path for path in CORPUS.rglob("*") if path.suffix in (".json", ".xml", ".fhir"))
LARGE = "x" * (2 * ASIDE)


@pytest.fixture
async def aside() -> AsyncIterator[Aside]:
    aside = Aside()
    yield aside
    await aside.close()


def arrival(body: bytes, media_type: str = "application/fhir+json", release: Release | None = None) -> Arrival:
    return Arrival(
        channel="test", peer=Peer(address="test"), body=body, media_type=media_type, at=START, release=release
    )


def readers() -> list[psutil.Process]:
    return [child for child in psutil.Process().children() if "broker.flow.aside_reader" in child.cmdline()]


def gone(reader: psutil.Process) -> None:
    until = time.monotonic() + 10
    while reader.is_running():
        assert time.monotonic() < until
        time.sleep(0.01)


Result = tuple[Header, bytes] | tuple[type[Refusal], tuple[Problem, ...], float | None]


async def result(reading: Awaitable[tuple[Header, bytes]]) -> Result:
    try:
        return await reading
    except Refusal as refusal:
        return type(refusal), refusal.problems, refusal.retry_after


async def read_here(came: Arrival) -> tuple[Header, bytes]:
    return opened_here(came)


async def test_all_that_is_large_reads_as_it_would_here(aside: Aside) -> None:
    """Refusals too, word for word: the corpus, with so much white space that it is read aside."""
    assert len(FILES) > 80
    outcomes = set()
    for path in FILES:
        blank = b" " * (ASIDE + 1)
        kind = "application/fhir+xml" if path.suffix == ".xml" else "application/fhir+json"
        for body in (path.read_bytes() + blank, blank + path.read_bytes()):
            came = arrival(body, kind, Release.R4)
            expected = await result(read_here(came))
            outcomes.add(isinstance(expected[0], Header))
            assert await result(aside.opened(came)) == expected, path
    assert outcomes == {True, False}
    assert len(readers()) == 1


@pytest.mark.parametrize("release", [None, Release.R5])
async def test_what_the_transport_says_goes_with_the_message(aside: Aside, release: Release | None) -> None:
    came = arrival(message(text=LARGE), "application/fhir+json; charset=utf-8", release)
    assert await aside.opened(came) == opened_here(came)


async def test_unknown_media_type_is_refused_as_ever(aside: Aside) -> None:
    with pytest.raises(Refusal) as refused:
        await aside.opened(arrival(message(text=LARGE), "image/png"))
    with pytest.raises(type(refused.value)) as here:
        opened_here(arrival(b"", "image/png"))
    assert refused.value.problems == here.value.problems


async def test_small_message_starts_no_process(aside: Aside) -> None:
    came = arrival(message())
    assert await aside.opened(came) == opened_here(came)
    assert readers() == []


async def test_messages_that_come_together_are_read_one_after_the_other(aside: Aside) -> None:
    came = [arrival(message(f"b{number}", text=LARGE)) for number in range(5)]
    assert await asyncio.gather(*map(aside.opened, came)) == [opened_here(one) for one in came]
    assert len(readers()) == 1


async def test_process_that_was_killed_is_started_anew(aside: Aside) -> None:
    came = arrival(message(text=LARGE))
    await aside.opened(came)
    (first,) = readers()
    first.kill()
    assert await aside.opened(came) == opened_here(came)
    (second,) = readers()
    assert second.pid != first.pid


async def test_process_that_is_asked_to_end_reads_on(aside: Aside) -> None:
    """A service manager may tell every process of the broker to end: what is under way is still finished."""
    came = arrival(message(text=LARGE))
    await aside.opened(came)
    (reader,) = readers()
    reader.terminate()
    assert await aside.opened(came) == opened_here(came)
    assert readers() == [reader]


async def test_message_is_read_here_where_no_process_can_be_started(
    aside: Aside, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(asides.sys, "executable", "/nowhere/python")
    came = arrival(message(text=LARGE))
    assert await aside.opened(came) == opened_here(came)
    with pytest.raises(MessageInvalid):
        await aside.opened(arrival(b"{" + came.body))


async def test_process_that_does_not_answer_in_time_is_ended_and_the_message_read_here(
    aside: Aside, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(asides, "DEADLINE", 3.0)  # it is started within that
    monkeypatch.setattr(asides, "END", 0.1)
    came = arrival(message(text=LARGE))
    await aside.opened(came)
    (reader,) = readers()
    reader.suspend()
    assert await aside.opened(came) == opened_here(came)
    assert not reader.is_running()


async def test_process_ends_once_no_large_message_has_come_for_a_while(
    aside: Aside, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(asides, "IDLE", 0.05)
    came = arrival(message(text=LARGE))
    await aside.opened(came)
    (reader,) = readers()
    await asyncio.to_thread(gone, reader)
    assert await aside.opened(came) == opened_here(came), "the next one starts it anew"


def test_bug_in_the_reader_is_told_by_its_place_and_not_by_its_words() -> None:
    said = said_of(Question(media_type="application/fhir+json", release=None), "patient".encode)  # type: ignore[arg-type]
    assert said.bug is not None
    assert re.fullmatch(r"AttributeError in read, read\.py:\d+", said.bug)


async def test_large_message_and_its_large_response_go_their_way(opened: Opened) -> None:
    post = await opened()
    answer = response("m1", text=LARGE)
    post.script.says("test://a/in", Delivered(status=200, note="200", body=answer, media_type="application/fhir+json"))
    body = message(to=(A,), text=LARGE)
    assert (await post.send(body)).body == answer
    assert [one.body for one in post.script.sent] == [body]
    stored = await post.store.stored(2)
    assert stored is not None
    assert stored.message.header == opened_here(arrival(answer))[0]
    assert stored.message.digest == digest_text(hashlib.sha256(answer).digest())
