"""What subscribers ask of the broker: over a real store, the clock in hand."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import orjson
import pytest
from subscription_desk import ADMISSIONS, BASE_URL, SOCKET, START, Subscribing, backport, classic, r5, subscribing

from broker.core.fhir.header import Format, Release
from broker.core.outcome import Busy, Conflict, NotFound, SubscriptionRefused
from broker.core.subscription.consent import callback, consent_token
from broker.core.subscription.life import Happening
from broker.core.subscription.notification import Kind
from broker.core.subscription.operations import Events, Range, Resend
from broker.core.subscription.subscription import HIDDEN, Content, Header, Model, Status
from broker.store.telling import Subscribed

SECRET = {"name": "Authorization", "value": "Bearer do-not-show"}


@pytest.fixture
async def desk(tmp_path: Path) -> AsyncIterator[Subscribing]:
    one = subscribing(tmp_path)
    yield one
    await one.store.close()


def asked(since: int | None = None, until: int | None = None, **more: Any) -> Events:
    return Events(Range(since, until), **more)


async def events(desk: Subscribing, row: Subscribed, what: Events, **more: Any) -> dict[str, Any]:
    more = {"owner": "", "format": Format.JSON, "release": None} | more
    found: dict[str, Any] = orjson.loads(await desk.service.events(row.subscription.id, what, **more))
    return found


def numbers(bundle: dict[str, Any]) -> list[int]:
    status = bundle["entry"][0]["resource"]
    if "parameter" not in status:
        return [int(one["eventNumber"]) for one in status.get("notificationEvent", ())]
    told = [one["part"] for one in status["parameter"] if one["name"] == "notification-event"]
    return [int(part["valueString"]) for parts in told for part in parts if part["name"] == "event-number"]


# --- made and changed ---


async def test_new_subscription_waits_for_its_handshake_and_outlives_a_restart(desk: Subscribing) -> None:
    row = await desk.subscribe()
    assert (row.life.status, row.version, row.counted, row.changed) == (Status.REQUESTED, 1, 0, START)
    assert (await desk.reopened()).find(row.subscription.id) == row


async def test_client_that_wants_it_off_gets_it_off(desk: Subscribing) -> None:
    assert (await desk.subscribe(status="off")).life.status is Status.OFF


async def test_subscription_over_a_socket_counts_from_the_first_moment_on(desk: Subscribing) -> None:
    """S-15: there is nobody to be greeted before somebody binds."""
    row = await desk.subscribe(**SOCKET)
    assert row.life.status is Status.ACTIVE
    assert row.life.counts


async def test_all_that_is_wrong_is_said_at_once_and_nothing_is_kept(desk: Subscribing) -> None:
    with pytest.raises(SubscriptionRefused) as refused:
        await desk.subscribe(topic="http://example.org/none", endpoint="https://elsewhere.example/", status="active")
    assert [problem.expression[0] for problem in refused.value.problems] == [
        "Subscription.status",
        "Subscription.endpoint",
        "Subscription.topic",
    ]
    assert await desk.store.subscribed() == ()


@pytest.mark.parametrize(
    ("endpoint", "id"),
    [
        ("https://broker.example/fhir/R5/Subscription", "endpoint-is-ours"),
        ("https://broker.example/fhir", "endpoint-is-ours"),
        ("https://broker.example/events", "endpoint-is-ours"),
        ("https://broker.example/other", ""),
        ("http://plain.example/hook", ""),
        ("http://example.org/hook", "endpoint-not-allowed"),
        ("https://user:secret@example.org/hook", "endpoint-does-not-fit"),
    ],
)
async def test_endpoint_is_one_that_the_operator_allows_and_not_our_own(
    desk: Subscribing, endpoint: str, id: str
) -> None:
    """S-40, S-61: plain http only where the list says so."""
    if not id:
        assert (await desk.subscribe(endpoint=endpoint)).subscription.endpoint == endpoint
        return
    with pytest.raises(SubscriptionRefused) as refused:
        await desk.subscribe(endpoint=endpoint)
    assert refused.value.problem.id == id


@pytest.mark.parametrize(("endpoint", "served"), [("urn:oid:2.1", True), ("urn:oid:9.9", False)])
async def test_message_channel_takes_endpoints_that_the_directory_knows(
    desk: Subscribing, endpoint: str, served: bool
) -> None:
    """S-51."""
    resource = r5(channelType={"code": "message"}, endpoint=endpoint)
    if served:
        assert (await desk.subscribe(resource)).subscription.endpoint == endpoint
    else:
        with pytest.raises(SubscriptionRefused):
            await desk.subscribe(resource)


async def test_there_are_no_more_than_the_operator_lets_there_be(tmp_path: Path) -> None:
    desk = subscribing(tmp_path, most=1)
    await desk.subscribe()
    with pytest.raises(Busy) as refused:
        await desk.subscribe()
    assert refused.value.problem.id == "too-many-subscriptions"
    await desk.store.close()


async def test_nothing_is_taken_in_while_there_is_no_room_and_what_is_there_goes_on(tmp_path: Path) -> None:
    """Promise 7."""
    full: list[bool] = []

    def room() -> None:
        if full:
            raise Busy("the disk is nearly full", retry_after=60)

    desk = subscribing(tmp_path, room=room)
    row = await desk.active()
    full.append(True)
    with pytest.raises(Busy):
        await desk.subscribe()
    with pytest.raises(Busy):
        await desk.update(row, r5())
    await desk.hear(row)
    assert numbers(await events(desk, row, asked())) == [1]
    assert await desk.service.delete(row.subscription.id, owner="")
    await desk.store.close()


async def test_known_topic_is_the_backport_without_any_extension(desk: Subscribing) -> None:
    """S-1."""
    row = await desk.subscribe(backport(channel={"_payload": None}))
    assert (row.subscription.model, row.subscription.content) == (Model.BACKPORT, Content.ID_ONLY)
    assert (await desk.subscribe(classic())).subscription.model is Model.CLASSIC


async def test_update_asks_for_a_new_handshake_and_numbers_go_on(desk: Subscribing) -> None:
    row = await desk.active()
    await desk.hear(row, times=3)
    desk.passes(minutes=1)
    again = await desk.update(row, r5(reason="still curious"))
    assert (again.life.status, again.version, again.counted) == (Status.REQUESTED, 2, 3)
    assert again.changed == START + timedelta(minutes=1)
    assert again.life.counts
    assert desk.service.get(row.subscription.id, "") == again


async def test_client_that_writes_the_status_it_has_read_is_not_greeted_again(desk: Subscribing) -> None:
    row = await desk.active()
    assert (await desk.update(row, r5(status="active", reason="r"))).life == row.life


async def test_who_points_it_elsewhere_is_greeted_there_before_any_data(desk: Subscribing) -> None:
    """S-61: whatever status was written."""
    row = await desk.active()
    moved = await desk.update(row, r5(status="active", endpoint="https://example.org/other"))
    assert moved.life.status is Status.REQUESTED


async def test_client_that_writes_requested_ends_an_error_and_its_gap(desk: Subscribing) -> None:
    """S-17: it is the client who decides how to catch up."""
    row = await desk.active()
    row = await desk.happens(row, Happening.GAVE_UP, "503 for too long")
    assert (row.life.status, row.life.has_gap) == (Status.ERROR, True)
    row = await desk.update(row, r5())
    assert (row.life.status, row.life.has_gap, row.life.error) == (Status.REQUESTED, False, "")


async def test_client_switches_it_off_and_on(desk: Subscribing) -> None:
    row = await desk.active()
    row = await desk.update(row, r5(status="off"))
    assert (row.life.status, row.life.counts) == (Status.OFF, False)
    assert (await desk.update(row, r5())).life.status is Status.REQUESTED


async def test_who_has_read_an_older_version_is_refused(desk: Subscribing) -> None:
    row = await desk.subscribe()
    await desk.update(row, r5(reason="a"), version=1)
    with pytest.raises(Conflict) as refused:
        await desk.update(row, r5(reason="b"), version=1)
    assert refused.value.problem.id == "version-changed"
    with pytest.raises(Conflict):
        await desk.service.delete(row.subscription.id, owner="", version=1)


async def test_of_two_updates_at_once_one_is_told_of_the_other(desk: Subscribing) -> None:
    """Neither says which version it read; the second would overwrite what it never saw."""
    row = await desk.subscribe()
    results = await asyncio.gather(
        desk.update(row, r5(reason="a")), desk.update(row, r5(reason="b")), return_exceptions=True
    )
    assert sorted(type(one).__name__ for one in results) == ["Conflict", "Subscribed"]


async def test_id_of_the_body_is_that_of_the_url(desk: Subscribing) -> None:
    row = await desk.subscribe()
    with pytest.raises(SubscriptionRefused) as refused:
        await desk.update(row, r5(id="another"))
    assert refused.value.problem.expression == ("Subscription.id",)


# --- secrets (S-60) ---


async def test_secret_that_is_written_back_as_it_is_shown_stays_what_it_was(desk: Subscribing) -> None:
    row = await desk.subscribe(parameter=[SECRET])
    hidden = {"name": "Authorization", "value": HIDDEN}
    again = await desk.update(row, r5(parameter=[hidden]))
    assert again.subscription.headers == (Header("Authorization", "Bearer do-not-show"),)
    with pytest.raises(SubscriptionRefused) as refused:
        await desk.update(row, r5(parameter=[hidden], endpoint="https://example.org/thief"))
    assert refused.value.problem.id == "secret-needed"


async def test_sign_for_a_secret_is_no_secret(desk: Subscribing) -> None:
    with pytest.raises(SubscriptionRefused) as refused:
        await desk.subscribe(parameter=[{"name": "Authorization", "value": HIDDEN}])
    assert refused.value.problem.expression == ("Subscription.parameter[0]",)
    row = await desk.subscribe()
    with pytest.raises(SubscriptionRefused):
        await desk.update(row, r5(parameter=[{"name": "X-Key", "value": HIDDEN}]))


async def test_secrets_are_in_no_log(desk: Subscribing, capsys: pytest.CaptureFixture[str]) -> None:
    row = await desk.subscribe(parameter=[SECRET])
    await desk.update(row, r5(parameter=[SECRET | {"value": "Bearer do-not-show-2"}]))
    await desk.service.delete(row.subscription.id, owner="")
    said = capsys.readouterr()
    assert "subscribed" in said.out + said.err
    assert "do-not-show" not in said.out + said.err


# --- whose they are ---


async def test_with_parties_each_sees_its_own_only(tmp_path: Path) -> None:
    desk = subscribing(tmp_path, caps={"north": Content.FULL, "south": None})
    row = await desk.subscribe(owner="north")
    assert [one.key for one in desk.service.all("north")] == [row.key]
    assert [one.key for one in desk.service.all(None)] == [row.key]
    assert desk.service.all("south") == ()
    with pytest.raises(NotFound):
        desk.service.get(row.subscription.id, "south")
    assert not await desk.service.delete(row.subscription.id, owner="south")
    assert await desk.service.delete(row.subscription.id, owner="north")
    await desk.store.close()


async def test_party_is_told_no_more_than_its_cap(tmp_path: Path) -> None:
    """S-63: refused, not lowered."""
    desk = subscribing(tmp_path, caps={"north": Content.FULL, "south": None}, cap=Content.ID_ONLY)
    assert (await desk.subscribe(content="full-resource", owner="north")).subscription.content is Content.FULL
    with pytest.raises(SubscriptionRefused) as refused:
        await desk.subscribe(content="full-resource", owner="south")
    assert refused.value.problem.id == "content-above-cap"
    await desk.store.close()


@pytest.mark.parametrize(
    ("topic", "parties", "served"), [(ADMISSIONS, True, True), (None, True, False), (None, False, True)]
)
async def test_empty_content_is_for_those_who_can_ask_what_changed(
    tmp_path: Path, topic: str | None, parties: bool, served: bool
) -> None:
    """S-57a: the topic says where, or the subscriber reads the messages themselves."""
    desk = subscribing(tmp_path, **({"caps": {"north": Content.FULL}} if parties else {}))
    more = {"topic": topic} if topic else {}
    if served:
        assert (await desk.subscribe(content="empty", owner="north", **more)).subscription.content is Content.EMPTY
    else:
        with pytest.raises(SubscriptionRefused) as refused:
            await desk.subscribe(content="empty", owner="north", **more)
        assert refused.value.problem.id == "content-not-offered"
    await desk.store.close()


# --- operations ---


async def test_events_come_by_number_with_what_they_are_about(desk: Subscribing) -> None:
    row = await desk.active(backport(content="full-resource"))
    await desk.hear(row, times=5)
    bundle = await events(desk, row, asked(2, 4))
    assert (bundle["type"], numbers(bundle)) == ("history", [2, 3, 4])
    status = {one["name"]: one for one in bundle["entry"][0]["resource"]["parameter"]}
    assert status["type"]["valueCode"] == "query-event"
    assert status["events-since-subscription-start"]["valueString"] == "5"
    focus, patient = bundle["entry"][1], bundle["entry"][2]
    assert (focus["resource"]["id"], focus["request"]) == ("e1", {"method": "PUT", "url": "Encounter/e1"})
    assert (patient["fullUrl"], patient["resource"]["id"]) == ("https://source.example/fhir/Patient/p1", "p1")


async def test_events_come_in_another_release_without_what_only_its_own_can_show(desk: Subscribing) -> None:
    row = await desk.active(content="full-resource")
    await desk.hear(row)
    bundle = await events(desk, row, asked())
    assert (bundle["type"], numbers(bundle)) == ("subscription-notification", [1])
    assert [entry["fullUrl"][:14] for entry in bundle["entry"][1:]] == ["https://source"] * 2
    assert not any("resource" in entry for entry in bundle["entry"][1:])  # nobody converts what a sender wrote


async def test_hint_for_less_content_is_followed_and_one_for_more_is_not(desk: Subscribing) -> None:
    row = await desk.active()
    await desk.hear(row)
    thin = await events(desk, row, asked(content=Content.EMPTY))
    assert len(thin["entry"]) == 1
    assert "focus" not in thin["entry"][0]["resource"]["notificationEvent"][0]
    full = await events(desk, row, asked(content=Content.FULL))
    assert all("resource" not in entry for entry in full["entry"][1:])


async def test_events_beyond_the_last_are_none(desk: Subscribing) -> None:
    row = await desk.active()
    await desk.hear(row)
    assert numbers(await events(desk, row, asked(2))) == []
    assert numbers(await events(desk, row, asked(0, 99))) == [1]


async def test_many_events_come_in_parts_that_are_gone_through_by_number(
    desk: Subscribing, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("broker.flow.subscribing.service.MOST_EVENTS", 4)
    monkeypatch.setattr("broker.flow.subscribing.service.PART", 3)
    row = await desk.active()
    await desk.hear(row, times=9)
    got: list[int] = []
    while part := numbers(await events(desk, row, asked((got[-1] if got else 0) + 1))):
        assert len(part) <= 4
        got += part
    assert got == list(range(1, 10))


async def test_large_resources_come_few_at_a_time(desk: Subscribing, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("broker.flow.subscribing.service.MOST_BYTES", 100)
    monkeypatch.setattr("broker.flow.subscribing.service.PART", 2)
    row = await desk.active(content="full-resource")
    await desk.hear(row, times=3)
    assert numbers(await events(desk, row, asked())) == [1]


async def test_query_based_subscriptions_have_no_numbers_to_ask_for(desk: Subscribing) -> None:
    row = await desk.active(classic())
    with pytest.raises(SubscriptionRefused) as refused:
        await events(desk, row, asked())
    assert refused.value.problem.id == "no-event-numbers"


async def test_status_says_how_it_stands_and_why(desk: Subscribing) -> None:
    row = await desk.active()
    await desk.hear(row)
    row = await desk.happens(row, Happening.FAILED, "503 Service Unavailable")
    body = desk.service.status([row], format=Format.JSON, release=Release.R4, self_url=f"{BASE_URL}/x")
    (entry,) = orjson.loads(body)["entry"]
    said = {one["name"]: one for one in entry["resource"]["parameter"]}
    assert said["status"]["valueCode"] == "error"
    assert said["type"]["valueCode"] == "query-status"
    assert said["events-since-subscription-start"]["valueString"] == "1"
    assert said["error"]["valueCodeableConcept"]["text"] == "503 Service Unavailable"


@pytest.mark.parametrize(
    ("range", "time", "first"),
    [
        (Range(2, None), {}, 2),
        (Range(None, 2), {}, 1),
        (Range(5, None), {}, 5),  # not sent yet: it comes anyhow
        (Range(), {"since": START + timedelta(minutes=2)}, 3),
        (Range(4, None), {"since": START + timedelta(minutes=2)}, 4),
    ],
)
async def test_events_are_sent_again_from_one_on(
    desk: Subscribing, range: Range, time: dict[str, Any], first: int
) -> None:
    row = await desk.active()
    for _ in "12345":
        await desk.hear(row)
        desk.passes(minutes=1)
    await desk.sent(row, 4)
    assert await desk.service.resend(row.subscription.id, Resend(range, **time), owner="") == (first, 5)
    await desk.written()
    assert desk.now(row).sent == min(first - 1, 4)


@pytest.mark.parametrize(
    "what",
    [
        Resend(Range(6, None)),
        Resend(Range(), since=START + timedelta(hours=1)),
        Resend(Range(), until=START - timedelta(hours=1)),
    ],
)
async def test_nothing_is_sent_again_where_nothing_was(desk: Subscribing, what: Resend) -> None:
    row = await desk.active()
    await desk.hear(row, times=5)
    with pytest.raises(SubscriptionRefused) as refused:
        await desk.service.resend(row.subscription.id, what, owner="")
    assert refused.value.problem.id == "no-such-event"


async def test_what_is_off_sends_nothing_again(desk: Subscribing) -> None:
    row = await desk.subscribe(status="off")
    with pytest.raises(SubscriptionRefused) as refused:
        await desk.service.resend(row.subscription.id, Resend(Range(1, None)), owner="")
    assert refused.value.problem.id == "not-active"


# --- tokens and consent ---


async def test_token_is_for_subscriptions_over_sockets_only(desk: Subscribing) -> None:
    """S-43."""
    row = await desk.subscribe(**SOCKET)
    token, until, ids = desk.service.bind([row.subscription.id, row.subscription.id], owner="")
    assert (token, until, ids) == (
        f"sealed-{row.subscription.id}",
        START + timedelta(minutes=30),
        (row.subscription.id,),
    )
    other = await desk.subscribe()
    for wrong in ([], [other.subscription.id]):
        with pytest.raises(SubscriptionRefused):
            desk.service.bind(wrong, owner="")
    with pytest.raises(NotFound):
        desk.service.bind(["stranger"], owner="")


async def test_consent_that_comes_later_makes_it_active(desk: Subscribing) -> None:
    """C-30."""
    row = await desk.subscribe(contentType="application/cloudevents+json")
    await desk.sets_out(row, Kind.HANDSHAKE)
    token = callback(BASE_URL, desk.store.key, row.subscription).removeprefix(f"{BASE_URL}/consent/")
    for _ in "12":  # the second says nothing new
        desk.service.consented(token)
        await desk.written()
        assert desk.now(row).life.status is Status.ACTIVE


async def test_consent_is_for_one_subscription_at_one_endpoint(desk: Subscribing) -> None:
    row = await desk.subscribe(contentType="application/cloudevents+json")
    other = await desk.subscribe()
    good = consent_token(desk.store.key, row.subscription)
    stolen = f"{other.subscription.id}.{good.rpartition('.')[2]}"
    await desk.update(row, r5(endpoint="https://example.org/elsewhere"))
    for token in (good, stolen, "x", f"{row.subscription.id}.ä"):
        with pytest.raises(NotFound):
            desk.service.consented(token)
    assert desk.now(row).life.status is Status.REQUESTED


# --- the operator ---


async def test_operator_switches_off_and_on(desk: Subscribing) -> None:
    row = await desk.active()
    row = await desk.service.switch(row.subscription.id, on=False, why="asked to by phone")
    assert (row.life.status, row.life.error, row.version) == (Status.OFF, "asked to by phone", 2)
    row = await desk.service.switch(row.subscription.id, on=True)
    assert (row.life.status, row.life.error) == (Status.REQUESTED, "")
    with pytest.raises(NotFound):
        await desk.service.switch("stranger", on=False)


async def test_what_is_deleted_is_gone_for_everybody(desk: Subscribing) -> None:
    row = await desk.active()
    heard: list[int] = []
    desk.registry.on_change(heard.append)
    assert await desk.service.delete(row.subscription.id, owner="")
    assert not await desk.service.delete(row.subscription.id, owner="")
    assert (heard, len(desk.registry), await desk.store.subscribed()) == ([row.key], 0, ())
