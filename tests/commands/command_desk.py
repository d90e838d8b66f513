"""The command line as people call it, in front of the real admin routes and a scripted FHIR side."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson
from aiohttp import web
from aiohttp.test_utils import TestServer
from operator_desk import BOX, EHR, EHR_URL, Desk, operator_desk

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Ran:
    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return orjson.loads(self.out)


async def fhir_broker(*arguments: str, folder: Path, stdin: bytes | None = None, **env: str) -> Ran:
    """Runs the program, its output piped."""
    clean = {k: v for k, v in os.environ.items() if k not in ("NO_COLOR", "FORCE_COLOR", "FHIR_BROKER_CONFIG")}
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "broker", *arguments,
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        cwd=folder, env={**clean, "PYTHONPATH": str(ROOT), "COLUMNS": "100", **env},
    )  # fmt: skip
    out, err = await process.communicate(stdin)
    assert process.returncode is not None
    return Ran(process.returncode, out.decode(), err.decode())


@dataclass
class Fhir:
    """The partner-facing side: `answer` is called for what comes in."""

    asked: list[tuple[str, str, dict[str, str], bytes]] = field(default_factory=list)
    answer: Callable[[web.Request, bytes], Awaitable[web.StreamResponse]] | None = None

    async def handle(self, request: web.Request) -> web.StreamResponse:
        body = await request.read()
        self.asked.append((request.method, request.path_qs, dict(request.headers), body))
        assert self.answer is not None
        return await self.answer(request, body)

    def says(self, status: int, resource: Any, **headers: str) -> None:
        async def answer(_request: web.Request, _body: bytes) -> web.Response:
            return web.Response(
                status=status, body=orjson.dumps(resource), content_type="application/fhir+json", headers=headers
            )

        self.answer = answer


@dataclass
class Commands:
    desk: Desk
    fhir: Fhir
    folder: Path
    partner: str  # URL of the partner-facing side

    async def __call__(self, *arguments: str, stdin: bytes | None = None, **env: str) -> Ran:
        return await fhir_broker(*arguments, folder=self.folder, stdin=stdin, **env)

    def write(self, name: str, content: bytes) -> str:
        (self.folder / name).write_bytes(content)
        return name


CONFIGURATION = """\
broker: {{endpoint: "urn:oid:2.999", base_url: "{base}"}}
store: {{url: "sqlite:data/broker.db"}}
admin: {{listen: "{admin}"}}
channels: {{http: {{listen: "127.0.0.1:0"}}}}
directory:
  endpoints:
    {ehr}: {ehr_url}
    {box}: "mailbox:"
routes:
  - name: sick notes
    match: {{event: "*sick-leave*"}}
"""


@asynccontextmanager
async def command_desk(folder: Path) -> AsyncIterator[Commands]:
    fhir = Fhir()
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", fhir.handle)
    async with operator_desk(folder) as desk, TestServer(app) as partner:
        text = CONFIGURATION.format(
            base=str(partner.make_url("/fhir")), admin=desk.url.removeprefix("http://"), ehr=EHR, ehr_url=EHR_URL,
            box=BOX,
        )  # fmt: skip
        (folder / "broker.yaml").write_text(text)
        yield Commands(desk, fhir, folder, str(partner.make_url("/")))
