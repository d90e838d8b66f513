"""Over three real brokers: one wait, one effect, and every answer, bounce and refusal finds its way back."""

from __future__ import annotations

import asyncio
import itertools
import time
from datetime import UTC, datetime, timedelta

import aiohttp
import pytest
from e2e_chain import EAST, NAMES, answers, chain, head_of, issues_of, mail, restart
from e2e_daemon import StartDaemon
from e2e_messages import SOUTH, ask, eventually, message, outcome, response_to, send
from e2e_receiver import CUSTODY, Got, OpenReceiver, Reply

TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


# -- one wait


async def test_synchronous_request_over_three_brokers_has_its_response_and_keeps_its_context(
    daemon: StartDaemon, receiver: OpenReceiver, http: aiohttp.ClientSession
) -> None:
    south = await receiver()
    south.answer = lambda got: Reply(body=response_to(got.body))
    way = await chain(daemon, receivers={SOUTH: south.url})
    request = message("q1")
    context = {"traceparent": TRACE, "tracestate": "a=1", "Correlation-Id": "case-7"}
    said = await send(http, way.west.base, request, headers=context)
    assert said.status == 200
    assert head_of(said.json)["response"]["identifier"] == "q1-h"
    [got] = south.got
    assert got.body == request
    assert (got.headers["traceparent"], got.headers["tracestate"]) == (TRACE, "a=1")
    assert (got.headers["ce-correlationid"], got.headers["ce-id"]) == ("case-7", "q1")
    assert got.headers["ce-via"] == "%20".join(NAMES)
    assert 9000 < int(got.headers["ce-timeleft"]) < 9860, "ten seconds, less 50 ms a hop and what it has taken"


@pytest.mark.parametrize("headers", [{}, {"Prefer": "wait=3"}])
async def test_three_brokers_keep_one_wait_to_within_100_ms(
    daemon: StartDaemon, receiver: OpenReceiver, http: aiohttp.ClientSession, headers: dict[str, str]
) -> None:
    """M-61: no hop cuts it to whole seconds, and each answers before the one before it gives up."""
    south = await receiver()
    south.answer = lambda got: Reply(body=response_to(got.body), after=4.5)
    way = await chain(daemon, receivers={SOUTH: south.url}, config={"defaults": {"sync": {"wait": "3s"}}})
    begun = time.monotonic()
    said = await send(http, way.west.base, message("late"), headers=headers)
    took = time.monotonic() - begun
    assert said.status == 202
    assert 2.8 < took < 3.1, "50 ms of each hop are for the way back"
    for broker in way.brokers[:2]:
        assert not [line for line in broker.log_lines if "no answer in time" in str(line)]

    async def came_back() -> bool:
        return bool(await mail(http, way.west))

    await eventually(came_back)
    await asyncio.sleep(0.5)  # W-44: exactly once, so that something more would have had the time to come
    assert [head_of(one)["response"]["identifier"] for one in await mail(http, way.west)] == ["late-h"]
    assert len(south.got) == 1


async def test_caller_who_did_not_ask_to_listen_hears_at_once_that_the_far_receiver_has_it(
    daemon: StartDaemon, receiver: OpenReceiver, http: aiohttp.ClientSession
) -> None:
    """Line 4, hop by hop: no broker says `Prefer: wait` that was not told so."""
    south = await receiver()
    south.answer = lambda got: Reply(status=202)
    way = await chain(daemon, receivers={SOUTH: south.url})
    begun = time.monotonic()
    assert (await send(http, way.west.base, message("q"))).status == 202
    assert time.monotonic() - begun < 2
    asked = asyncio.create_task(send(http, way.west.base, message("q2"), headers={"Prefer": "wait=9"}))
    got = (await south.until_count(2))[1]
    assert got.headers["prefer"] == "wait=8"
    assert (await answers(http, way.east, response_to(got.body))).status == 202
    assert head_of((await asked).json)["response"]["identifier"] == "q2-h"


# -- the way back


async def test_response_finds_its_way_back_after_every_broker_was_restarted(
    daemon: StartDaemon, receiver: OpenReceiver, http: aiohttp.ClientSession
) -> None:
    south = await receiver()
    way = await chain(daemon, receivers={SOUTH: south.url})
    request = message("q")
    assert (await send(http, way.west.base, request, query="?async=true")).status == 202
    await south.until_count(1)
    await restart(*way.brokers)
    response = response_to(request, id="a")
    assert (await answers(http, way.east, response)).status == 202

    async def came_back() -> bool:
        return [one["id"] for one in await mail(http, way.west)] == ["a"]

    await eventually(came_back)
    assert (await answers(http, way.east, response)).status == 202  # a copy has no further effect
    await asyncio.sleep(0.3)
    assert await came_back()


