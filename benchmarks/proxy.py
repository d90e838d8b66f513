"""The anchor of the synchronous request: a plain proxy, aiohttp server and aiohttp client, that keeps nothing."""

from __future__ import annotations

import argparse
import asyncio

import aiohttp
import uvloop
from aiohttp import web


async def main(port: int, target: int) -> None:
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0), auto_decompress=False) as client:

        async def carry(request: web.Request) -> web.Response:
            body = await request.read()
            headers = {"Content-Type": request.headers["Content-Type"]}
            url = f"http://127.0.0.1:{target}{request.path_qs}"
            async with client.post(url, data=body, headers=headers) as answer:
                media_type = {"Content-Type": answer.headers["Content-Type"]}
                return web.Response(status=answer.status, body=await answer.read(), headers=media_type)

        app = web.Application(client_max_size=32 << 20)
        app.router.add_post("/{path:.*}", carry)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", port, backlog=1024).start()
        await asyncio.Event().wait()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--to", type=int, required=True, help="port of the receiver")
    options = parser.parse_args()
    uvloop.run(main(options.port, options.to))
