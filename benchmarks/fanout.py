"""The anchor of the live notifications: the bare `websockets` server, one `broadcast()` for each message that comes.

It keeps nothing, follows nothing and pings nobody. What it sends is as long as an event of the broker's.
"""

from __future__ import annotations

import argparse
import asyncio

import uvloop
from websockets.asyncio.server import ServerConnection, broadcast, serve


async def main(port: int) -> None:
    connections: set[ServerConnection] = set()

    async def handle(connection: ServerConnection) -> None:
        assert connection.request is not None
        if connection.request.path == "/control":  # says what everybody gets
            async for message in connection:
                broadcast(connections, message)
            return
        connections.add(connection)
        try:
            async for _ in connection:
                pass
        finally:
            connections.discard(connection)

    async with serve(handle, "127.0.0.1", port, compression=None, ping_interval=None, backlog=1024, max_queue=4):
        await asyncio.Event().wait()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    uvloop.run(main(parser.parse_args().port))
