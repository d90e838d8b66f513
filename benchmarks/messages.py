"""Messages for the benchmarks: R4 discharge notices of a chosen size, each copy with ids of its own at fixed places."""

from __future__ import annotations

import itertools
import json
import os
import uuid
from collections.abc import Iterator

SENDER = "urn:oid:2.999.10.1"
MAILBOX = "urn:oid:2.999.20.1"  # an endpoint whose address is its mailbox
RECEIVER = "urn:oid:2.999.20.2"  # an endpoint that the benchmark's receiver answers for
WELL = "well"  # the last word of that receiver's address where it has neighbours, and theirs with their endpoints
NEIGHBOURS = {name: f"urn:oid:2.999.20.{number}" for number, name in enumerate(("dead", "slow", "flap", "refuse"), 11)}
SIZES = {"4KiB": 4 << 10, "100KiB": 100 << 10, "1MiB": 1 << 20}

BUNDLE_ID = "b1b1b1b1-0000-4000-8000-000000000001"
IDENTIFIER = "b2b2b2b2-0000-4000-8000-000000000002"
HEADER_ID = "b3b3b3b3-0000-4000-8000-000000000003"
ANSWERED = "b4b4b4b4-0000-4000-8000-000000000004"
ID_LENGTH = 36
EVENT, SOUGHT = b"discharge-notice", b"admission-notice"  # the second is what subscribers want to hear of
SOUGHT_TOPIC = "http://bench.example/topics/admission"
PATIENT = f"urn:uuid:{uuid.UUID(int=1)}"  # of all messages


class Copies:
    """One message cut at its ids; a copy is the pieces with new ids between, always of the same length."""

    def __init__(self, text: bytes, places: tuple[str, ...]) -> None:
        self.length = len(text)
        cuts = sorted((text.index(place.encode()), place) for place in places)
        self.at = {place: offset for offset, place in cuts}
        ends = [0, *(offset + ID_LENGTH for offset, _ in cuts)]
        starts = [*(offset for offset, _ in cuts), len(text)]
        self.order = [place for _, place in cuts]
        self.pieces = [text[begin:end] for begin, end in zip(ends, starts, strict=True)]

    def with_ids(self, ids: dict[str, bytes]) -> bytes:
        parts = [self.pieces[0]]
        for place, piece in zip(self.order, self.pieces[1:], strict=True):
            parts += (ids[place], piece)
        return b"".join(parts)


def fresh_ids() -> Iterator[bytes]:
    """UUID-shaped ids that no run before gave out, without asking the system for each."""
    run = os.urandom(6).hex()
    for number in itertools.count():
        yield f"{number & 0xFFFFFFFF:08x}-{number >> 32 & 0xFFFF:04x}-4000-8000-{run}".encode()


def requests(size: int, to: str) -> Copies:
    return Copies(_bundle(size, _header(SENDER, to)), (BUNDLE_ID, IDENTIFIER, HEADER_ID))


def responses(size: int) -> Copies:
    """Answers as long as what they answer; ANSWERED stands where the request's MessageHeader.id goes (M-31)."""
    header = _header(RECEIVER, SENDER)
    header["response"] = {"identifier": ANSWERED, "code": "ok"}
    return Copies(_bundle(size, header), (BUNDLE_ID, IDENTIFIER, HEADER_ID, ANSWERED))


def _header(source: str, destination: str) -> dict[str, object]:
    return {
        "resourceType": "MessageHeader",
        "id": HEADER_ID,
        "eventCoding": {"system": "urn:oid:2.999.30", "code": "discharge-notice"},
        "destination": [{"name": "Municipal home care", "endpoint": destination}],
        "source": {"name": "Hill Hospital", "software": "WardBook", "version": "7.1", "endpoint": source},
        "focus": [{"reference": f"urn:uuid:{uuid.UUID(int=2)}"}],
    }


def _bundle(size: int, header: dict[str, object]) -> bytes:
    """Readings are added until the next would be too long; a note on the stay fills up the rest."""
    resources = [header, _patient(), _stay("")]
    room = size - len(_write(resources)) - 8
    readings: list[dict[str, object]] = []
    while (room := room - len(json.dumps(_reading(len(readings)), separators=(",", ":"))) - 80) > 200:
        readings.append(_reading(len(readings)))
    short = size - len(_write([*resources, *readings]))
    resources[2] = _stay("Discharged home in good state. " * (short // 31 + 1), short)
    return _write([*resources, *readings])


def _write(resources: list[dict[str, object]]) -> bytes:
    entries = [{"fullUrl": f"urn:uuid:{uuid.UUID(int=i)}", "resource": r} for i, r in enumerate(resources)]
    entries[0]["fullUrl"] = f"urn:uuid:{uuid.UUID(int=1 << 64)}"
    bundle = {
        "resourceType": "Bundle",
        "id": BUNDLE_ID,
        "identifier": {"system": "urn:ietf:rfc:3986", "value": f"urn:uuid:{IDENTIFIER}"},
        "type": "message",
        "timestamp": "2026-03-02T14:05:00+01:00",
        "entry": entries,
    }
    return json.dumps(bundle, separators=(",", ":")).encode()


def _patient() -> dict[str, object]:
    return {
        "resourceType": "Patient",
        "identifier": [{"system": "urn:oid:2.999.40", "value": "130556-0000"}],
        "name": [{"family": "Testrup", "given": ["Ida", "Marie"]}],
        "gender": "female",
        "birthDate": "1956-05-13",
    }


def _stay(note: str, length: int = 0) -> dict[str, object]:
    return {
        "resourceType": "Encounter",
        "status": "finished",
        "class": {"system": "http://terminology.hl7.org/CodeSystem/v3-ActCode", "code": "IMP"},
        "subject": {"reference": f"urn:uuid:{uuid.UUID(int=1)}"},
        "period": {"start": "2026-02-27T09:10:00+01:00", "end": "2026-03-02T13:40:00+01:00"},
        "reasonCode": [{"text": note[:length]}],
    }


def _reading(number: int) -> dict[str, object]:
    return {
        "resourceType": "Observation",
        "status": "final",
        "code": {"coding": [{"system": "http://loinc.org", "code": "8310-5", "display": "Body temperature"}]},
        "subject": {"reference": f"urn:uuid:{uuid.UUID(int=1)}"},
        "effectiveDateTime": f"2026-03-{1 + number // 1440 % 28:02d}T{number // 60 % 24:02d}:{number % 60:02d}:00Z",
        "valueQuantity": {
            "value": 36 + number % 30 / 10,
            "unit": "degrees C",
            "system": "http://unitsofmeasure.org",
            "code": "Cel",
        },
    }
