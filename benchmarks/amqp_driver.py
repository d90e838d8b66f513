"""The same load for RabbitMQ: a quorum queue, persistent messages with confirms, a consumer that acknowledges.

One connection publishes with --connections messages under way, another consumes; "answered" is the confirm, "settled"
that the consumer has got it. With a broker between, --into is the queue that it consumes and --out-of the one that it
publishes to, or --http is where the messages are posted to it; --settled says that it has noted them as delivered.
Prints the same JSON line as driver.py.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import resource
import time
from typing import Any
from urllib.parse import urlsplit

import aio_pika
import uvloop
from aio_pika.abc import AbstractIncomingMessage, AbstractQueue
from driver import GOOD, LONGEST, MOST, Load, call, quantile, settled
from messages import BUNDLE_ID, HEADER_ID, ID_LENGTH, IDENTIFIER, RECEIVER, fresh_ids, requests

QUEUE = "bench"
PREFETCH = 200  # unacknowledged at the consumer: enough that it never waits for the next


class Run:
    """A producer, and a consumer of the queue that its messages end in."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.copies, self.ids = requests(options.size, RECEIVER), fresh_ids()
        self.at = self.copies.at[BUNDLE_ID]
        self.into, self.settled = options.into, options.settled
        self.load = Load(options.http, self.copies) if options.http else None
        self.begin(0, 0.0)

    def begin(self, count: int, seconds: float) -> None:
        self.left, self.until = count, time.perf_counter() + seconds
        self.latencies: list[float] = []
        self.arrived: set[bytes] = set()
        self.expected = -1
        self.all_there = asyncio.Event()

    async def take(self, message: AbstractIncomingMessage) -> None:
        self.arrived.add(message.body[self.at : self.at + ID_LENGTH])
        if len(self.arrived) == self.expected:
            self.all_there.set()
        await message.ack()

    async def publish(self, exchange: aio_pika.abc.AbstractExchange) -> None:
        while self.left > 0 and time.perf_counter() < self.until:
            self.left -= 1
            one, other = next(self.ids), next(self.ids)
            body = self.copies.with_ids({BUNDLE_ID: one, IDENTIFIER: one, HEADER_ID: other})
            message = aio_pika.Message(
                body,
                delivery_mode=aio_pika.DeliveryMode.PERSISTENT,
                content_type="application/fhir+json",
                message_id=one.decode(),
            )
            started = time.perf_counter()
            await exchange.publish(message, self.into)
            self.latencies.append(time.perf_counter() - started)

    async def send(
        self, exchange: aio_pika.abc.AbstractExchange, under_way: int, count: int, seconds: float
    ) -> tuple[float, float]:
        """The seconds until all were confirmed, and until all had arrived."""
        self.begin(count, seconds)
        before = await settled(self.settled) if self.settled else 0.0
        started = time.perf_counter()
        async with asyncio.timeout(seconds + LONGEST):
            if self.load is None:
                await asyncio.gather(*(self.publish(exchange) for _ in range(under_way)))
            else:
                self.load.begin(count, seconds)
                await asyncio.gather(*(call(self.load) for _ in range(under_way)))
                self.latencies = self.load.latencies
            answered = time.perf_counter()
            self.expected = len(self.latencies)
            if len(self.arrived) < self.expected:
                await self.all_there.wait()
            while self.settled and await settled(self.settled) - before < self.expected:  # noqa: ASYNC110
                await asyncio.sleep(0.02)
        return answered - started, time.perf_counter() - started


async def declare(channel: aio_pika.abc.AbstractChannel, name: str) -> AbstractQueue:
    return await channel.declare_queue(name, durable=True, arguments={"x-queue-type": "quorum"})


async def run(options: argparse.Namespace) -> dict[str, Any]:
    if urlsplit(options.url).hostname != "127.0.0.1":
        raise SystemExit("Only loopback is driven: --url amqp://...@127.0.0.1:PORT/")
    run = Run(options)
    async with await aio_pika.connect(options.url) as sending, await aio_pika.connect(options.url) as receiving:
        channel = await sending.channel(publisher_confirms=True)
        consumer = await receiving.channel()
        await consumer.set_qos(prefetch_count=PREFETCH)
        await declare(consumer, options.into)
        queue = await declare(consumer, options.out_of)
        consuming = await queue.consume(run.take)
        exchange = channel.default_exchange
        await run.send(exchange, options.connections, options.connections * options.warm, 10.0)
        cpu = resource.getrusage(resource.RUSAGE_SELF)
        answered, ended = await run.send(
            exchange, options.connections, min(options.n, MOST), min(options.seconds, LONGEST)
        )
        after = resource.getrusage(resource.RUSAGE_SELF)
        await queue.cancel(consuming)
        if options.into == options.out_of:  # otherwise a broker goes on with them
            await queue.delete(if_unused=False, if_empty=False)
    latencies = sorted(run.latencies)
    return {
        "answered": len(latencies),
        "others": {} if run.load is None else {str(s): n for s, n in run.load.statuses.items() if s not in GOOD},
        "first_problem": "" if run.load is None else run.load.first_problem,
        "seconds": answered,
        "seconds_to_settled": ended,
        "per_second": len(latencies) / answered,
        "settled_per_second": len(latencies) / ended,
        "p50_ms": quantile(latencies, 0.5) * 1e3,
        "p99_ms": quantile(latencies, 0.99) * 1e3,
        "driver_cpu_s": after.ru_utime + after.ru_stime - cpu.ru_utime - cpu.ru_stime,
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", required=True)
    parser.add_argument("--into", default=QUEUE, help="the queue that is published to")
    parser.add_argument("--out-of", default=QUEUE, help="the queue that is consumed")
    parser.add_argument("--http", default="", help="where messages are posted instead")
    parser.add_argument("--settled", default="", help="URL of the count of settled deliveries, with #counter")
    parser.add_argument("--connections", type=int, default=64, help="messages under way")
    parser.add_argument("--n", type=int, default=20_000, help=f"messages at most (and never more than {MOST})")
    parser.add_argument("--seconds", type=float, default=4.0, help="of sending, at most")
    parser.add_argument("--size", type=int, default=4096)
    parser.add_argument("--warm", type=int, default=4, help="messages under way, times this, before the clock starts")
    print(json.dumps(uvloop.run(run(parser.parse_args()))))