async def test_broker_that_dies_over_the_response_gets_it_by_the_return_path(
    daemon: StartDaemon, receiver: OpenReceiver, http: aiohttp.ClientSession
) -> None:
    """The middle answers the first broker's exchange, which is not there any more: what it sends again, it is told."""
    south = await receiver()

    async def answer(got: Got) -> Reply:
        await way.west.kill()
        return Reply(body=response_to(got.body, id="a"))

    south.answer = answer
    way = await chain(daemon, receivers={SOUTH: south.url})
    with pytest.raises(aiohttp.ClientError):
        await send(http, way.west.base, message("q"))
    await asyncio.sleep(0.2)  # the answer has been written into a connection that nobody reads
    await way.west.start()

    async def came_back() -> bool:
        return [one["id"] for one in await mail(http, way.west)] == ["a"]

    await eventually(came_back)
    assert len(south.got) == 1


# -- one effect


async def test_two_destinations_behind_one_gateway_have_one_copy_each(
    daemon: StartDaemon, receiver: OpenReceiver, http: aiohttp.ClientSession
) -> None:
    south, east = await receiver(), await receiver()
    way = await chain(daemon, receivers={SOUTH: south.url, EAST: east.url})
    request = message("both", to=(SOUTH, EAST))
    assert (await send(http, way.west.base, request)).status == 202
    assert (await send(http, way.west.base, request)).status == 202
    await asyncio.gather(south.until_count(1), east.until_count(1))
    assert (await send(http, way.middle.base, request)).status == 202, "from another side: a copy too"
    await asyncio.sleep(0.5)
    assert [[got.body for got in one.got] for one in (south, east)] == [[request], [request]]
    assert south.got[0].headers["ce-destination"] == SOUTH


async def test_destinations_that_reach_one_broker_by_two_ways_have_one_copy_each(
    daemon: StartDaemon, receiver: OpenReceiver, http: aiohttp.ClientSession
) -> None:
    """Two addresses of one gateway are two transmissions: the second one adds its delivery to what it is a copy of."""
    south, east = await receiver(), await receiver()
    far = await daemon({"directory": {"endpoints": {SOUTH: south.url, EAST: east.url}}})
    near = await daemon(
        {
            "broker": {"endpoint": NAMES[0]},
            "directory": {
                "endpoints": {
                    SOUTH: f"{far.base}/$process-message",
                    EAST: f"{far.base}/R4/$process-message",
                }
            },
        }
    )
    assert (await send(http, near.base, message("two", to=(SOUTH, EAST)), query="?async=true")).status == 202
    await asyncio.gather(south.until_count(1), east.until_count(1))
    await asyncio.sleep(0.3)
    assert (len(south.got), len(east.got)) == (1, 1)


async def test_hop_that_dies_after_forwarding_and_before_settling_has_no_second_effect(
    daemon: StartDaemon, receiver: OpenReceiver, http: aiohttp.ClientSession
) -> None:
    south, wire = await receiver(), await receiver()
    forwarded = asyncio.Event()
    killed = asyncio.Event()
    said: list[bytes] = []

    async def carry(got: Got) -> Reply:
        skip = ("host", "content-length", "accept-encoding")
        headers = {name: value for name, value in got.headers.items() if name not in skip}
        url = f"{way.east.base}/$process-message?{got.query}"
        answer = await ask(http, "POST", url, data=got.body, headers=headers)
        said.append(answer.body)
        forwarded.set()
        await killed.wait()  # the first answer comes to nobody
        return Reply(status=answer.status, body=answer.body)

    wire.answer = carry
    way = await chain(daemon, receivers={SOUTH: south.url}, between=lambda address: wire.url)
    assert (await send(http, way.west.base, message("once"), query="?async=true")).status == 202
    await forwarded.wait()
    await way.middle.kill()
    killed.set()
    await way.middle.start()
    await wire.until_count(2)
    await eventually(lambda: _is_settled(http, way.middle.admin))
    assert len(south.got) == 1
    assert b"duplicate" in said[1]


async def _is_settled(http: aiohttp.ClientSession, admin: str) -> bool:
    text = (await ask(http, "GET", f"{admin}/metrics")).body.decode()
    return any(
        line.startswith("fhir_broker_messages_delivered_total{") and line.endswith(" 1.0") for line in text.splitlines()
    )


# -- what goes wrong


