"""A RabbitMQ that stops, crashes, is short of memory, or is not there yet: nothing acknowledged is lost."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from uuid import uuid4

import psutil
import pytest
from amqp_desk import ScriptedHost, eventually, listed, opened, send, transmission, until, until_there
from rabbitmq_node import RabbitNode, rabbitmq

from broker.channel import Arrival, Deferred, Delivered
from plugins.amqp import consumer as consumer_module
from plugins.amqp.receiver import AmqpReceiver
from plugins.amqp.sender import AmqpSender
from plugins.amqp.settings import AmqpSettings, Consume

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[RabbitNode]:  # type: ignore[misc]
    """A node of this module's own, since it is stopped and started."""
    with rabbitmq(tmp_path_factory.mktemp("rabbitmq")) as started:
        yield started  # type: ignore[misc]


async def restart(node: RabbitNode, how: int = signal.SIGTERM) -> None:
    await asyncio.to_thread(node.stop, how)
    await asyncio.to_thread(node.start)


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL], ids=["stopped", "killed"])
async def test_what_was_confirmed_is_there_after_the_node_was_down(own: RabbitNode, how: int) -> None:
    """Under load, with the sender's attempts made again as the flow makes them: every message at least once."""
    queue = f"out-{uuid4()}"
    async with opened(own) as bench:
        await bench.channel.declare_queue(queue, durable=True)
    host = ScriptedHost()
    sender = AmqpSender(AmqpSettings(url=own.url), host)  # type: ignore[arg-type]
    confirmed: list[int] = []
    notes: set[str] = set()

    async def deliver(number: int) -> None:
        while True:
            end = await sender.attempt(transmission(f"amqp:?routing_key={queue}", b"%d" % number))
            if isinstance(end, Delivered):
                confirmed.append(number)
                return
            assert isinstance(end, Deferred), end
            assert end.of_peer, end
            notes.add(end.note.partition(":")[0])
            await asyncio.sleep(0.2)

    async def load() -> None:
        for number in range(0, 2000, 50):
            await asyncio.gather(*(deliver(n) for n in range(number, number + 50)))
            await asyncio.sleep(0.01)

    loading = asyncio.create_task(load())
    await until(lambda: len(confirmed) >= 100)
    await restart(own, how)
    await asyncio.wait_for(loading, 60)
    await sender.stop()
    assert "not connected" in notes
    async with opened(own) as bench:
        got = {int((await bench.get(queue)).body) for _ in range(await bench.waiting(queue))}
    assert got == set(range(2000))


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL], ids=["stopped", "killed"])
async def test_consumer_goes_on_by_itself_after_the_node_was_down(own: RabbitNode, how: int) -> None:
    """What was in hand comes again, and nothing else does; none is missing."""
    queue = f"in-{uuid4()}"
    async with opened(own) as bench:
        await bench.channel.declare_queue(queue, durable=True)
        for number in range(500):
            await bench.put(queue, b"%d" % number, delivery_mode=2)
    host = ScriptedHost()

    async def slowly(arrival: Arrival) -> None:
        await asyncio.sleep(0.01)

    host.answer = slowly
    receiver = AmqpReceiver(AmqpSettings(url=own.url, consume=(Consume(queue=queue, prefetch=5),)), host)  # type: ignore[arg-type]
    await receiver.start()
    await host.until(50)
    assert receiver.trouble == ""
    told: list[str] = []
    looking = asyncio.create_task(until(lambda: bool(told.append(receiver.trouble) or told[-1]), within=60))
    await restart(own, how)
    await looking
    assert told[-1].startswith(f"{queue}: ")
    await until(lambda: len({arrival.body for arrival in host.arrivals}) == 500, within=60)
    assert receiver.trouble == ""
    await receiver.stop()
    if how is signal.SIGTERM:  # a server that is killed forgets acknowledgements that it had not written yet
        assert len(host.arrivals) <= 500 + 5 + 5  # in hand, or acknowledged in a frame that did not arrive
    async with opened(own) as bench:
        assert await bench.waiting(queue) == 0


