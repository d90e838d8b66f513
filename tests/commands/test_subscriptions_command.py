"""`fhir-broker subscriptions`."""

from __future__ import annotations

from command_desk import Commands
from subscription_desk import ENCOUNTERS

from broker.core.subscription.life import Happening
from broker.core.subscription.notification import Kind


async def test_subscriptions_are_listed_shown_and_switched(desk: Commands) -> None:
    nobody = await desk("subscriptions", "ls")
    assert (nobody.code, nobody.out) == (0, "nobody is subscribed\n")
    subscribed = desk.desk.subscribed
    row = await subscribed.active(parameter=[{"name": "Authorization", "value": "Bearer do-not-show"}])
    id = row.subscription.id
    await subscribed.hear(row, times=3)
    await subscribed.sets_out(row, Kind.EVENT, first=1, last=3)
    await subscribed.happens(row, Happening.FAILED, "503 Service Unavailable")
    listed = await desk("subscriptions", "ls", COLUMNS="250")
    assert listed.code == 0
    for text in (id, ENCOUNTERS, "rest-hook", "error", "503 Service Unavailable"):
        assert text in listed.out, text
    shown = await desk("subscriptions", "show", id)
    assert "3 events counted, 0 sent, 3 behind" in shown.out
    assert "on its way: event-notification of events 1 to 3" in shown.out
    assert "do-not-show" not in listed.out + shown.out
    off = await desk("subscriptions", "off", id, "--reason", "asked to by phone")
    assert (off.code, off.out) == (0, f"{id} is off\n")
    assert subscribed.now(row).life.error == "asked to by phone"
    on = await desk("subscriptions", "on", id)
    assert (on.code, on.out) == (0, f"{id} is requested\n")
    told = await desk("subscriptions", "ls", "--status", "requested", "--json")
    assert [one["id"] for one in told.json["subscriptions"]] == [id]
    assert (await desk("subscriptions", "show", id, "--json")).json["notice"]["last"] == 3


async def test_more_than_a_page_is_said_and_stranger_is_a_failure(desk: Commands) -> None:
    for _ in "123":
        await desk.desk.subscribed.subscribe()
    page = await desk("subscriptions", "ls", "--limit", "2")
    assert page.out.splitlines()[-1] == "more: fhir-broker subscriptions ls --after 2"
    stranger = await desk("subscriptions", "show", "stranger")
    assert (stranger.code, "no subscription has this id" in stranger.err) == (1, True)
    wrong = await desk("subscriptions", "ls", "--status", "asleep")
    assert (wrong.code, "the parameter status is one of" in wrong.err) == (3, True)