async def test_bounce_travels_back_over_every_hop_and_names_who_speaks(
    daemon: StartDaemon, receiver: OpenReceiver, http: aiohttp.ClientSession
) -> None:
    south = await receiver()
    south.answer = lambda got: Reply(status=422, body=outcome("the letter has no author"))
    way = await chain(daemon, receivers={SOUTH: south.url})
    assert (await send(http, way.west.base, message("bad"), query="?async=true")).status == 202

    async def came_back() -> bool:
        return bool(await mail(http, way.west))

    await eventually(came_back)
    [report] = await mail(http, way.west)
    assert head_of(report)["source"]["endpoint"] == NAMES[2], "the broker that could not deliver it"
    assert head_of(report)["response"] | {"details": 0} == {
        "identifier": "bad-h", "code": "fatal-error", "details": 0,
    }  # fmt: skip
    texts = [issue["details"]["text"] for issue in issues_of(report)]
    assert "the letter has no author" in texts, "what the receiver said, kept"
    status = await ask(http, "GET", f"{way.west.admin}/admin/v1/dead")
    assert status.json.get("dead", status.json.get("items", [])) == [], "the west has delivered it, and had its answer"


async def test_bounce_that_cannot_be_delivered_causes_no_other(
    daemon: StartDaemon, receiver: OpenReceiver, http: aiohttp.ClientSession
) -> None:
    """A-41."""
    south, north = await receiver(), await receiver()
    south.answer = lambda got: Reply(status=422)
    north.answer = lambda got: Reply(status=403, body=outcome("not here"))
    way = await chain(daemon, receivers={SOUTH: south.url}, north=north.url)
    assert (await send(http, way.west.base, message("bad"), query="?async=true")).status == 202
    await north.until_count(1)
    await asyncio.sleep(0.7)
    assert (len(south.got), len(north.got)) == (1, 1)


async def test_refusal_from_the_far_end_keeps_its_bytes_and_says_who_speaks(
    daemon: StartDaemon, receiver: OpenReceiver, http: aiohttp.ClientSession
) -> None:
    """M-60."""
    south = await receiver()
    said = outcome("the letter has no author")
    south.answer = lambda got: Reply(status=422, body=said)
    way = await chain(daemon, receivers={SOUTH: south.url})
    heard = await send(http, way.west.base, message("bad"))
    assert (heard.status, heard.body) == (422, said)
    assert heard.headers["X-Refused-By"] == "receiver"
    assert "X-Refused-At" not in heard.headers, "the receiver itself speaks"


async def test_refusal_of_a_broker_on_the_way_names_that_broker(
    daemon: StartDaemon, receiver: OpenReceiver, http: aiohttp.ClientSession
) -> None:
    way = await chain(daemon, receivers={SOUTH: "mailbox:", EAST: "mailbox:"})
    way.east.config["directory"]["endpoints"].pop(EAST)
    way.east.write()
    await restart(way.east, gently=True)
    heard = await send(http, way.west.base, message("lost", to=EAST))
    assert heard.status == 404
    assert (heard.headers["X-Refused-By"], heard.headers["X-Refused-At"]) == ("sender", NAMES[2])
    [issue] = heard.json["issue"]
    codes = {coding["system"]: coding["code"] for coding in issue["details"]["coding"]}
    assert codes["urn:x-fhir-broker:error"] == "unknown-destination"
    assert codes["urn:x-fhir-broker:at"] == NAMES[2]
    assert (await send(http, way.west.base, message("gone", to=EAST), query="?async=true")).status == 202

    async def came_back() -> bool:
        return bool(await mail(http, way.west))

    await eventually(came_back)
    [report] = await mail(http, way.west)
    codes = [coding["code"] for issue in issues_of(report) for coding in issue["details"]["coding"]]
    assert "unknown-destination" in codes
    assert NAMES[2] in codes


async def test_loop_is_refused_with_the_path_shown(daemon: StartDaemon, http: aiohttp.ClientSession) -> None:
    way = await chain(daemon, receivers={SOUTH: "mailbox:"})
    way.east.config["directory"]["endpoints"][SOUTH] = f"{way.west.base}/$process-message"
    way.east.write()
    await restart(way.east, gently=True)
    heard = await send(http, way.west.base, message("round"))
    assert heard.status == 422
    assert " > ".join((*NAMES, NAMES[0])) in heard.json["issue"][0]["details"]["text"]
    assert heard.headers["X-Refused-At"] == NAMES[0]


async def test_message_that_has_passed_too_many_brokers_is_refused_with_the_path_shown(
    daemon: StartDaemon, http: aiohttp.ClientSession
) -> None:
    way = await chain(daemon, receivers={SOUTH: "mailbox:"}, config={"broker": {"limits": {"hops": 2}}})
    assert (await send(http, way.middle.base, message("two"))).status == 202
    heard = await send(http, way.west.base, message("three"))
    assert heard.status == 422
    assert " > ".join(NAMES[:2]) in heard.json["issue"][0]["details"]["text"]


