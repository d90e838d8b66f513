"""`send` posts as any client would, `tail` reads as any client would."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from typing import Any

import orjson
from aiohttp import web
from command_desk import ROOT, Commands, fhir_broker
from operator_desk import BOX, mail, message_bytes

RECEIPT = {
    "resourceType": "OperationOutcome",
    "issue": [
        {
            "severity": "information", "code": "informational",
            "details": {"coding": [{"code": "accepted"}, {"code": "7e57"}], "text": "Accepted: kept as 7e57."},
        }
    ],
}  # fmt: skip
REFUSAL = {
    "resourceType": "OperationOutcome",
    "issue": [
        {
            "severity": "error", "code": "not-found", "expression": ["Bundle.entry[0].resource.destination[0]"],
            "details": {"coding": [{"code": "unknown-destination"}], "text": "not in the directory"},
        }
    ],
}  # fmt: skip


async def test_send_posts_the_bytes_and_prints_the_outcome(desk: Commands) -> None:
    desk.fhir.says(202, RECEIPT, **{"Content-Location": "http://x/status/7e57"})
    ran = await desk("send", desk.write("m.json", message_bytes()))
    assert (ran.code, ran.err) == (0, "")
    assert ran.out.splitlines() == [
        "HTTP 202",
        "Content-Location: http://x/status/7e57",
        "information informational [accepted, 7e57]: Accepted: kept as 7e57.",
    ]
    ((method, path, headers, body),) = desk.fhir.asked
    assert (method, path, body) == ("POST", "/fhir/$process-message", message_bytes())
    assert headers["Content-Type"] == "application/fhir+json"


async def test_send_asks_to_wait_or_not_to(desk: Commands) -> None:
    desk.fhir.says(202, RECEIPT)
    file = desk.write("m.json", message_bytes())
    await desk("send", file, "--async")
    await desk("send", file, "--wait", "1500ms")
    (_, at_once, headers, _), (_, waiting, more, _) = desk.fhir.asked
    assert (at_once, "Prefer" in headers) == ("/fhir/$process-message?async=true", False)
    assert (waiting, more["Prefer"]) == ("/fhir/$process-message", "wait=2")


async def test_a_refused_message_ends_with_3_and_says_why(desk: Commands) -> None:
    desk.fhir.says(404, REFUSAL)
    ran = await desk("send", desk.write("m.json", message_bytes()))
    assert (ran.code, ran.out.splitlines()[0]) == (3, "HTTP 404")
    text = "error not-found [unknown-destination]: not in the directory  at Bundle.entry[0].resource.destination[0]"
    assert ran.out.splitlines()[1] == text


async def test_a_response_is_printed(desk: Commands) -> None:
    desk.fhir.says(200, orjson.loads(message_bytes(2)))
    ran = await desk("send", "-", stdin=message_bytes())
    assert (ran.code, ran.out.splitlines()[1]) == (0, "response: Bundle")
    assert '"id": "bundle-2"' in ran.out
    told = (await desk("send", "-", "--json", stdin=message_bytes())).json
    assert (told["status"], told["outcome"], told["response"]["id"]) == (200, None, "bundle-2")


async def test_xml_is_sent_as_xml_wherever_it_is_sent_to(desk: Commands) -> None:
    desk.fhir.says(202, RECEIPT)
    url = f"http://127.0.0.1:{desk.desk.client.port}/nothing"
    ran = await desk("send", desk.write("m.xml", b"\xef\xbb\xbf <Bundle/>"))
    assert (ran.code, desk.fhir.asked[0][2]["Content-Type"]) == (0, "application/fhir+xml")
    assert (await desk("send", "m.xml", "--to-url", url)).code == 3


async def test_a_file_that_is_not_there_fails_and_a_dead_host_is_4(desk: Commands) -> None:
    ran = await desk("send", "nothing.json")
    assert (ran.code, ran.err) == (1, "nothing.json cannot be read: No such file or directory\n")
    assert (await desk("send", "-", stdin=b" ")).code == 1
    assert (await desk("send", "-", "--to-url", "http://127.0.0.1:9/", stdin=b"{}")).code == 4
    assert (await desk("send", "-", "--to-url", "mailto:x", stdin=b"{}")).code == 2


# -- tail


def page(messages: list[tuple[int, bytes]], reached: int, url: str) -> dict[str, Any]:
    entries = [
        {"id": str(at), "fullUrl": f"urn:uuid:ours-{at}", "resource": orjson.loads(body), "search": {"mode": "match"}}
        for at, body in messages
    ]
    link = [{"relation": "next", "url": f"{url}?message.destination-uri={BOX}&_offset={reached}"}]
    return {"resourceType": "Bundle", "type": "searchset", "link": link, "entry": entries}


def mailbox(desk: Commands, messages: dict[int, bytes]) -> None:
    """A mailbox that waits a while when it has no more."""

    async def answer(request: web.Request, _body: bytes) -> web.Response:
        after = int(request.query["_offset"])
        rest = [(at, body) for at, body in sorted(messages.items()) if at > after]
        if not rest and "Prefer" in request.headers:
            await asyncio.sleep(0.2)
            rest = [(at, body) for at, body in sorted(messages.items()) if at > after]
        found = rest[:2]
        reached = found[-1][0] if found else after
        return web.json_response(page(found, reached, str(request.url.with_query(None))))

    desk.fhir.answer = answer


async def test_tail_once_prints_a_line_a_message(desk: Commands) -> None:
    mailbox(desk, {at: message_bytes(at, to=BOX) for at in (3, 5, 9)})
    ran = await desk("tail", BOX, "--once")
    assert (ran.code, ran.err) == (0, "")
    assert [line.split()[0] for line in ran.out.splitlines()] == ["3", "5", "9"]
    assert "ours-9  http://example.org/events|sick-leave  from urn:oid:1.2.1001" in ran.out
    assert f"message.destination-uri={BOX}" in desk.fhir.asked[0][1]
    told = [orjson.loads(line) for line in (await desk("tail", BOX, "--once", "--json")).out.splitlines()]
    assert [one["bundle_id"] for one in told] == ["bundle-3", "bundle-5", "bundle-9"]
    assert (await desk("tail", BOX, "--once", "--after", "5")).out.startswith("9 ")


async def test_tail_follows_from_now_on_until_it_is_interrupted(desk: Commands) -> None:
    last = await desk.desk.accept(to=BOX, deliveries=(mail(),))
    messages = {last: message_bytes()}
    mailbox(desk, messages)
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "broker", "tail", BOX, cwd=desk.folder, stdout=asyncio.subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert process.stdout is not None
    async with asyncio.timeout(30):
        while not desk.fhir.asked:  # noqa: ASYNC110
            await asyncio.sleep(0.02)
        messages[last + 4] = message_bytes(4, to=BOX)
        line = await process.stdout.readline()
        assert line.split()[0] == str(last + 4).encode()
        process.send_signal(signal.SIGINT)
        assert await process.wait() == 0
    await process.communicate()
    assert desk.fhir.asked[0][2]["Prefer"] == "wait=30"
    assert f"_offset={last}" in desk.fhir.asked[0][1]


async def test_tail_says_when_the_broker_refuses(desk: Commands) -> None:
    desk.fhir.says(410, REFUSAL)
    ran = await desk("tail", BOX, "--after", "1")
    assert (ran.code, "unknown-destination" in ran.err) == (3, True)


async def test_odd_entries_never_spoil_the_tail(desk: Commands) -> None:
    binary = orjson.dumps({"resourceType": "Binary", "contentType": "application/fhir+xml"})
    empty = orjson.dumps({"resourceType": "Bundle", "entry": []})
    mailbox(desk, {1: binary, 2: empty})
    ran = await desk("tail", BOX, "--once")
    assert (ran.code, len(ran.out.splitlines())) == (0, 2)
    assert "application/fhir+xml" in ran.out


async def test_what_is_no_fhir_server_is_said(desk: Commands) -> None:
    async def answer(_request: web.Request, _body: bytes) -> web.Response:
        return web.Response(text="<html>")

    desk.fhir.answer = answer
    ran = await desk("tail", BOX, "--once")
    assert (ran.code, "no FHIR server" in ran.err) == (1, True)


async def test_a_reader_that_goes_away_is_no_failure(desk: Commands) -> None:
    for number in range(3):
        await desk.desk.dead(number)
    command = f"{sys.executable} -m broker dead ls --json | head -c 1"
    process = await asyncio.create_subprocess_shell(
        command, cwd=desk.folder, env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    _, err = await process.communicate()
    assert b"Traceback" not in err


async def test_a_listener_beyond_loopback_is_reached_on_loopback(desk: Commands) -> None:
    from broker.commands import where

    assert where.admin("0.0.0.0:8079", None) == "http://127.0.0.1:8079"
    assert where.admin("[::]:8079", None) == "http://[::1]:8079"
    assert where.admin("http://127.0.0.1:1/", None) == "http://127.0.0.1:1"
    ran = await fhir_broker("lanes", "ls", "--admin", "127.0.0.1:0", folder=desk.folder)
    assert (ran.code, "--admin" in ran.err) == (2, True)
