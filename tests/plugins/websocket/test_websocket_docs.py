"""The page says what is so: its example runs, and its settings are all there are."""

from __future__ import annotations

import asyncio
import dataclasses
import re
import sys
from pathlib import Path

from websocket_desk import SOON, SOUTH, Desk, eventually, message

from plugins.websocket.settings import WebSocketSettings

PAGE = (Path(__file__).parents[3] / "docs" / "websocket.md").read_text()


async def test_the_example_of_the_page_reads_a_mailbox_and_acknowledges_it(desk: Desk) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    code = code.replace("ws://127.0.0.1:8081/", f"{desk.url}/").replace("urn:oid:2.999.2.1002", SOUTH)
    body = message("shown")
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", code, stdout=asyncio.subprocess.PIPE)
    try:
        async with desk.client() as client:
            said = await client.ask(body)
        assert process.stdout is not None
        async with asyncio.timeout(SOON):
            line = (await process.stdout.readline()).decode()
        assert line == f"position {said['position']} {len(body)} bytes\n"

        async def acknowledged() -> bool:
            return any(note.what == "acknowledged" for note in await desk.broker.store.notes(said["position"]))

        await eventually(acknowledged)
    finally:
        process.kill()
        await process.wait()


def test_the_page_names_every_setting() -> None:
    for field in dataclasses.fields(WebSocketSettings):
        assert f"\n        {field.name}: " in PAGE, field.name
