"""What the broker is for, from one end to the other: real daemon, real receivers, real time."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import aiohttp
import orjson
from e2e_daemon import Daemon, StartDaemon
from e2e_messages import (
    FHIR_JSON,
    NORTH,
    SOUTH,
    Said,
    ask,
    eventually,
    message,
    outcome,
    problem_ids,
    response_to,
    send,
)
from e2e_receiver import Got, HttpReceiver, OpenReceiver, Reply

QUICK = {"retry": {"first": "200ms", "max": "500ms"}, "lane": {"probe": "300ms"}}


def to(south: HttpReceiver | str, **defaults: Any) -> dict[str, Any]:
    address = south if isinstance(south, str) else south.url
    return {"directory": {"endpoints": {SOUTH: address}}, "defaults": {**QUICK, **defaults}}


async def mailbox(http: aiohttp.ClientSession, broker: Daemon, endpoint: str = NORTH) -> list[dict[str, Any]]:
    said = await ask(http, "GET", f"{broker.base}/Bundle?message.destination-uri={endpoint}&_offset=0")
    assert said.status == 200, said
    return [entry["resource"] for entry in said.json.get("entry", ())]


async def story(http: aiohttp.ClientSession, broker: Daemon, bundle_id: str) -> dict[str, Any]:
    said = await ask(http, "GET", f"{broker.admin}/admin/v1/messages/{bundle_id}")
    assert said.status == 200, said
    told: dict[str, Any] = said.json
    return told


def answers_with_response(got: Got) -> Reply:
    return Reply(body=response_to(got.body, id=f"re-{got.bundle_id}"))


def posts_back(http: aiohttp.ClientSession, broker: Callable[[], Daemon]) -> Callable[[Got], Awaitable[Reply]]:
    """A receiver that takes the message, and sends its response as a message of its own a moment later."""
    tasks: set[asyncio.Task[None]] = set()

    async def answer(got: Got) -> Reply:
        async def respond() -> None:
            await asyncio.sleep(0.1)
            said = await send(http, broker().base, response_to(got.body, id=f"re-{got.bundle_id}"))
            assert said.status == 202, said

        task = asyncio.create_task(respond())
        tasks.add(task)
        task.add_done_callback(tasks.discard)
        return Reply(status=202)

    return answer


# -- the caller waits


async def test_the_answer_of_the_receiver_comes_back_in_the_same_exchange(
    daemon: StartDaemon, receiver: OpenReceiver, http: aiohttp.ClientSession
) -> None:
    south = await receiver()
    given = b' {"resourceType" : "Bundle"' + response_to(message("q"))[len(b'{"resourceType":"Bundle"') :] + b"\n"
    south.answer = lambda got: Reply(body=given)
    broker = await daemon(to(south))
    said = await send(http, broker.base, message("q"))
    assert (said.status, said.body) == (200, given)  # byte for byte, also on the way back
    (got,) = south.got
    assert got.body == message("q") or got.bundle_id == "q"
    assert got.headers["ce-destination"] == SOUTH
    assert got.headers["ce-via"] == "urn:oid:2.999.1"
    assert int(got.headers["ce-timeleft"]) > 5000
    assert "async" not in got.query


async def test_who_prefers_to_wait_hears_the_response_that_the_receiver_sends_later(
    daemon: StartDaemon, receiver: OpenReceiver, http: aiohttp.ClientSession
) -> None:
    south = await receiver()
    broker = await daemon(to(south))
    south.answer = posts_back(http, lambda: broker)
    said = await send(http, broker.base, message("q"), headers={"Prefer": "wait=10"})
    assert said.status == 200, said
    assert said.json["id"] == "re-q"
    assert await mailbox(http, broker) == [], "the caller had it: it goes nowhere else"


async def test_who_does_not_wait_finds_that_response_in_its_mailbox(
    daemon: StartDaemon, receiver: OpenReceiver, http: aiohttp.ClientSession
) -> None:
    south = await receiver()
    broker = await daemon(to(south))
    south.answer = posts_back(http, lambda: broker)
    said = await send(http, broker.base, message("q"))
    assert said.status == 202, said

    async def answered() -> bool:
        return [one["id"] for one in await mailbox(http, broker)] == ["re-q"]

    await eventually(answered)


async def test_when_the_wait_ends_the_message_is_kept_and_its_status_leads_to_the_late_response(
    daemon: StartDaemon, receiver: OpenReceiver, http: aiohttp.ClientSession
) -> None:
    south = await receiver()
    south.answer = lambda got: Reply(body=response_to(got.body, id="late"), after=1.2)
    broker = await daemon(to(south, sync={"wait": "300ms"}))
    said = await send(http, broker.base, message("q"))
    assert (said.status, problem_ids(said.body)) == (202, ["kept"]), said
    status_url = said.headers["Content-Location"]
    polled = await ask(http, "GET", status_url)
    assert (polled.status, problem_ids(polled.body)) == (202, ["under-way"]), polled
    assert int(polled.headers["Retry-After"]) >= 1

    polls: list[Said] = []

    async def completed() -> bool:
        polls.append(await ask(http, "GET", status_url))
        return polls[-1].status == 200

    await eventually(completed, every=0.3)
    manifest = polls[-1].json
    assert not manifest.get("error")
    (output,) = manifest["output"]
    late = await ask(http, "GET", output["url"])
    assert late.json["id"] == "late"
    assert [one["id"] for one in await mailbox(http, broker)] == ["late"]


async def test_a_copy_joins_the_first_that_is_under_way(
    daemon: StartDaemon, receiver: OpenReceiver, http: aiohttp.ClientSession
) -> None:
    south = await receiver()
    south.answer = lambda got: Reply(body=response_to(got.body, id="re"), after=0.5)
    broker = await daemon(to(south))
    body = message("q")
    answers = await asyncio.gather(*(send(http, broker.base, body) for _ in range(10)))
    assert {(said.status, said.body) for said in answers} == {(200, answers[0].body)}
    assert len(south.got) == 1


async def test_a_caller_that_hangs_up_costs_the_message_nothing(
    daemon: StartDaemon, receiver: OpenReceiver, http: aiohttp.ClientSession
) -> None:
    south = await receiver()
    south.answer = answers_with_response
    broker = await daemon(to(south, retry={"first": "300ms"}))
    body = message("q")
    head = f"POST /fhir/$process-message HTTP/1.1\r\nHost: x\r\nContent-Type: {FHIR_JSON}\r\nContent-Length: "
    for number in range(40):
        _, writer = await asyncio.open_connection("127.0.0.1", broker.port)
        sent = body.replace(b'"q"', b'"q-%d"' % number)
        writer.write(head.encode() + b"%d\r\n\r\n" % len(sent) + sent)
        await asyncio.sleep(number / 10_000)  # at another instant each
        writer.transport.abort()
    await asyncio.sleep(0.5)
    status = (await ask(http, "GET", f"{broker.admin}/admin/v1/status")).json
    carried = {got.bundle_id for got in south.got}

    async def settled() -> bool:
        status = (await ask(http, "GET", f"{broker.admin}/admin/v1/status")).json
        return bool(status["counts"]["waiting"] == 0)

    await eventually(settled)
    assert carried <= {got.bundle_id for got in south.got}
    # each that was kept has its response beside it
    assert status["counts"]["positions"] <= 2 * len({got.bundle_id for got in south.got})


# -- the caller does not wait


async def test_the_response_goes_to_the_allowed_response_url_and_to_no_other(
    daemon: StartDaemon, receiver: OpenReceiver, http: aiohttp.ClientSession
) -> None:
    south, asker = await receiver(), await receiver()
    south.answer = answers_with_response
    allowed = f"http://127.0.0.1:{asker.port}/answers"
    broker = await daemon({**to(south), "allow": {"response_url": [f"{allowed}/*"]}})
    said = await send(http, broker.base, message("q"), query=f"?async=true&response-url={allowed}/here")
    assert said.status == 202, said
    (got,) = await asker.until_count(1)
    assert (got.path, got.bundle_id) == ("/answers/here", "re-q")
    said = await send(http, broker.base, message("p"), query="?async=true&response-url=http://127.0.0.1:1/x")
    assert (said.status, problem_ids(said.body)) == (403, ["response-url-not-allowed"]), said
    assert [got.bundle_id for got in south.got] == ["q"]


async def test_a_dead_destination_that_heals_gets_everything(
    daemon: StartDaemon, receiver: OpenReceiver, http: aiohttp.ClientSession
) -> None:
    south = await receiver()
    broker = await daemon(to(south))
    await south.close()
    bodies = [message(f"m-{n}") for n in range(20)]
    for body in bodies:
        assert (await send(http, broker.base, body, query="?async=true")).status == 202
    await asyncio.sleep(1)
    await south.open()
    await south.until_count(20)
    assert sorted(got.body for got in south.got) == sorted(bodies)
    told = await story(http, broker, "m-0")
    assert any("no connection" in str(line) for line in told["story"]), told["story"]


async def test_a_dead_destination_costs_the_others_nothing(
    daemon: StartDaemon, receiver: OpenReceiver, http: aiohttp.ClientSession
) -> None:
    south, dead = await receiver(), await receiver()
    config = to(south)
    config["directory"]["endpoints"]["urn:oid:2.999.2.9"] = dead.url
    broker = await daemon(config)
    await dead.close()
    for _ in range(50):
        assert (await send(http, broker.base, message(to="urn:oid:2.999.2.9"), query="?async=true")).status == 202
    started = asyncio.get_running_loop().time()
    answers = await asyncio.gather(*(send(http, broker.base, message()) for _ in range(50)))
    assert {said.status for said in answers} == {200}
    assert asyncio.get_running_loop().time() - started < 5


async def test_what_the_receiver_refuses_is_told_to_who_waits_and_bounces_to_who_does_not(
    daemon: StartDaemon, receiver: OpenReceiver, http: aiohttp.ClientSession
) -> None:
    south = await receiver()
    refusal = outcome("the ward is closed")
    south.answer = lambda got: Reply(status=422, body=refusal)
    broker = await daemon(to(south))
    said = await send(http, broker.base, message("waits"))
    assert (said.status, said.body, said.headers["X-Refused-By"]) == (422, refusal, "receiver"), said
    assert await mailbox(http, broker) == [], "it was told already"
    assert (await send(http, broker.base, message("waits-not"), query="?async=true")).status == 202

    async def bounced() -> bool:
        return bool(await mailbox(http, broker))

    await eventually(bounced)
    (bounce,) = await mailbox(http, broker)
    header = bounce["entry"][0]["resource"]
    assert header["response"]["code"] == "fatal-error"
    assert header["response"]["identifier"] == "waits-not-h"
    assert header["source"]["endpoint"] == "urn:oid:2.999.1"
    kinds = [entry["resource"]["resourceType"] for entry in bounce["entry"]]
    assert kinds == ["MessageHeader", "OperationOutcome"]
    dead = (await ask(http, "GET", f"{broker.admin}/admin/v1/dead")).json
    assert len(dead["dead"]) == 2


async def test_what_its_sender_withdraws_does_not_leave(
    daemon: StartDaemon, receiver: OpenReceiver, http: aiohttp.ClientSession
) -> None:
    south = await receiver()
    broker = await daemon(to(south))
    await south.close()
    said = await send(http, broker.base, message("gone"), query="?async=true")
    await send(http, broker.base, message("stays"), query="?async=true")
    deleted = await ask(http, "DELETE", said.headers["Content-Location"])
    assert (deleted.status, problem_ids(deleted.body)) == (202, ["cancelled", "withdrawn"]), deleted
    await south.open()
    await south.until_count(1)
    await asyncio.sleep(0.7)  # longer than the longest pause between two attempts
    assert [got.bundle_id for got in south.got] == ["stays"]
    assert (await ask(http, "GET", said.headers["Content-Location"])).status == 404


async def test_what_waits_for_a_wrong_address_leaves_within_seconds_of_its_correction(
    daemon: StartDaemon, receiver: OpenReceiver, http: aiohttp.ClientSession, tmp_path: Path
) -> None:
    south, wrong = await receiver(), await receiver()
    file = tmp_path / "register.yaml"
    file.write_bytes(orjson.dumps({"endpoints": {SOUTH: wrong.url}}))
    broker = await daemon(
        {
            "directory": {"sources": [str(file)]},
            "defaults": {"retry": {"first": "10m"}, "lane": {"probe": "10m", "open_after": 3}},
        }
    )
    await wrong.close()
    for number in range(10):
        assert (await send(http, broker.base, message(f"m-{number}"), query="?async=true")).status == 202
    await asyncio.sleep(0.5)  # all have failed, and the next attempt would be in ten minutes
    assert not south.got
    file.write_bytes(orjson.dumps({"endpoints": {SOUTH: south.url}}))
    await south.until_count(10, within=3)
    assert sorted(got.bundle_id for got in south.got) == [f"m-{number}" for number in range(10)]


async def test_a_reader_that_waits_at_the_end_of_its_mailbox_hears_of_the_next_message_at_once(
    daemon: StartDaemon, http: aiohttp.ClientSession
) -> None:
    broker = await daemon(to("mailbox:"))
    url = f"{broker.base}/Bundle?message.destination-uri={SOUTH}&_offset=0"
    waiting = asyncio.create_task(ask(http, "GET", url, headers={"Prefer": "wait=20"}))
    await asyncio.sleep(0.3)
    started = asyncio.get_running_loop().time()
    assert (await send(http, broker.base, message("m"))).status == 202
    said = await waiting
    assert asyncio.get_running_loop().time() - started < 2
    assert [entry["resource"]["id"] for entry in said.json["entry"]] == ["m"]
    acknowledged = await ask(http, "POST", f"{said.json['entry'][0]['link'][0]['url']}/$acknowledge")
    assert acknowledged.status == 200, acknowledged
