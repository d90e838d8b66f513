"""`make demo`: real messages pass through real brokers; ends by itself, with 0 if all went as it should."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import aiohttp
from parties import (
    Daemon,
    Post,
    System,
    ask,
    free_ports,
    poll,
    says,
    sha256,
    takes_now_and_answers_later,
)
from show import Show
from subscribers import subscribers

HERE = Path(__file__).parent
NAMES = ("HERE", "HERE_ADMIN", "NEXT", "NEXT_ADMIN", "ACME", "REGISTRY", "LAB", "CLINIC", "REFUSER", "SOCKET", "HOOK")
PATIENCE = 30.0  # seconds for anything that must happen
RECORDS = "nightingaleproject__vital_records_fhir_messaging_ig"
REFUSAL = {
    "resourceType": "OperationOutcome",
    "issue": [
        {
            "severity": "error",
            "code": "value",
            "details": {"text": "2.16F578 is no object identifier; this register has no such HER-id"},
            "expression": ["Bundle.entry[0].resource.destination[0].endpoint"],
        }
    ],
}


class Stage:
    """What all scenes share."""

    def __init__(self, folder: Path, client: aiohttp.ClientSession, show: Show) -> None:
        self.client, self.show = client, show
        ports = {f"{name}_PORT": port for name, port in zip(NAMES, free_ports(len(NAMES)), strict=True)}
        self.ports = ports
        (folder / "topics.yaml").write_bytes((HERE / "topics.yaml").read_bytes())
        self.here = Daemon(HERE / "broker.yaml", folder, ports, "here")
        self.next = Daemon(HERE / "next.yaml", folder, ports, "next")
        self.tasks: set[asyncio.Task[Any]] = set()
        self.passed: list[Post] = []

    def same(self, what: str, post: Post, got: bytes | None) -> None:
        """The proof that not one byte was changed."""
        self.passed.append(post)
        self.show.check(
            f"{what}, byte for byte: sha256 {post.sha256[:12]}… in, {sha256(got or b'')[:12]}… out",
            got == post.body,
        )

    async def trace(self, daemon: Daemon, id: str) -> None:
        self.show.command(f"fhir-broker trace {id}", await daemon.command("trace", id))

    async def state(self, id: str) -> Any:
        return json.loads("\n".join(await self.here.command("trace", id, "--json")))

    async def until(self, what: str, holds: Callable[[], Awaitable[bool]]) -> None:
        try:
            async with asyncio.timeout(PATIENCE):
                while not await holds():  # noqa: ASYNC110 (what is waited for is in another process)
                    await asyncio.sleep(0.1)
        except TimeoutError:
            self.show.check(f"{what} (not within {PATIENCE:.0f} s)", False)


def id_of(url: str) -> str:
    """Our id, from the status URL that a receipt has."""
    return url.rstrip("/").rpartition("/")[2]


async def question(stage: Stage) -> None:
    show = stage.show
    asked = Post("google__fhir/1.0.2__package__Bundle-10bb101f-a121-4264-a920-67be9cb82c74.json")
    told = Post("google__fhir/Bundle-3a0707d3-549e-4467-b8b8-5a2ab3800efe.json")
    show.scene(1, "A question, and its answer in the same exchange (HL7's own pair, DSTU2 and R4)", """
        A small EHR asks Acme Healthcare to link two patient records, in a FHIR of 2015; Acme answers with a response
        message in R4. The caller just waits on its POST.""")  # fmt: skip
    acme = System(says(200, told.body))
    async with acme.listening(stage.ports["ACME_PORT"]):
        show.step("→", "POST $process-message", asked)
        began = time.perf_counter()
        answer = await ask(stage.client, "POST", f"{stage.here.base}/$process-message", asked.body)
        took = (time.perf_counter() - began) * 1000
    show.step("←", f"{answer.status} after {took:.0f} ms, with the response message", told)
    show.check("the caller has 200 and its answer", answer.status == 200)
    stage.same("the question, at Acme", asked, acme.took[0] if acme.took else None)
    stage.same("the answer, at the caller", told, answer.body)
    await stage.trace(stage.here, "efdd254b-0e09-4164-883e-35cf3871715f")


async def later(stage: Stage) -> None:
    show = stage.show
    coded = Post(f"{RECORDS}/demographics_coding_response_message_537_example.json")
    acknowledged = Post(f"{RECORDS}/demographics_acknowledgement_message_537_example.json")
    show.scene(2, "An answer that comes later (USA: vital records, CDC/NCHS and a state's registry)", """
        The National Center for Health Statistics sends a coded death record to the registry of a state. The registry
        takes it with 202 and acknowledges it two seconds later, with a message of its own, addressed to a name in
        capitals. The sender has no server: its answer lies in its mailbox.""")  # fmt: skip
    registry = System(takes_now_and_answers_later(stage.client, stage.here.base, acknowledged.body, 2.0, stage.tasks))
    async with registry.listening(stage.ports["REGISTRY_PORT"]):
        show.step("→", "POST $process-message?async=true", coded)
        receipt = await ask(stage.client, "POST", f"{stage.here.base}/$process-message?async=true", coded.body)
        id = id_of(receipt.headers.get("Content-Location", ""))
        show.step("←", f"{receipt.status}: kept as {id}")
        show.check("the sender has 202 and a status URL", receipt.status == 202 and bool(id))
        show.step("→", "GET Bundle?message.destination-uri=HTTP://NCHS.CDC.GOV/VRDR_SUBMISSION")
        found = await poll(stage.client, stage.here.base, "HTTP://NCHS.CDC.GOV/VRDR_SUBMISSION")
        show.step("←", "the poll was held open until the answer came", acknowledged)
    stage.same("the record, at the registry", coded, registry.took[0] if registry.took else None)
    stage.same("the acknowledgement, in the mailbox", acknowledged, found[0][1] if found else None)
    await stage.trace(stage.here, id)


async def mailbox(stage: Stage) -> None:
    show = stage.show
    sent = Post("gematik__api-app-transport-framework/Selbsttest_Lieferung.json")
    confirmed = Post("gematik__api-app-transport-framework/atf_Empfangsbestaetigung.json")
    base, receiver, sender = (
        stage.here.base,
        "https://receiver.example.com/endpoint",
        "https://sender.example.com/endpoint",
    )
    show.scene(3, "Left in a mailbox, fetched, acknowledged (Germany: gematik, KIM)", """
        Two practices that cannot be reached from outside. One sends a delivery, the other fetches it from its mailbox,
        says that it has it, and sends its own confirmation back the same way.""")  # fmt: skip
    show.step("→", "POST $process-message", sent)
    receipt = await ask(stage.client, "POST", f"{base}/$process-message", sent.body)
    id = id_of(receipt.headers.get("Content-Location", ""))
    show.step("←", f"{receipt.status} at once, since nobody can be waited for: kept as {id}")
    show.step("→", f"the receiver polls: GET Bundle?message.destination-uri={receiver}&_offset=0")
    found = await poll(stage.client, base, receiver)
    stage.same("the delivery, fetched", sent, found[0][1] if found else None)
    said = await ask(stage.client, "POST", f"{base}/Bundle/{id}/$acknowledge", b"")
    show.step("→", f"the receiver acknowledges: POST Bundle/{id}/$acknowledge")
    show.check("the acknowledgement is noted", said.status in (200, 204))
    show.step("→", "and sends its confirmation: POST $process-message", confirmed)
    await ask(stage.client, "POST", f"{base}/$process-message", confirmed.body)
    back = await poll(stage.client, base, sender)
    stage.same("the confirmation, at the sender", confirmed, back[0][1] if back else None)
    await stage.trace(stage.here, id)


async def two_brokers(stage: Stage) -> None:
    show = stage.show
    order = Post("CDCgov__trusted-intermediary/001_Ochsner_OML_O21_1_hl7_translation.fhir")
    show.scene(4, "No address at all, and two brokers (USA: a newborn screening order, HL7 v2 in FHIR)", """
        The order names its receiver in an HL7 v2 extension and no endpoint. A rule knows who is meant; the directory
        knows that all of that kind live behind the next broker. The laboratory answers 204: done.""")  # fmt: skip
    lab = System(says(204))
    await stage.next.start(stage.client)
    async with lab.listening(stage.ports["LAB_PORT"]):
        show.step("→", "POST $process-message", order)
        answer = await ask(stage.client, "POST", f"{stage.here.base}/$process-message", order.body)
        show.step("←", f"{answer.status}")
        await stage.until("the laboratory has it", lambda: _is_set(lab.arrived))
    via = lab.headers[0].get("ce-via", "") if lab.headers else ""
    show.check("the caller was told, through both brokers, that it is done", answer.status == 204)
    show.check(f"it passed both brokers: ce-via: {via}", via == "urn:oid:2.999.1%20urn:oid:2.999.2")
    stage.same("the order, two hops on", order, lab.took[0] if lab.took else None)
    await stage.trace(stage.here, "1736788732902424963.258d8572-0217-4c67-a15a-0890e1096d75")
    await stage.next.end()


async def _is_set(event: asyncio.Event) -> bool:
    return event.is_set()


async def heals(stage: Stage) -> None:
    show = stage.show
    referral = Post("NHSDigital__booking-and-referral-fhir-api/ValidationRequest (POST) .json")
    show.scene(5, "Nobody is there; then the broker is killed; then it heals (UK: NHS booking and referral)", """
        The service that is to have the referral is down. The broker has said that it keeps the message, and is then
        killed with SIGKILL, as a power cut would do it.""")  # fmt: skip
    show.step("→", "POST $process-message?async=true", referral)
    receipt = await ask(stage.client, "POST", f"{stage.here.base}/$process-message?async=true", referral.body)
    id = id_of(receipt.headers.get("Content-Location", ""))
    show.step("←", f"{receipt.status}: kept as {id}")

    async def has_tried() -> bool:
        return bool((await stage.state(id))["deliveries"][0]["attempts"] >= 2)

    await stage.until("it was tried twice", has_tried)
    before = (await stage.state(id))["deliveries"][0]
    show.check(
        f"it waits: {before['attempts']} attempts, nobody listens there, the next one is due",
        before["state"] == "waiting",
    )
    show.step("•", f"kill -9 {stage.here.pid}")
    await stage.here.end(signal.SIGKILL)
    began = time.perf_counter()
    await stage.here.start(stage.client)
    show.step("•", f"started again; ready after {time.perf_counter() - began:.1f} s")
    clinic = System(says(204))
    show.step("•", "the service comes back")

    async def is_done() -> bool:
        return bool((await stage.state(id))["deliveries"][0]["state"] == "done")

    async with clinic.listening(stage.ports["CLINIC_PORT"]):
        await stage.until("it is delivered", is_done)
    show.check("it was delivered, once", len(clinic.took) == 1)
    stage.same("the referral, at the service", referral, clinic.took[0] if clinic.took else None)
    await stage.trace(stage.here, id)


async def bounce(stage: Stage) -> None:
    show = stage.show
    wrong = Post("navikt__fhir/message-with-invalid-her-id.json")
    source = "urn:oid:2.16.578.1.12.4.1.2.123"
    show.scene(6, "Refused for good: the sender is told (Norway: a message with a misspelt HER-id)", """
        The receiver reads the message and will never take it: 422, and it says why. Nobody waits on the line any more,
        so the broker writes to the sender: a response message of its own, in the sender's mailbox.""")  # fmt: skip
    refuser = System(says(422, json.dumps(REFUSAL).encode()))
    async with refuser.listening(stage.ports["REFUSER_PORT"]):
        show.step("→", "POST $process-message?async=true", wrong)
        receipt = await ask(stage.client, "POST", f"{stage.here.base}/$process-message?async=true", wrong.body)
        id = id_of(receipt.headers.get("Content-Location", ""))
        show.step("←", f"{receipt.status}: kept as {id}")
        found = await poll(stage.client, stage.here.base, source)
    stage.same("the message, at who refused it", wrong, refuser.took[0] if refuser.took else None)
    entries = [entry["resource"] for entry in json.loads(found[0][1])["entry"]] if found else [{}, {}]
    link = entries[0].get("response", {})
    show.step("←", f"in the mailbox of {source}: a response to {link.get('identifier')}, {link.get('code')}")
    for issue in entries[1].get("issue", ()):
        show.step("←", f"{issue['severity']}, {issue['code']}: {issue.get('details', {}).get('text', '')}")
    show.check(
        "the report names the message and says that it failed for good",
        link.get("code") == "fatal-error" and link.get("identifier") == "267b18ce-3d37-4581-9baa-6fada338038b",
    )
    show.check("the receiver was asked once: what is refused is not tried again", len(refuser.took) == 1)
    await stage.trace(stage.here, id)


