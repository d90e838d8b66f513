"""A private RabbitMQ: started on free ports, keeps what it confirmed through a crash, leaves nothing behind."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
import time
from pathlib import Path

import aio_pika
import psutil
import pytest
import rabbitmq_node
from rabbitmq_node import RabbitNode, free_port, rabbitmq

pytestmark = pytest.mark.slow


async def put_and_get(url: str, body: bytes | None) -> bytes | None:
    """Publishes with a confirm, or takes what is in a durable quorum queue."""
    async with await aio_pika.connect(url) as connection:
        channel = await connection.channel(publisher_confirms=True)
        queue = await channel.declare_queue("kept", durable=True, arguments={"x-queue-type": "quorum"})
        if body is not None:
            message = aio_pika.Message(body, delivery_mode=aio_pika.DeliveryMode.PERSISTENT)
            await channel.default_exchange.publish(message, queue.name)
            return None
        got = await queue.get(timeout=20, fail=False)
        return got.body if got else None


def test_a_node_started_anew_has_what_it_kept_on_the_same_port(tmp_path: Path) -> None:
    with rabbitmq(tmp_path) as node:
        asyncio.run(put_and_get(node.url, b"as it came"))
        node.stop()
        assert node.pids == ()
        node.start()
        assert asyncio.run(put_and_get(node.url, None)) == b"as it came"


def test_two_nodes_stand_side_by_side_and_leave_no_process_behind(tmp_path: Path) -> None:
    with rabbitmq(tmp_path / "one") as one, rabbitmq(tmp_path / "other") as other:
        below = [psutil.Process(pid) for pid in (*one.pids, *other.pids)]
        below += [child for process in below for child in process.children(recursive=True)]
        assert one.port != other.port
        for connection in [c for process in below for c in process.net_connections() if c.status == "LISTEN"]:
            assert connection.laddr.ip in ("127.0.0.1", "::1"), "RabbitMQ is to be reached from this machine alone"
    gone, alive = psutil.wait_procs(below, timeout=20)
    assert [process for process in alive if process.status() != psutil.STATUS_ZOMBIE] == []
    assert len(gone) + len(alive) == len(below)


def test_as_a_program_it_runs_until_it_is_told_to_end(tmp_path: Path) -> None:
    port = free_port()
    command = [sys.executable, rabbitmq_node.__file__, "--folder", str(tmp_path), "--port", str(port)]
    process = subprocess.Popen(command)
    try:
        deadline = time.monotonic() + 60
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                break
            except OSError:
                assert time.monotonic() < deadline, "it did not start"
                assert process.poll() is None, "it ended"
                time.sleep(0.1)
        below = psutil.Process(process.pid).children(recursive=True)
        assert below
    finally:
        process.terminate()
        assert process.wait(30) == 0
    _, alive = psutil.wait_procs(below, timeout=20)
    assert [child for child in alive if child.status() != psutil.STATUS_ZOMBIE] == []


def test_a_node_that_cannot_start_says_what_the_server_said(tmp_path: Path) -> None:
    node = RabbitNode(tmp_path)
    (tmp_path / "rabbitmq.conf").write_text("no.such.setting = 1\n")
    with pytest.raises(RuntimeError, match=r"does not listen(.|\n)*no\.such\.setting"):
        node.start()
    assert node.pids == ()