async def test_broker_that_starts_before_its_rabbitmq_takes_the_queue_up_once_it_is_there(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    node = RabbitNode(tmp_path / "late")
    host = ScriptedHost()
    receiver = AmqpReceiver(AmqpSettings(url=node.url, consume=(Consume(queue="late"),)), host)  # type: ignore[arg-type]
    await asyncio.wait_for(receiver.start(), 1)
    said = ""

    def is_said() -> bool:
        nonlocal said
        said += capsys.readouterr().out
        return "not consuming" in said and "connection refused" in said

    await until(is_said)
    await asyncio.to_thread(node.start)
    try:
        async with opened(node) as bench:
            await until_there(node, "late")
            await bench.put("late")
            await host.until(1, within=40)
    finally:
        await receiver.stop()
        await asyncio.to_thread(node.stop)


async def test_waits_between_tries_grow_to_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing listens there: so many tries in so many seconds, and no more."""
    monkeypatch.setattr(consumer_module, "FIRST", 0.05)
    monkeypatch.setattr(consumer_module, "LONGEST", 0.2)
    host = ScriptedHost()
    receiver = AmqpReceiver(AmqpSettings(url="amqp://127.0.0.1:1/", consume=(Consume(queue="q"),)), host)  # type: ignore[arg-type]
    tried = 0
    dial = receiver._link._dial

    async def counted(seconds: float) -> object:
        nonlocal tried
        tried += 1
        return await dial(seconds)

    monkeypatch.setattr(receiver._link, "_dial", counted)
    await receiver.start()
    await asyncio.sleep(1.0)
    await receiver.stop()
    assert 3 <= tried <= 8


async def test_server_that_is_short_of_memory_defers_and_acknowledgements_still_pass(own: RabbitNode) -> None:
    """connection.blocked: RabbitMQ reads no more from who publishes, so that publishing and consuming do not share."""
    queue = f"in-{uuid4()}"
    async with opened(own) as bench:
        await bench.channel.declare_queue(queue, durable=True)
        for number in range(20):
            await bench.put(queue, b"%d" % number)
        bench.running.append(sender := bench.sender())
        out = await bench.queue()
        assert isinstance(await send(sender, f"amqp:?routing_key={out}"), Delivered)
        await asyncio.to_thread(own.control, "set_vm_memory_high_watermark", "0")
        try:
            first = await send(sender, f"amqp:?routing_key={out}", b"under way", answer=timedelta(seconds=1))
            assert isinstance(first, Deferred)  # it has left: whether it arrives is not known yet
            assert (first.of_peer, first.left) == (True, True)
            blocked = await send(sender, f"amqp:?routing_key={out}")
            assert isinstance(blocked, Deferred)
            assert (blocked.of_peer, blocked.left) == (True, False)
            assert blocked.note.startswith("blocked: the server is short of memory")
            assert blocked.retry_after == timedelta(seconds=5)
            bench.running.append(
                receiver := AmqpReceiver(bench.settings(consume=(Consume(queue=queue, prefetch=3),)), bench.host)
            )  # type: ignore[arg-type]
            await receiver.start()
            await bench.host.until(20)

            async def is_acknowledged() -> bool:
                return (await listed(own))[queue] == (0, 0)

            await eventually(is_acknowledged)
        finally:
            await asyncio.to_thread(own.control, "set_vm_memory_high_watermark", "0.4")

        async def is_delivered() -> bool:
            return isinstance(await send(sender, f"amqp:?routing_key={out}", b"after"), Delivered)

        await eventually(is_delivered)
        bodies = [(await bench.get(out)).body for _ in range(3)]
        assert bodies[1:] == [b"under way", b"after"]


async def test_connection_that_an_operator_closes_is_made_anew(own: RabbitNode) -> None:
    queue, host = f"in-{uuid4()}", ScriptedHost()
    settings = AmqpSettings(url=own.url, consume=(Consume(queue=queue),))
    receiver, sender = AmqpReceiver(settings, host), AmqpSender(settings, host)  # type: ignore[arg-type]
    await receiver.start()
    await until_there(own, queue)
    assert isinstance(await send(sender, f"amqp:?routing_key={queue}"), Delivered)
    await host.until(1)
    await asyncio.to_thread(own.control, "close_all_connections", "an operator says so")
    assert isinstance(await send(sender, f"amqp:?routing_key={queue}"), Delivered)
    await host.until(2)
    await receiver.stop()
    await sender.stop()


async def test_server_that_falls_silent_is_noticed_by_its_heartbeat(own: RabbitNode) -> None:
    """SIGSTOP: the connection stays open, and nothing comes of it."""
    async with opened(own) as bench:
        queue = await bench.queue()
        sender = bench.sender(heartbeat=timedelta(seconds=1))
        assert isinstance(await send(sender, f"amqp:?routing_key={queue}"), Delivered)
        machine = own.pids[-1]
        os.kill(machine, signal.SIGSTOP)
        await until(lambda: psutil.Process(machine).status() == psutil.STATUS_STOPPED)  # all of its threads
        try:
            end = await send(sender, f"amqp:?routing_key={queue}", answer=timedelta(seconds=20))
        finally:
            os.kill(machine, signal.SIGCONT)
        assert isinstance(end, Deferred)
        assert (end.of_peer, end.left) == (True, True)
        assert "no sign of life" in end.note
        assert isinstance(await send(sender, f"amqp:?routing_key={queue}"), Delivered)


async def test_broker_that_stops_does_not_wait_for_a_server_that_is_silent(own: RabbitNode) -> None:
    async with opened(own) as bench:
        queue = await bench.queue()
        sender = AmqpSender(bench.settings(), bench.host)  # type: ignore[arg-type]
        receiver = AmqpReceiver(bench.settings(consume=(Consume(queue=queue),)), bench.host)  # type: ignore[arg-type]
        await receiver.start()
        assert isinstance(await send(sender, f"amqp:?routing_key={queue}"), Delivered)
        await bench.host.until(1)
        machine = own.pids[-1]
        os.kill(machine, signal.SIGSTOP)
        try:
            async with asyncio.timeout(30):
                await asyncio.gather(sender.stop(), receiver.stop())
        finally:
            os.kill(machine, signal.SIGCONT)