SCENES = (question, later, mailbox, two_brokers, heals, bounce, subscribers)


async def demonstrate(show: Show, folder: Path) -> int:
    began = time.perf_counter()
    async with aiohttp.ClientSession() as client:
        stage = Stage(folder, client, show)
        show.title("fhir-broker: what it does, on messages that other people wrote", """
            The brokers are real processes on free ports of this machine, the store is on disk in a folder that is
            removed afterwards, and each message is a file of tests/corpus/messages, sent as published.""")  # fmt: skip
        await stage.here.start(client)
        try:
            for scene in SCENES:
                await scene(stage)
            status = await stage.here.end()
            show.say("")
            show.check("the broker stopped cleanly on SIGTERM", status == 0)
        finally:
            for daemon in (stage.here, stage.next):
                if daemon.is_running:
                    await daemon.end(signal.SIGKILL)
        show.end(
            f"{len(stage.passed)} messages and answers, none lost, none changed;"
            f" {time.perf_counter() - began:.0f} seconds."
        )
    return 1 if show.failed else 0


def main() -> int:
    show = Show()
    with tempfile.TemporaryDirectory(prefix="fhir-broker-demo-") as folder:
        try:
            return asyncio.run(demonstrate(show, Path(folder)))
        except KeyboardInterrupt:
            return 130
        except Exception as error:
            show.check(f"{type(error).__name__}: {error}", False)
            for log in sorted(Path(folder).glob("*.log")):
                show.command(f"tail {log.name}", log.read_text().splitlines()[-20:])
            show.end("")
            return 1


if __name__ == "__main__":
    sys.exit(main())