async def test_expired_message_is_reported_and_never_sent_afterwards(
    daemon: StartDaemon, receiver: OpenReceiver, http: aiohttp.ClientSession
) -> None:
    south = await receiver()
    south.answer = lambda got: Reply(status=503)
    way = await chain(daemon, receivers={SOUTH: south.url})
    over = datetime.now(UTC) + timedelta(seconds=2)
    headers = {"ce-expirytime": over.isoformat()}
    assert (await send(http, way.west.base, message("old"), query="?async=true", headers=headers)).status == 202

    async def came_back() -> bool:
        return bool(await mail(http, way.west))

    await eventually(came_back)
    [report] = await mail(http, way.west)
    assert head_of(report)["response"]["code"] == "transient-error"
    assert issues_of(report)[0]["code"] == "timeout"
    tried = len(south.got)
    south.answer = lambda got: CUSTODY
    await restart(*way.brokers)
    await asyncio.sleep(1.5)
    assert len(south.got) == tried


# -- order


@pytest.mark.timeout(400)
async def test_order_is_kept_over_two_hops_with_failures_and_crashes(
    daemon: StartDaemon, receiver: OpenReceiver, http: aiohttp.ClientSession
) -> None:
    """A receiver may see a copy of what was under way; it never sees anything before what was sent before it."""
    south = await receiver()
    count, seen = 0, 0
    taken: list[int] = []
    calm = asyncio.Event()

    def answer(got: Got) -> Reply:
        nonlocal seen
        seen += 1
        if seen % 7 == 3:
            return Reply(status=500)
        taken.append(int(got.bundle_id.removeprefix("n")))
        return CUSTODY

    south.answer = answer
    config = {
        "defaults": {
            "order": "source", "sync": {"expects": "nothing"}, "retry": {"first": "50ms", "max": "100ms"},
            "lane": {"probe": "500ms"},
        }
    }  # fmt: skip
    way = await chain(daemon, receivers={SOUTH: south.url}, config=config)

    async def feed() -> None:
        """As long as there is trouble, so that none of it comes when all has arrived."""
        nonlocal count
        while not calm.is_set():
            assert (await send(http, way.west.base, message(f"n{count}"), query="?async=true")).status == 202
            count += 1
            await asyncio.sleep(0.02)

    async def disturb() -> None:
        for one in (way.middle, way.east, way.middle, way.east):
            before = len(taken)
            # a crash costs what was claimed ten seconds, at each broker on the way
            await eventually(lambda before=before: _more(taken, before + 8), within=60)
            await restart(one)
        calm.set()

    await asyncio.gather(feed(), disturb())
    await south.until(lambda: len(set(taken)) == count, within=120)
    assert [number for place, number in enumerate(taken) if number not in taken[:place]] == list(range(count))
    assert all(later in (earlier, earlier + 1) for earlier, later in itertools.pairwise(taken)), taken


async def _more(taken: list[int], than: int) -> bool:
    return len(taken) >= than


# -- conversation


async def test_acknowledgement_progress_and_final_reach_the_placer_in_order_over_three_brokers(
    daemon: StartDaemon, receiver: OpenReceiver, http: aiohttp.ClientSession
) -> None:
    """W-40: the placer is away for a while, and every broker is restarted in between."""
    south, north = await receiver(), await receiver()
    north.answer = lambda got: Reply(status=503) if len(north.got) < 4 else CUSTODY
    config = {"defaults": {"responses": "several", "final": "final"}}
    way = await chain(daemon, receivers={SOUTH: south.url}, north=north.url, config=config)
    order = message("order")
    headers = {"Correlation-Id": "case-9"}
    assert (await send(http, way.west.base, order, query="?async=true", headers=headers)).status == 202
    await south.until_count(1)
    stages = ["received", "specimen", "preliminary", "corrected", "final"]
    for number, stage in enumerate(stages):
        body = response_to(order, id=stage).replace(b'"receipt"', f'"{stage}"'.encode())
        assert (await answers(http, way.east, body)).status == 202
        if number == 2:
            await restart(*way.brokers)

    def heard() -> list[str]:
        """Each once: a copy of what was under way at a crash has no further effect."""
        return list(dict.fromkeys(got.bundle_id for got in north.got))

    await north.until(lambda: len(heard()) == len(stages) and len(north.got) >= 4 + len(stages) - 1)
    assert heard() == stages
    assert {got.headers["ce-correlationid"] for got in north.got} == {"case-9"}
    late = response_to(order, id="late")
    assert (await answers(http, way.east, late)).status == 202, "what comes after the final one is passed on too"
    await north.until(lambda: "late" in heard())
