"""A placer, its broker and a filler that is away: asked how far it is, called off, and followed where it had left."""

from __future__ import annotations

import aiohttp
import orjson
from e2e_chain import head_of, issues_of, mail
from e2e_daemon import StartDaemon
from e2e_messages import NORTH, SOUTH, eventually, message, problem_ids, send
from e2e_receiver import CUSTODY, OpenReceiver, Reply

STATUS = {"system": "urn:x-fhir-broker:event", "code": "status-check"}
CONFIG = {
    "routes": [{"name": "cancellations", "match": {"event": "*-cancel"}, "cancels": True}],
    "defaults": {"lane": {"probe": "300ms"}},
}


def about(id: str, event: str, reference: str) -> bytes:
    return message(id, event=event, focus=[{"reference": reference}])


def check(id: str, of: str) -> bytes:
    return message(id, eventCoding=STATUS, focus=[{"reference": f"Bundle/{of}"}])


async def task_status(http: aiohttp.ClientSession, base: str, asks: str, of: str) -> str:
    said = await send(http, base, check(asks, of))
    assert said.status == 200, said
    assert head_of(said.json)["response"] | {"details": 0} == {"identifier": f"{asks}-h", "code": "ok", "details": 0}
    assert [issue["severity"] for issue in issues_of(said.json)] == ["information"]
    [task] = [one["resource"] for one in said.json["entry"] if one["resource"]["resourceType"] == "Task"]
    return str(task["status"])


async def test_order_is_asked_after_called_off_and_never_delivered(
    daemon: StartDaemon, receiver: OpenReceiver, http: aiohttp.ClientSession
) -> None:
    """W-12, W-36: nothing listens at the filler's address."""
    south = await receiver()
    address = south.url
    await south.close()
    patient = {"routes": CONFIG["routes"], "defaults": {"retry": {"first": "5m"}}}
    broker = await daemon({**patient, "directory": {"endpoints": {NORTH: "mailbox:", SOUTH: address}}})
    order = about("o1", "lab-order", "ServiceRequest/1")
    assert (await send(http, broker.base, order, query="?async=true")).status == 202

    async def was_tried() -> bool:
        text = issues_of((await send(http, broker.base, check("s0", "o1"))).json)[0]["details"]["text"]
        return "1 attempt" in str(text)

    await eventually(was_tried)
    assert await task_status(http, broker.base, "s1", "o1") == "requested"
    said = await send(http, broker.base, about("c1", "lab-order-cancel", "ServiceRequest/1"))
    assert said.status == 202
    assert problem_ids(said.body) == ["accepted", "cancelled"]
    assert await task_status(http, broker.base, "s2", "o1") == "cancelled"
    [report] = await mail(http, broker)
    assert head_of(report)["response"]["identifier"] == "o1-h"
    assert problem_ids(orjson.dumps(report["entry"][1]["resource"])) == ["cancelled"]
    await broker.kill()
    await broker.start()
    await south.open()
    await send(http, broker.base, about("o2", "lab-order", "ServiceRequest/2"), query="?async=true")
    await south.until_count(1)
    assert [got.bundle_id for got in south.got] == ["o2"]


async def test_order_that_had_left_is_followed_by_its_cancellation(
    daemon: StartDaemon, receiver: OpenReceiver, http: aiohttp.ClientSession
) -> None:
    south = await receiver()
    south.answer = lambda got: Reply(status=500) if len(south.got) == 1 else CUSTODY
    broker = await daemon({**CONFIG, "directory": {"endpoints": {NORTH: "mailbox:", SOUTH: south.url}}})
    order = about("o1", "lab-order", "ServiceRequest/1")
    assert (await send(http, broker.base, order, query="?async=true")).status == 202
    await south.until_count(1)
    cancel = about("c1", "lab-order-cancel", "ServiceRequest/1")
    assert (await send(http, broker.base, cancel, query="?async=true")).status == 202
    await south.until_count(3)
    assert [got.bundle_id for got in south.got] == ["o1", "o1", "c1"]

    async def is_taken() -> bool:
        return await task_status(http, broker.base, "s1", "o1") == "completed"

    await eventually(is_taken)
