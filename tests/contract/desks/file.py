"""The desk of the channel that docs/plugins.md writes: files are dropped, and a folder is emptied."""

from __future__ import annotations

import asyncio
import itertools
import os
from pathlib import Path
from typing import Any

import msgspec
from e2e_messages import problem_ids
from plugin_page import write_files

from broker.core.attributes import from_attributes, to_attributes
from broker.core.envelope import EMPTY, Envelope
from desks.desk import JSON, WITHIN, XML, Ended, Got, How, ListeningDesk, Peer, Says

LOOK = 0.01  # seconds between two looks at a folder


class FilePeer(Peer):
    """Somebody who empties a folder. When it is not there, nobody can write into it."""

    def __init__(self, outbox: Path, name: str) -> None:
        super().__init__()
        self.address = f"file:{name}"
        self._folder, self._away = outbox / name, outbox / f".{name}"
        self._away.mkdir(parents=True)
        self._looking: asyncio.Task[None] | None = None

    async def start(self) -> None:
        self._away.rename(self._folder)
        self._looking = asyncio.create_task(self._look())

    async def stop(self) -> None:
        looking, self._looking = self._looking, None
        if looking is not None:
            looking.cancel()
            await asyncio.gather(looking, return_exceptions=True)
            self._folder.rename(self._away)

    async def _look(self) -> None:
        while True:
            for path in sorted(self._folder.glob("[!.]*")):
                if path.suffix in (".json", ".xml"):
                    beside = path.with_name(f"{path.name}.envelope")
                    told = msgspec.json.decode(beside.read_bytes())
                    got = Got(
                        body=path.read_bytes(),
                        media_type=told["mediaType"],
                        envelope=from_attributes(told["envelope"]),
                        in_reply_to=told.get("inReplyTo"),
                    )
                    path.unlink()
                    beside.unlink()
                    await self.heard(got)
            await asyncio.sleep(LOOK)


class FileDesk(ListeningDesk):
    name = "file"
    says = frozenset({Says.TAKES})  # a folder has no words, and takes what is renamed within it at once
    unusable = ("file:../etc", "file:/etc", "file:a//b", "file:", "file:link")
    has_references = True
    tries_again = True

    def __init__(self, folder: Path, server: Any = None) -> None:
        super().__init__(folder, server)
        self._inbox, self._outbox = folder / "in", folder / "out"
        self._plugins = write_files(folder)
        self._numbers = itertools.count(1)
        self._waiting = ""  # the file that was told "later"

    @staticmethod
    def a_reference(text: str) -> str:
        return f"{text}.json"

    async def open(self) -> None:
        self.peer, self._own = FilePeer(self._outbox, "south"), FilePeer(self._outbox, "north")
        await self.peer.start()
        await self._own.start()
        (self._outbox / "link").symlink_to(self.folder, target_is_directory=True)

    async def close(self) -> None:
        await self.peer.stop()
        await self._own.stop()

    def configuration(self) -> dict[str, Any]:
        block = {"inbox": str(self._inbox), "outbox": str(self._outbox), "every": "20ms"}
        return {"plugins": [str(self._plugins)], "channels": {"file": block}}

    async def hand_in(
        self,
        body: bytes,
        envelope: Envelope = EMPTY,
        *,
        media_type: str = JSON,
        reference: str | None = None,
        answer_here: bool = False,
    ) -> Ended:
        suffix = ".xml" if media_type.startswith(XML) else ".json"
        name = reference or f"{next(self._numbers)}{suffix}"
        beside = {"envelope": to_attributes(envelope), "mediaType": media_type}
        if answer_here:
            beside["replyTo"] = self._own.address
        temporary = self._inbox / f".{name}"
        temporary.with_name(f"{name}.envelope").write_bytes(msgspec.json.encode(beside))
        temporary.write_bytes(body)
        os.rename(temporary, self._inbox / name)
        return await self._ended(name)

    async def again(self, body: bytes) -> Ended:
        """The file waits in the inbox, with the reason beside."""
        (self._inbox / f"{self._waiting}.outcome").unlink()
        return await self._ended(self._waiting)

    async def _ended(self, name: str) -> Ended:
        async with asyncio.timeout(WITHIN):
            while True:
                for folder, how in (("done", How.TAKEN), ("refused", How.REFUSED), ("", How.LATER)):
                    moved = self._inbox / folder / name
                    said = moved.with_name(f"{name}.outcome")
                    if moved.exists() and said.exists():
                        [id, *_] = problem_ids(said.read_bytes())
                        if how is How.LATER:
                            self._waiting = name
                        return Ended(how=how, problem=id, duplicate=id == "duplicate")
                await asyncio.sleep(LOOK)

    async def answer(self) -> Got:
        return (await self._own.until_got(1))[0]
