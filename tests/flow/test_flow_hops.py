"""One broker as a hop between others: what it passes on, whose word it takes, and what it finds after a crash."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from flow_post import HERE, SENDER, A, B, Opened, Post, answered_with, message, policy, refusal, response

from broker.channel import Delivered, Refused
from broker.core.answer import AnswerKind
from broker.core.delivery import AnswerState
from broker.core.envelope import Envelope
from broker.core.message import Fate

HOP, FAR = "urn:hop", "urn:far"
WITH_HOP = {A: "test://hop/in", B: "test://hop/in", HOP: "test://hop/in", SENDER: "mailbox:"}


def report_of(hop: str = FAR, **more: Any) -> bytes:
    return response(source=hop, code="fatal-error", **more)


# -- time


async def test_what_the_hop_before_has_left_is_the_wait_though_it_asked_for_whole_seconds(post: Post) -> None:
    post.script.holds("test://a/in")
    caller = post.calls(message(), wait=50, envelope=Envelope(timeleft=50950))
    await post.rest()
    assert post.script.sent[0].envelope.timeleft == 50900
    assert post.script.sent[0].listens_on
    post.script.let_go()
    await post.send(response())
    assert (await caller).kind is AnswerKind.RESPONSE


async def test_rule_cuts_what_the_hop_before_has_left(opened: Opened) -> None:
    post = await opened(defaults=policy(sync={"longest": timedelta(seconds=2)}))
    post.script.holds("test://a/in")
    caller = post.calls(message(), envelope=Envelope(timeleft=9000))
    await post.rest()
    assert post.script.sent[0].envelope.timeleft == 1950
    assert not post.script.sent[0].listens_on
    post.script.let_go()
    await caller


async def test_next_hop_has_no_longer_than_we_read_its_answer(opened: Opened) -> None:
    """It answers before we give up on the connection, though the caller would wait on."""
    post = await opened(defaults=policy(lane={"answer": timedelta(seconds=5)}))
    post.script.holds("test://a/in")
    caller = post.calls(message(), wait=30)
    await post.rest()
    assert post.script.sent[0].envelope.timeleft == 4950
    post.script.let_go()
    await post.send(response())
    await caller


# -- whose word it takes


async def test_report_of_a_broker_further_on_answers_the_request_that_went_there(opened: Opened) -> None:
    """A-43: its source is a broker that we need not know; the hop it comes from is the one to which we carried."""
    post = await opened(endpoints=WITH_HOP)
    await post.send(message(), asynchronous=True)
    await post.rest()
    await post.send(report_of(), envelope=Envelope(via=(FAR, HOP)))
    assert (await post.one()).answer is AnswerState.ANSWERED
    assert [entry.body for entry in await post.mail()] == [report_of()]


async def test_hop_may_have_other_ways_in_than_the_one_that_it_is_known_by(opened: Opened) -> None:
    post = await opened(endpoints={**WITH_HOP, A: "test://hop/of-a"})
    await post.send(message(), asynchronous=True)
    await post.rest()
    await post.send(report_of(), envelope=Envelope(via=(FAR, HOP)))
    assert (await post.one()).answer is AnswerState.ANSWERED


async def test_report_on_a_notification_finds_back_by_the_hop_that_it_passed(opened: Opened) -> None:
    """Nothing is kept of its ids but its identity, and nobody here knows who sent it."""
    post = await opened(endpoints={A: "test://hop/in", HOP: "test://hop/in", "urn:before": "test://before/in"})
    await post.send(message(request="never"), envelope=Envelope(via=("urn:before",)))
    await post.rest()
    await post.send(report_of(), envelope=Envelope(via=(FAR, HOP), correlationid="b1"))
    await post.rest()
    assert [one.body for one in post.script.to("test://before/in")] == [report_of()]


@pytest.mark.parametrize(
    ("source", "via"),
    [
        (FAR, (FAR, "urn:stranger")),  # handed in by who is not there
        (B, (FAR, HOP)),  # a system behind the hop speaks for itself only (M-57)
        (FAR, ()),
    ],
)
async def test_word_of_others_is_not_a_hops(opened: Opened, source: str, via: tuple[str, ...]) -> None:
    post = await opened(endpoints=WITH_HOP)
    await post.send(message(), asynchronous=True)
    await post.rest()
    await post.send(report_of(source), envelope=Envelope(via=via))
    assert (await post.one()).answer is AnswerState.OPEN


async def test_strangers_via_is_no_proof(opened: Opened) -> None:
    """Promise 6: attributes that steer are believed of brokers only."""
    post = await opened(endpoints=WITH_HOP, parties=True, brokers=frozenset({"hop"}))
    await post.send(message(), asynchronous=True, party="north")
    await post.rest()
    await post.send(report_of(), envelope=Envelope(via=(FAR, HOP)), party="north")
    assert (await post.one()).answer is AnswerState.OPEN


# -- after a crash


async def test_response_to_what_may_have_left_before_a_crash_finds_its_request(opened: Opened) -> None:
    """The attempt had gone out, and its end was never written: nobody knows, so that the answer is believed."""
    post = await opened()
    post.script.holds("test://a/in")
    await post.send(message(), asynchronous=True)
    await post.rest()
    await post.crash()
    again = await opened(now=post.now + timedelta(milliseconds=200))
    await again.send(response())
    assert (await again.one()).answer is AnswerState.ANSWERED
    await again.later(minutes=1)
    assert again.script.sent == [], "it has its answer, and needs no further attempt"


async def test_copy_of_who_did_not_hear_the_response_brings_it_by_the_return_path_once(opened: Opened) -> None:
    """The hop before us died over our answer, and sends again without waiting."""
    post = await opened(endpoints={A: "test://a/in", HOP: "test://hop/in"})
    post.script.says("test://a/in", answered_with(response()))
    by_hop = Envelope(via=(HOP,))
    assert (await post.send(message(), envelope=by_hop)).kind is AnswerKind.RESPONSE
    assert post.script.to("test://hop/in") == []
    for _ in range(3):
        answer = await post.send(message(), envelope=by_hop, asynchronous=True)
        assert (answer.kind, answer.receipt.duplicate) == (AnswerKind.ACCEPTED, True)
        await post.rest()
    assert [one.body for one in post.script.to("test://hop/in")] == [response()]
    assert len(post.script.to("test://a/in")) == 1


async def test_copy_of_who_had_the_response_by_the_return_path_brings_no_second_one(post: Post) -> None:
    post.script.says("test://a/in", answered_with(response()))
    await post.send(message(), asynchronous=True)
    await post.rest()
    await post.send(message(), asynchronous=True)
    await post.rest()
    assert len(await post.mail()) == 1


# -- what was said further on


async def test_bounce_keeps_the_issues_of_who_refused(post: Post) -> None:
    """M-60."""
    said = (
        b'{"resourceType":"OperationOutcome",'
        b'"issue":[{"severity":"error","code":"required","diagnostics":"no author"}]}'
    )
    refused = refusal()
    post.script.says("test://a/in", Refused(note="422", status=422, problem=refused.problem, body=said,
                                            media_type="application/fhir+json"))  # fmt: skip
    await post.send(message(), asynchronous=True)
    await post.rest()
    [entry] = await post.mail()
    assert b'"diagnostics":"no author"' in entry.body
    assert f'{{"system":"urn:x-fhir-broker:at","code":"{HERE}"}}'.encode() in entry.body


async def test_bounce_is_no_worse_for_an_outcome_that_cannot_be_read(post: Post) -> None:
    refused = refusal()
    for number, (body, media) in enumerate(((b"{", "application/fhir+json"), (b"x", "text/rubbish"), (b"x", None))):
        post.script.says(
            "test://a/in", Refused(note="422", status=422, problem=refused.problem, body=body, media_type=media)
        )
        await post.send(message(f"b{number}", f"m{number}"), asynchronous=True)
        await post.rest()
    assert [report["issue"]["details"]["text"].split(" (")[0] for report in await post.reports()] == [
        refused.problem.text
    ] * 3


async def test_report_that_cannot_be_delivered_causes_no_other(opened: Opened) -> None:
    """A-41."""
    post = await opened(endpoints={A: "test://a/in", SENDER: "test://s/in"})
    post.script.says("test://a/in", refusal())
    post.script.says("test://s/in", refusal())
    await post.send(message(), asynchronous=True)
    await post.later(days=2)
    assert [one.address for one in post.script.sent] == ["test://a/in", "test://s/in"]
    assert [stored.message.fate for stored in await post.messages()] == [Fate.MESSAGE, Fate.REPORT]


async def test_plain_acknowledgement_is_enough_for_who_does_not_listen_on(post: Post) -> None:
    post.script.says("test://a/in", Delivered(status=202))
    assert (await post.send(message(), envelope=Envelope(timeleft=5000))).kind is AnswerKind.TAKEN
