"""The commands against a running broker: what they print, and how they end."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import msgspec
import pytest
from command_desk import Commands, fhir_broker
from operator_desk import BOX, EHR, EHR_URL, LANE, NOW, SOURCE, delivery, mail, message_bytes

from broker import __version__
from broker.core.delivery import State
from broker.core.policy import DEFAULT, Order
from broker.serving import listen

OK, FAILED, USAGE, REFUSED, UNREACHABLE = 0, 1, 2, 3, 4


# -- looking


async def test_trace_tells_the_story_in_plain_lines(desk: Commands) -> None:
    position = await desk.desk.dead()
    ran = await desk("trace", "bundle-1")
    assert (ran.code, ran.err) == (OK, "")
    lines = ran.out.splitlines()
    assert lines[0] == f"message {desk.desk.id(position)}"
    assert "  1  dead      urn:oid:1.2.2001 at " + EHR_URL in lines
    assert any(line.startswith("  2026-11-21 10:00:00.000Z  received") for line in lines)
    assert any(" refused " in line and "refused-by-receiver" in line for line in lines)
    assert "\x1b" not in ran.out


async def test_trace_as_json_is_the_api_s_own_answer(desk: Commands) -> None:
    position = await desk.desk.accept()
    ran = await desk("trace", desk.desk.id(position), "--json")
    told = ran.json
    assert (ran.code, told["position"]) == (OK, position)
    assert told["story"][0]["what"] == "received"


async def test_trace_can_print_the_bytes(desk: Commands) -> None:
    position = await desk.desk.accept()
    ran = await desk("trace", desk.desk.id(position), "--body")
    assert (ran.code, ran.out.encode()) == (OK, message_bytes())


async def test_an_unknown_message_fails_with_a_clear_text(desk: Commands) -> None:
    ran = await desk("trace", "nothing")
    assert (ran.code, ran.out) == (FAILED, "")
    assert "no message has this id" in ran.err
    assert "Traceback" not in ran.err


async def test_an_id_of_several_messages_lists_them(desk: Commands) -> None:
    first = await desk.desk.accept()
    await desk.desk.accept(source="urn:oid:1.2.1002")
    ran = await desk("trace", "bundle-1")
    assert ran.code == FAILED
    assert desk.desk.id(first) in ran.err
    assert "urn:oid:1.2.1002" in ran.err


async def test_mailboxes_are_listed_and_looked_into(desk: Commands) -> None:
    position = await desk.desk.accept(to=BOX, deliveries=(mail(),))
    listed, read = await asyncio.gather(desk("mailbox", "ls"), desk("mailbox", "read", BOX))
    assert (listed.code, read.code) == (OK, OK)
    assert listed.out.splitlines()[1].split() == [BOX, "1", "1", str(position)]
    assert desk.desk.id(position) in read.out
    assert "unread" in read.out
    page = (await desk("mailbox", "read", BOX, "--json")).json
    assert page["messages"][0]["position"] == position


async def test_dead_letters_are_listed_shown_redriven_and_dropped(desk: Commands) -> None:
    first, second = await desk.desk.dead(1), await desk.desk.dead(2)
    ran = await desk("dead", "ls")
    assert (ran.code, len(ran.out.splitlines())) == (OK, 3)
    shown = await desk("dead", "show", desk.desk.id(first))
    assert "try again: fhir-broker dead redrive" in shown.out
    assert (await desk("dead", "redrive", desk.desk.id(first))).out == "1 dead letter on the way again\n"
    dropped = await desk("dead", "drop", desk.desk.id(second), "--reason", "sent by letter")
    assert (dropped.code, dropped.out.split(" given")[0]) == (OK, "1 dead letter")
    assert (await desk("dead", "ls")).out == "no dead letters\n"
    assert (await desk.desk.store.deliveries(first))[0].state is State.WAITING
    assert (await desk("dead", "show", desk.desk.id(first))).code == FAILED


async def test_all_dead_letters_go_at_once_and_what_stays_is_said(desk: Commands) -> None:
    await desk.desk.dead(1)
    await desk.desk.dead(2, expirytime=NOW)
    ran = await desk("dead", "redrive", "--all")
    assert (ran.code, ran.out.splitlines()[0]) == (REFUSED, "1 dead letter on the way again")
    assert "(expired)" in ran.out


async def test_held_stream_is_shown_and_goes_on_at_a_word(desk: Commands) -> None:
    assert "in none does anything wait" in (await desk("streams", "ls")).out
    planned = (
        delivery(policy=msgspec.structs.replace(DEFAULT, order=Order.SOURCE, on_refused="hold"), stream=b"s" * 16),
    )
    dead = desk.desk.id(await desk.desk.dead(1, deliveries=planned))
    waiting = desk.desk.id(await desk.desk.accept(2, deliveries=planned))
    listed, shown, trace = await asyncio.gather(
        desk("streams", "ls"), desk("dead", "show", dead), desk("trace", waiting)
    )
    assert listed.out.splitlines()[1].split()[:5] == [EHR, "source", SOURCE, "1", waiting]
    assert dead in listed.out
    assert f"fhir-broker streams resume {dead}" in shown.out
    assert f"its stream is held by the dead letter of {dead}" in trace.out
    resumed = await desk("streams", "resume", dead)
    assert (resumed.code, resumed.out) == (OK, f"what waited goes on; {dead} stays dead\n")
    again = await desk("streams", "resume", dead)
    assert (again.code, "not-held" in again.err) == (REFUSED, True)


async def test_trace_says_behind_which_message_one_waits(desk: Commands) -> None:
    planned = (delivery(policy=msgspec.structs.replace(DEFAULT, order=Order.SOURCE), stream=b"s" * 16),)
    first, second = [desk.desk.id(await desk.desk.accept(n, deliveries=planned)) for n in (1, 2)]
    assert f"behind {first}, 1 of its stream before it" in (await desk("trace", second)).out


async def test_lanes_and_directory_are_listed(desk: Commands) -> None:
    await desk.desk.accept()
    lanes, names = await asyncio.gather(desk("lanes", "ls"), desk("directory", "ls"))
    assert lanes.out.splitlines()[1].split()[:3] == [LANE, "open", "1"]
    assert names.out.splitlines()[1].split()[:3] == [EHR, "exact", EHR_URL]
    assert (await desk("directory", "ls", "--json")).json["total"] == 2


async def test_lookup_says_where_a_name_leads_or_fails(desk: Commands) -> None:
    found, unknown = await asyncio.gather(
        desk("directory", "lookup", EHR), desk("directory", "lookup", "urn:oid:1.2.2002")
    )
    assert (found.code, f"  => {EHR_URL}" in found.out) == (OK, True)
    assert (unknown.code, f"did you mean {EHR}?" in unknown.out) == (FAILED, True)


async def test_refresh_reads_the_directory(desk: Commands) -> None:
    (desk.folder / "directory" / "more.yaml").write_text('endpoints:\n  urn:oid:1.2.9: "mailbox:"\n')
    ran = await desk("directory", "refresh")
    assert (ran.code, ran.out.splitlines()[0].split(",")[0]) == (OK, "3 names")


# -- route


@pytest.mark.parametrize("how", [(), ("--offline",)])
async def test_route_explains_with_and_without_a_broker(desk: Commands, how: tuple[str, ...]) -> None:
    file = desk.write("message.json", message_bytes())
    ran = await desk("route", file, *how)
    assert (ran.code, ran.err) == (OK, "")
    assert "rule 'sick notes' matches and decides" in ran.out
    assert f"=> {EHR_URL}" in ran.out
    told = (await desk("route", file, "--json", *how)).json
    assert told["verdict"] == "accepted"


async def test_a_message_that_would_be_refused_ends_with_3(desk: Commands) -> None:
    desk.write("unknown.json", message_bytes(to="urn:oid:7.7"))
    for how in ((), ("--offline",)):
        ran = await desk("route", "unknown.json", *how)
        assert (ran.code, "refused (unknown-destination)" in ran.out) == (REFUSED, True)


async def test_what_is_no_message_is_refused_by_id(desk: Commands) -> None:
    for how in ((), ("--offline",)):
        ran = await desk("route", "-", *how, stdin=b'{"resourceType":"Patient"}')
        assert (ran.code, "(not-a-bundle)" in ran.err) == (REFUSED, True), ran


# -- ends


async def test_a_broker_that_is_not_there_ends_with_4(tmp_path: Path) -> None:
    ran = await fhir_broker("lanes", "ls", "--admin", "127.0.0.1:9", folder=tmp_path)
    assert (ran.code, "cannot reach the broker at http://127.0.0.1:9" in ran.err) == (UNREACHABLE, True)
    ran = await fhir_broker("lanes", "ls", "--admin", f"unix:{tmp_path}/no.sock", folder=tmp_path)
    assert (ran.code, "no.sock" in ran.err) == (UNREACHABLE, True)


async def test_no_configuration_ends_with_2_and_says_what_to_do(tmp_path: Path) -> None:
    ran = await fhir_broker("trace", "x", folder=tmp_path)
    assert (ran.code, "fhir-broker init" in ran.err) == (USAGE, True)


async def test_a_configuration_with_mistakes_ends_with_2_and_names_them(tmp_path: Path) -> None:
    (tmp_path / "broker.yaml").write_text("brokr: {}\n")
    for command in (("trace", "x"), ("run",)):
        ran = await fhir_broker(*command, folder=tmp_path)
        assert (ran.code, "broker.yaml:1:1: unknown key" in ran.err) == (USAGE, True)
    ran = await fhir_broker("check", folder=tmp_path)
    assert (ran.code, "unknown key `brokr`" in ran.out) == (USAGE, True)


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        (("trcae", "x"), "Did you mean 'trace'?"),
        (("dead", "drop", "x"), "--reason"),
        (("dead", "redrive"), "--all"),
        (("dead", "redrive", "x", "--all"), "--all"),
        (("send", "x.json", "--wait", "soon", "--to-url", "http://x"), "5s"),
        (("send", "x.json", "--wait", "5s", "--async", "--to-url", "http://x"), "--async does not wait"),
        (("mailbox", "read", "x", "--limit", "0"), "--limit"),
    ],
)
async def test_wrong_usage_ends_with_2_and_helps(tmp_path: Path, arguments: tuple[str, ...], hint: str) -> None:
    (tmp_path / "x.json").write_text("{}")
    at = () if arguments[0] in ("trcae", "send") else ("--admin", "127.0.0.1:9")
    ran = await fhir_broker(*arguments, *at, folder=tmp_path)
    assert (ran.code, hint in ran.err) == (USAGE, True), ran


async def test_a_stranger_on_the_admin_port_is_not_taken_for_a_broker(desk: Commands) -> None:
    for status, said in ((200, "hello"), (404, {"resourceType": "OperationOutcome"}), (302, {})):
        desk.fhir.says(status, said)
        ran = await desk("lanes", "ls", "--admin", desk.partner)
        assert (ran.code, "no fhir-broker" in ran.err) == (FAILED, True)


async def test_the_configuration_comes_from_option_environment_or_the_usual_places(desk: Commands) -> None:
    (desk.folder / "config").mkdir()
    (desk.folder / "broker.yaml").rename(desk.folder / "config" / "broker.yaml")
    assert (await desk("lanes", "ls")).code == OK
    (desk.folder / "config" / "broker.yaml").rename(desk.folder / "other.yaml")
    assert (await desk("lanes", "ls")).code == USAGE
    assert (await desk("lanes", "ls", "--config", "other.yaml")).code == OK
    assert (await desk("lanes", "ls", FHIR_BROKER_CONFIG="other.yaml")).code == OK


async def test_the_admin_interface_may_be_a_unix_socket(desk: Commands) -> None:
    socket = desk.folder / "admin.sock"
    await desk.desk.accept()
    runner = await listen(desk.desk.app, f"unix:{socket}")
    try:
        ran = await desk("lanes", "ls", "--admin", f"unix:{socket}", "--json")
    finally:
        await runner.server.shutdown() if runner.server else None
        for site in list(runner.sites):
            await site.stop()
    assert (ran.code, ran.json["lanes"][0]["lane"]) == (OK, LANE)


async def test_help_comes_quickly_and_names_every_command(tmp_path: Path) -> None:
    started = time.perf_counter()
    ran = await fhir_broker("--help", folder=tmp_path)
    took = time.perf_counter() - started
    assert ran.code == OK
    for command in ("run", "check", "schema", "init", "send", "route", "trace", "tail", "mailbox", "dead", "lanes",
                    "directory", "version"):  # fmt: skip
        assert f"\n  {command} " in ran.out
    assert took < 5  # a tenth of that on an idle machine; what must not happen is that all of FHIR is imported
    ran = await fhir_broker("version", folder=tmp_path)
    assert ran.out.startswith(f"fhir-broker {__version__} ")
    assert (await fhir_broker("version", "--json", folder=tmp_path)).json["version"] == __version__


async def test_help_imports_nothing_heavy(tmp_path: Path) -> None:
    ran = await fhir_broker("--help", folder=tmp_path, PYTHONPROFILEIMPORTTIME="1")
    imported = {line.rpartition("|")[2].strip() for line in ran.err.splitlines()}
    assert not imported & {"fhir.resources", "aiohttp", "pydantic", "ruamel.yaml", "rich", "broker.config"}


async def test_schema_and_init_and_check_are_wired(tmp_path: Path) -> None:
    assert (await fhir_broker("init", folder=tmp_path)).code == OK
    assert (tmp_path / "broker.yaml").is_file()
    assert (await fhir_broker("init", folder=tmp_path)).code == FAILED
    assert (await fhir_broker("check", folder=tmp_path)).code == OK
    assert (await fhir_broker("check", "--json", folder=tmp_path)).json["ok"] is True
    assert (await fhir_broker("schema", folder=tmp_path)).json["title"] == "fhir-broker"


async def test_several_deliveries_are_numbered(desk: Commands) -> None:
    await desk.desk.accept(deliveries=(delivery(), mail()))
    ran = await desk("trace", "bundle-1")
    assert f"[2] put into the mailbox of {BOX}" in ran.out
    assert f"  mailbox of {BOX}: nobody has read it" in ran.out
