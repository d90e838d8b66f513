"""The others of the demonstration: a broker as a process, the systems that it carries to, and the messages."""

from __future__ import annotations

import asyncio
import hashlib
import os
import random
import signal
import socket
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote

import aiohttp
from aiohttp import web
from yarl import URL

TOP = Path(__file__).parents[1]
MESSAGES = TOP / "tests" / "corpus" / "messages"
JSON = "application/fhir+json"


class Post:
    """A message somebody else wrote, unmodified."""

    def __init__(self, file: str) -> None:
        self.file = file
        self.body = (MESSAGES / file).read_bytes()
        self.sha256 = sha256(self.body)

    def __str__(self) -> str:
        folder, _, name = self.file.rpartition("/")
        return f"{name}, {len(self.body):,} bytes, of {folder.replace('__', '/')}"


def sha256(body: bytes) -> str:
    return hashlib.sha256(body).hexdigest()


def free_ports(count: int) -> list[int]:
    """Ports that nobody uses, below those that the system gives to outgoing connections."""
    found: list[int] = []
    for port in random.sample(range(20_000, 32_000), 1000):
        with socket.socket() as one, suppress(OSError):
            one.bind(("127.0.0.1", port))
            found.append(port)
        if len(found) == count:
            return found
    raise RuntimeError(f"this machine has no {count} free ports between 20000 and 32000")


class Daemon:
    """One `fhir-broker run`, and the commands that ask it."""

    def __init__(self, config: Path, folder: Path, ports: Mapping[str, int], name: str) -> None:
        self.config = folder / config.name
        self.config.write_bytes(config.read_bytes())
        self.log = folder / f"{name}.log"
        self._env = {
            **os.environ, **{key: str(port) for key, port in ports.items()},
            "PYTHONPATH": os.pathsep.join(filter(None, [str(TOP), os.environ.get("PYTHONPATH")])), "NO_COLOR": "1",
        }  # fmt: skip
        self.base = f"http://127.0.0.1:{ports[name.upper() + '_PORT']}/fhir"
        self._process: asyncio.subprocess.Process | None = None

    async def start(self, client: aiohttp.ClientSession) -> None:
        with self.log.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "broker",
                "run",
                "--config",
                str(self.config),
                env=self._env,
                stdout=log,
                stderr=log,
            )
        async with asyncio.timeout(30):
            while not await self._is_ready(client):
                if self._process.returncode is not None:
                    raise RuntimeError(f"the broker did not start:\n{self.log.read_text()}")
                await asyncio.sleep(0.05)

    async def _is_ready(self, client: aiohttp.ClientSession) -> bool:
        try:
            async with client.get(self.base.removesuffix("/fhir") + "/health/ready") as answer:
                return answer.status == 200
        except aiohttp.ClientError:
            return False

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def is_running(self) -> bool:
        return self._process is not None and self._process.returncode is None

    async def end(self, how: signal.Signals = signal.SIGTERM) -> int:
        assert self._process is not None
        if self._process.returncode is None:
            self._process.send_signal(how)
        return await self._process.wait()

    async def command(self, *arguments: str) -> list[str]:
        """The lines that `fhir-broker ARGUMENTS` prints."""
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "broker", *arguments, "--config", str(self.config),
            env=self._env, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
        )  # fmt: skip
        out, _ = await process.communicate()
        if process.returncode:
            raise RuntimeError(f"fhir-broker {' '.join(arguments)} ended with {process.returncode}:\n{out.decode()}")
        return out.decode().splitlines()


class Answered:
    """An HTTP answer, read to its end."""

    def __init__(self, status: int, headers: Mapping[str, str], body: bytes, json: Any) -> None:
        self.status, self.headers, self.body, self.json = status, headers, body, json


async def ask(
    client: aiohttp.ClientSession, method: str, url: str, body: bytes | None = None, **headers: str
) -> Answered:
    said = {"Accept": JSON, **({"Content-Type": JSON} if body is not None else {}), **headers}
    async with client.request(method, URL(url, encoded=True), data=body, headers=said) as answer:
        read = await answer.read()
        is_json = answer.content_type.endswith("json") and read
        return Answered(
            answer.status, answer.headers.copy(), read, await answer.json(content_type=None) if is_json else None
        )


async def poll(
    client: aiohttp.ClientSession, base: str, endpoint: str, offset: int = 0, wait: int = 15
) -> list[tuple[str, bytes]]:
    """What a mailbox holds after a position, waited for: our id of each message and its bytes as they came."""
    query = f"message.destination-uri={quote(endpoint, safe=':/')}&_offset={offset}"
    page = await ask(client, "GET", f"{base}/Bundle?{query}", Prefer=f"wait={wait}")
    ids = [entry["fullUrl"].removeprefix("urn:uuid:") for entry in page.json.get("entry", ())]
    return [(id, (await ask(client, "GET", f"{base}/Bundle/{id}")).body) for id in ids]


Answer = Callable[[bytes], Awaitable[web.Response]]


class System:
    """A system that takes messages by HTTP, as any FHIR server that knows `$process-message`."""

    def __init__(self, answer: Answer) -> None:
        self._answer = answer
        self.took: list[bytes] = []
        self.headers: list[Mapping[str, str]] = []
        self.arrived = asyncio.Event()

    async def _handle(self, request: web.Request) -> web.Response:
        body = await request.read()
        self.took.append(body)
        self.headers.append(request.headers)
        self.arrived.set()
        return await self._answer(body)

    @asynccontextmanager
    async def listening(self, port: int) -> AsyncIterator[System]:
        app = web.Application(client_max_size=64 << 20)
        for path in ("/fhir/$process-message", "/hook"):
            app.router.add_post(path, self._handle)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        try:
            await web.TCPSite(runner, "127.0.0.1", port).start()
            yield self
        finally:
            await runner.cleanup()


def says(status: int, body: bytes = b"") -> Answer:
    """Always the same answer."""

    async def answer(_: bytes) -> web.Response:
        return web.Response(status=status, body=body, headers={"Content-Type": JSON} if body else None)

    return answer


def takes_now_and_answers_later(
    client: aiohttp.ClientSession, base: str, response: bytes, delay: float, tasks: set[asyncio.Task[Any]]
) -> Answer:
    """202 at once; after a while the answer comes as a message of its own."""

    async def respond() -> None:
        await asyncio.sleep(delay)
        await ask(client, "POST", f"{base}/$process-message?async=true", response)

    async def answer(_: bytes) -> web.Response:
        task = asyncio.create_task(respond())
        tasks.add(task)
        task.add_done_callback(tasks.discard)
        return web.Response(status=202)

    return answer
