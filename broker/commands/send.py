"""`fhir-broker send`: posts a message to `$process-message`, and shows what is answered."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import aiohttp
import orjson
from yarl import URL

from broker.commands.ask import session, unreachable
from broker.commands.ends import Ended, Exit
from broker.commands.message import read_message
from broker.commands.say import Say

LONGEST = 120.0  # seconds to listen for the answer, beyond what was asked for with --wait
SHOWN_HEADERS = ("Location", "Content-Location", "Retry-After", "X-Refused-By", "X-Refused-At", "Content-Type")


def send(
    file: Path,
    base_url: str,
    *,
    to_url: str | None,
    asynchronous: bool,
    wait: float | None,
    say: Say,
) -> int:
    """The exit code: 3 where the message was refused."""
    body, content_type = read_message(file)
    url = to_url or f"{base_url.rstrip('/')}/$process-message"
    if asynchronous:
        url += ("&" if "?" in url else "?") + "async=true"
    headers = {"Content-Type": content_type, "Accept": "application/fhir+json"}  # a receipt to read
    if wait is not None:
        headers["Prefer"] = f"wait={math.ceil(wait)}"
    status, got, answer = asyncio.run(_post(url, body, headers, LONGEST + (wait or 0)))
    if say.as_json:
        say.json(_plain(url, status, got, answer))
    else:
        _show(status, got, answer, say)
    return Exit.OK if 200 <= status < 300 else Exit.REFUSED


async def _post(url: str, body: bytes, headers: dict[str, str], limit: float) -> tuple[int, Mapping[str, str], bytes]:
    try:
        target = URL(url, encoded=True)
        if not target.absolute or target.scheme not in ("http", "https"):
            raise ValueError(url)
    except ValueError:
        raise Ended(Exit.USAGE, f"{url} is not an http: or https: URL") from None
    try:
        async with (
            session(limit=limit) as client,
            client.post(target, data=body, headers=headers, allow_redirects=False) as answer,
        ):
            return answer.status, answer.headers.copy(), await answer.read()
    except (aiohttp.ClientError, OSError, TimeoutError) as error:
        raise unreachable(url, error) from None


def _plain(url: str, status: int, headers: Mapping[str, str], answer: bytes) -> dict[str, Any]:
    resource = _resource(answer)
    is_outcome = _kind(resource) == "OperationOutcome"
    text = answer.decode("utf-8", "replace") if answer and resource is None else None
    return {
        "url": url,
        "status": status,
        "headers": {name: headers[name] for name in SHOWN_HEADERS if name in headers},
        "outcome": resource if is_outcome else None,
        "response": None if is_outcome else resource,
        "text": text,
    }


def _show(status: int, headers: Mapping[str, str], answer: bytes, say: Say) -> None:
    say.line(f"HTTP {status}", "green" if status < 300 else "red")
    for name in SHOWN_HEADERS[:-1]:
        if name in headers:
            say.line(f"{name}: {headers[name]}")
    resource = _resource(answer)
    if _kind(resource) == "OperationOutcome" and isinstance(resource, dict):
        for issue in resource.get("issue", ()):
            say.line(issue_line(issue), "red" if issue.get("severity") in ("error", "fatal") else "")
    elif resource is not None:
        say.line(f"response: {_kind(resource) or 'no resource'}")
        say.line(orjson.dumps(resource, option=orjson.OPT_INDENT_2).decode())
    elif answer:
        say.line(answer.decode("utf-8", "replace"))


def issue_line(issue: Mapping[str, Any]) -> str:
    """One issue of an OperationOutcome: how bad, which, what, and where."""
    details = issue.get("details", {})
    ids = [coding.get("code") for coding in details.get("coding", ()) if coding.get("code")]
    where = issue.get("expression") or issue.get("location") or ()
    text = details.get("text") or issue.get("diagnostics") or "(it says no more)"
    named = f" [{', '.join(ids)}]" if ids else ""
    return f"{issue.get('severity', '?')} {issue.get('code', '?')}{named}: {text}" + (
        f"  at {', '.join(where)}" if where else ""
    )


def _resource(answer: bytes) -> Any:
    try:
        return orjson.loads(answer)
    except orjson.JSONDecodeError:
        return None


def _kind(resource: Any) -> str | None:
    return resource.get("resourceType") if isinstance(resource, dict) else None
