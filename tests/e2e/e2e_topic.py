"""A topic, a broker that serves it, and the messages that it tells of."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson
from e2e_messages import SOUTH, message

TOPIC = "http://hospital.example/topics/admission"
TOPICS = f"url: {TOPIC}\non: [{{event: admit, focus: Encounter}}]\nfilters: [patient]\n"
RELAYED = f"url: {TOPIC}\nrelayed: true\n"
BRISK = {"retry": {"first": "100ms", "factor": 1.5, "max": "500ms"}, "lane": {"probe": "200ms", "open_after": 20}}


def admission(number: int) -> bytes:
    """An Encounter that began, as a hospital writes it: an R4 message whose focus it is."""
    bundle = orjson.loads(message(f"admission-{number}", event="admit", focus=[{"reference": f"Encounter/e{number}"}]))
    bundle["entry"].append(
        {
            "fullUrl": f"http://hospital.example/fhir/Encounter/e{number}",
            "resource": {
                "resourceType": "Encounter",
                "id": f"e{number}",
                "status": "in-progress",
                "class": {"system": "http://terminology.hl7.org/CodeSystem/v3-ActCode", "code": "IMP"},
                "subject": {"reference": "Patient/p1"},
            },
        }
    )
    return orjson.dumps(bundle)


def foci(count: int) -> list[str]:
    return [f"Encounter/e{number}" for number in range(1, count + 1)]


def serving(folder: Path, topic: str = TOPICS, *, allow: list[str], **more: Any) -> dict[str, Any]:
    """A broker that serves the topic; its own kind of retries, so that a test does not wait."""
    file = folder / f"topic-{len(list(folder.glob('topic-*')))}.yaml"
    file.write_text(topic)
    block = {"topics": [str(file)], "content": "full-resource", **BRISK, **({"allow": allow} if allow else {})}
    return {"directory": {"endpoints": {SOUTH: "mailbox:"}}, "subscriptions": block, **more}
