"""The scene in which others are told: two who subscribed hear of a message that passes through, each in its own way."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import aiohttp
from parties import Post, System, ask, says

if TYPE_CHECKING:
    from run import Stage

TOPIC = "http://demo.example/topics/booking"
BACKPORT = "http://hl7.org/fhir/uv/subscriptions-backport/StructureDefinition/backport-"
R5_CHANNELS = "http://terminology.hl7.org/CodeSystem/subscription-channel-type"


def in_r4(endpoint: str) -> bytes:
    """As the R4 of today writes it: a rest-hook, told whole resources."""
    level = {"extension": [{"url": f"{BACKPORT}payload-content", "valueCode": "full-resource"}]}
    channel = {"type": "rest-hook", "endpoint": endpoint, "payload": "application/fhir+json", "_payload": level}
    resource = {"resourceType": "Subscription", "status": "requested", "reason": "to plan the ward", "criteria": TOPIC}
    return json.dumps({**resource, "channel": channel}).encode()


def in_r5() -> bytes:
    """As R5 writes it: a socket, told ids only."""
    channel = {"system": R5_CHANNELS, "code": "websocket"}
    resource = {"resourceType": "Subscription", "status": "requested", "topic": TOPIC, "channelType": channel}
    return json.dumps({**resource, "contentType": "application/fhir+json", "content": "id-only"}).encode()


def events(notification: dict[str, Any]) -> list[tuple[int, str]]:
    """Number and focus of each, out of R4's Parameters or R5's SubscriptionStatus."""
    status = notification["entry"][0]["resource"]
    if status["resourceType"] == "SubscriptionStatus":
        said = status.get("notificationEvent", ())
        return [(int(one["eventNumber"]), one.get("focus", {}).get("reference", "")) for one in said]
    found = []
    for parameter in status["parameter"]:
        if parameter["name"] == "notification-event":
            part = {one["name"]: one for one in parameter["part"]}
            focus = part.get("focus", {}).get("valueReference", {}).get("reference", "")
            found.append((int(part["event-number"]["valueString"]), focus))
    return found


def as_told(found: list[tuple[int, str]]) -> str:
    return ", ".join(f"event {number}, {focus}" for number, focus in found)


def resource_in(post: Post, type: str) -> bytes:
    """The bytes of the first resource of a type in a message."""
    text = post.body.decode()
    start = text.rfind("{", 0, text.index(f'"{type}"'))
    _, end = json.JSONDecoder().raw_decode(text, start)
    return text[start:end].encode()


async def subscribers(stage: Stage) -> None:
    show, base = stage.show, stage.here.base
    booking = Post("NHSDigital__booking-and-referral-fhir-api/POST-body.json")
    show.scene(7, "Who else wants to know (UK: a booking; two subscribers, R4 and R5)", """
        The ward's planning and a nurse's app want to hear of bookings. Neither the sender nor the receiver of a booking
        knows of them. One has a web hook and speaks R4, the other keeps a socket open and speaks R5.""")  # fmt: skip
    clinic, planning = System(says(204)), System(says(200))
    async with clinic.listening(stage.ports["CLINIC_PORT"]), planning.listening(stage.ports["HOOK_PORT"]):
        show.step("→", "the planning: POST R4/Subscription (rest-hook, full-resource)")
        hook = f"http://127.0.0.1:{stage.ports['HOOK_PORT']}/hook"
        r4 = {"Content-Type": "application/fhir+json; fhirVersion=4.0"}
        first = await ask(stage.client, "POST", f"{base}/R4/Subscription", in_r4(hook), **r4)
        show.check(f"{first.status}: it is kept, and a handshake goes to the web hook", first.status == 201)
        show.step("→", "the app: POST R5/Subscription (websocket, id-only), and a token for its socket")
        r5 = {"Content-Type": "application/fhir+json; fhirVersion=5.0"}
        second = await ask(stage.client, "POST", f"{base}/R5/Subscription", in_r5(), **r5)
        url = f"{base}/R5/Subscription/{second.json['id']}"
        token = {
            one["name"]: next(value for name, value in one.items() if name.startswith("value"))
            for one in (await ask(stage.client, "POST", f"{url}/$get-ws-binding-token")).json["parameter"]
        }
        async with stage.client.ws_connect(token["websocket-url"]) as socket:
            await socket.send_str(f"bind-with-token {token['token']}")
            greeting = await said_on(socket)
            show.step("←", f"on the socket: {greeting['entry'][0]['resource']['type']}")
            await stage.until(
                "both are told from now on", lambda: are_active(stage, first.json["id"], second.json["id"])
            )
            show.step("→", "somebody books: POST $process-message", booking)
            answer = await ask(stage.client, "POST", f"{base}/$process-message", booking.body)
            show.step("←", f"{answer.status}, from the clinic, as if nobody listened")
            live = await said_on(socket)
        await stage.until("the web hook has its notification", lambda: has(planning, 2))
    stage.same("the booking, at the clinic", booking, clinic.took[0] if clinic.took else None)
    by_hook, by_socket = events(json.loads(planning.took[-1])), events(live)
    size = len(planning.took[-1])
    show.step("←", f"at the web hook: {as_told(by_hook)}, in R4, {size:,} bytes with the Appointment and its status")
    show.step("←", f"on the socket: {as_told(by_socket)}, in R5")
    show.check("both heard of the same, each as its number 1", by_hook == by_socket and [n for n, _ in by_hook] == [1])
    whole = resource_in(booking, "Appointment")
    show.check("the web hook has the Appointment, the very bytes of the message", whole in planning.took[-1])
    show.check("the app has its name, and nothing of what is in it", whole not in json.dumps(live).encode())
    asked = await ask(stage.client, "GET", f"{url}/$events?eventsSinceNumber=1")
    show.step("→", "later the app is not sure that it heard all: GET $events?eventsSinceNumber=1")
    show.check("the same event, out of the log", asked.status == 200 and events(asked.json) == by_socket)
    id = first.json["id"]
    show.command(f"fhir-broker subscriptions show {id}", await stage.here.command("subscriptions", "show", id))


async def said_on(socket: aiohttp.ClientWebSocketResponse) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(await socket.receive_str(timeout=20))
    return found


async def are_active(stage: Stage, *ids: str) -> bool:
    found = [await ask(stage.client, "GET", f"{stage.here.base}/Subscription/{id}/$status") for id in ids]
    return all(b'"active"' in one.body for one in found)


async def has(system: System, count: int) -> bool:
    return len(system.took) >= count
