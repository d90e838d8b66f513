"""`fhir-broker tail`: follows a mailbox by long polling, as any reader would, and prints a line a message."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from contextlib import suppress
from typing import Any
from urllib.parse import parse_qsl, quote, urlsplit

import aiohttp
import orjson
from yarl import URL

from broker.commands.ask import daemon, session, unreachable
from broker.commands.ends import Ended, Exit
from broker.commands.say import Say, at
from broker.commands.send import issue_line

WAIT = 30  # seconds that the broker holds a poll open
PAGE = 50
AGAIN = 1.0  # seconds until the next look where the broker would not wait


def tail(base_url: str, admin: str, endpoint: str | None, *, after: int | None, once: bool, say: Say) -> int:
    """Prints until interrupted; with `once`, what is there."""
    with suppress(KeyboardInterrupt):
        asyncio.run(_follow(base_url.rstrip("/"), admin, endpoint, after, once, say))
    return Exit.OK


async def _follow(base_url: str, admin: str, endpoint: str | None, after: int | None, once: bool, say: Say) -> None:
    position = after if after is not None else 0 if once else await _end(admin, endpoint)
    clock = asyncio.get_running_loop().time
    async with session(limit=WAIT * 2 + 30.0) as client:
        while True:
            asked = clock()
            page = await _page(client, base_url, endpoint, position, 0 if once else WAIT)
            lines = list(_lines(page))
            for line in lines:
                _print(line, say)
            reached = _next(page)
            if reached is None or (once and reached <= position):
                return
            if not lines and clock() - asked < AGAIN:
                await asyncio.sleep(AGAIN)
            position = reached


async def _end(admin: str, endpoint: str | None) -> int:
    """The last position there is, so that only what comes from now on is shown."""
    async with daemon(admin) as asked:
        boxes = (await asked.get("mailboxes"))["mailboxes"]
    from broker.core.addressing import name_key

    wanted = [box for box in boxes if endpoint is None or name_key(box["endpoint"]) == name_key(endpoint)]
    return max((box["last"] for box in wanted), default=0)


async def _page(
    client: aiohttp.ClientSession, base_url: str, endpoint: str | None, position: int, wait: int
) -> dict[str, Any]:
    owner = f"message.destination-uri={quote(endpoint, safe=':/')}&" if endpoint else ""
    url = f"{base_url}/Bundle?{owner}_offset={position}&_count={PAGE}"
    headers = {"Accept": "application/fhir+json"} | ({"Prefer": f"wait={wait}"} if wait else {})
    try:
        async with client.get(URL(url, encoded=True), headers=headers, allow_redirects=False) as answer:
            status, body = answer.status, await answer.read()
    except (aiohttp.ClientError, OSError, TimeoutError) as error:
        raise unreachable(base_url, error) from None
    try:
        page = orjson.loads(body)
    except orjson.JSONDecodeError:
        page = None
    if not isinstance(page, dict):
        raise Ended(Exit.FAILED, f"what answers at {base_url} is no FHIR server (HTTP {status})")
    if status != 200:
        issues = "\n".join(issue_line(issue) for issue in page.get("issue", ()))
        raise Ended(Exit.REFUSED, issues or f"the broker refused (HTTP {status})")
    return page


def _next(page: dict[str, Any]) -> int | None:
    """Where the next page starts after; the link is on the last page too."""
    for link in page.get("link", ()):
        if link.get("relation") == "next":
            for name, value in parse_qsl(urlsplit(link.get("url", "")).query):
                if name == "_offset" and value.isdigit():
                    return int(value)
    return None


def _lines(page: dict[str, Any]) -> Iterable[dict[str, Any]]:
    for entry in page.get("entry", ()):
        if entry.get("search", {}).get("mode") != "outcome":
            yield _told(entry)


def _told(entry: dict[str, Any]) -> dict[str, Any]:
    """What a line says of a message: ids, event and source, nothing of what it holds."""
    resource = entry.get("resource", {})
    first: dict[str, Any] = next(iter(resource.get("entry", ())), {})
    header = first.get("resource", {})
    source, coding = header.get("source", {}), header.get("eventCoding") or header.get("event")
    event: str | None = None
    if isinstance(coding, dict):
        event = "|".join(str(coding.get(key, "")) for key in ("system", "code"))
    return {
        "position": int(entry["id"]) if str(entry.get("id", "")).isdigit() else None,
        "id": str(entry.get("fullUrl", "")).removeprefix("urn:uuid:"),
        "kind": resource.get("resourceType"),
        "bundle_id": resource.get("id"),
        "timestamp": resource.get("timestamp"),
        "event": (event or header.get("eventUri") or header.get("eventCanonical") or "").strip("|") or None,
        "source": source.get("endpoint") or source.get("endpointUrl"),
        "response": header.get("response", {}).get("code"),
        "media_type": resource.get("contentType"),
    }


def _print(told: dict[str, Any], say: Say) -> None:
    if say.as_json:
        say.raw(orjson.dumps(told).decode())  # a line each, so that a program can follow
        return
    what = told["event"] or told["media_type"] or told["kind"]
    response = f"  response {told['response']}" if told["response"] else ""
    source = f"  from {told['source']}" if told["source"] else ""
    say.line(f"{told['position']}  {at(told['timestamp'])}  {told['id']}  {what}{source}{response}")
