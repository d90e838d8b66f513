from __future__ import annotations

from typing import Any

import msgspec
import orjson
import pytest
from subscribed import r4, read

from broker.core.fhir.header import Event, Format, Header, Identifier, Release
from broker.core.subscription.content import Content
from broker.core.subscription.matching import Subscribers
from broker.core.subscription.occurrence import CLASSIC, Occurrence, Topics, topic_of
from broker.core.subscription.topic import Interaction, Topic
from broker.core.subscription.topic_form import topic_from

CREATE, UPDATE, DELETE = Interaction
PATIENT = {"resourceType": "Patient", "id": "7", "link": [{"other": {"reference": "urn:uuid:q"}}]}
MOTHER = {"resourceType": "Patient", "id": "8", "link": [{"other": {"reference": "urn:uuid:p"}}]}
ENCOUNTER = {"resourceType": "Encounter", "id": "2", "status": "finished", "subject": {"reference": "urn:uuid:p"}}
OBSERVATION = {"resourceType": "Observation", "id": "3", "encounter": {"reference": "Encounter/2"}}
ENTRIES: tuple[dict[str, Any], ...] = (
    {"fullUrl": "urn:uuid:h", "resource": {"resourceType": "MessageHeader", "id": "h"}},
    {"fullUrl": "urn:uuid:e", "resource": ENCOUNTER},
    {"fullUrl": "urn:uuid:p", "resource": PATIENT},
    {"fullUrl": "urn:uuid:o", "resource": OBSERVATION},
    {"fullUrl": "urn:uuid:q", "resource": MOTHER},
)


def message(*, event: Event | None = None, focus: tuple[str, ...] = ("urn:uuid:e",), entries: Any = ENTRIES) -> Content:
    header = Header(
        release=Release.R4,
        format=Format.JSON,
        event=event or Event(system="urn:e", code="admit"),
        focus=focus,
        bundle_identifier=Identifier("urn:b", "1"),
        timestamp="2026-11-21T12:00:00Z",
    )
    return Content(orjson.dumps({"resourceType": "Bundle", "type": "message", "entry": entries}), header)


def topic(*on: dict[str, Any], **more: Any) -> Topic:
    return topic_from({"url": "http://t", "on": list(on), **more})


def found(what: Topic, content: Content | None = None) -> list[Occurrence]:
    content = content or message()
    topics = Topics([what])
    occurrences = topics.occurrences(content)
    if occurrences:  # the law of the look-up: whoever is found was not ruled out before
        assert topics.may_concern(str(content.header.event), content.header.format, content.body)
    return occurrences


def foci(what: Topic, content: Content | None = None) -> list[str]:
    return ["message" if one.focus is None else f"{one.focus.type}/{one.focus.id}" for one in found(what, content)]


@pytest.mark.parametrize(
    ("on", "expected"),
    [
        ({"event": "admit"}, ["Encounter/2"]),
        ({"event": "urn:e|admit"}, ["Encounter/2"]),
        ({"event": "*"}, ["Encounter/2"]),
        ({"event": "urn:x|admit"}, []),
        ({"event": "discharge"}, []),
        ({"event": "admit", "focus": "Encounter"}, ["Encounter/2"]),
        ({"event": "admit", "focus": "Patient"}, ["Patient/7"]),
        ({"event": "admit", "focus": "Bundle"}, ["message"]),
        ({"event": "admit", "focus": "MessageHeader"}, ["MessageHeader/h"]),
        ({"event": "admit", "focus": "Condition"}, []),
        ({"event": "admit", "focus": "Encounter", "where": "status=finished"}, ["Encounter/2"]),
        ({"event": "admit", "focus": "Encounter", "where": "status=planned"}, []),
        ({"event": "admit", "focus": "Encounter", "fhirpath": "status = 'planned'"}, []),
        ({"event": "admit", "focus": "Patient", "where": "link=Patient/7"}, ["Patient/8"]),
        ({"resource": "Encounter"}, ["Encounter/2"]),
        ({"resource": "Patient"}, ["Patient/7", "Patient/8"]),
        ({"resource": "Patient", "only_focus": True}, []),
        ({"resource": "Encounter", "only_focus": True}, ["Encounter/2"]),
        ({"resource": "Encounter", "where": "patient=Patient/7"}, ["Encounter/2"]),
        ({"resource": "Encounter", "where": "patient=Patient/8"}, []),
        ({"resource": "Encounter", "fhirpath": "status = 'finished'"}, ["Encounter/2"]),
        ({"resource": "Encounter", "interactions": ["delete"]}, []),
        ({"resource": "MessageHeader"}, []),
        ({"resource": "Condition"}, []),
    ],
)
def test_topic_tells_of(on: dict[str, Any], expected: list[str]) -> None:
    """S-57: by event, by resource; focus and the other entries."""
    assert foci(topic(on)) == expected


def test_each_focus_is_told_of_once_by_each_topic() -> None:
    what = topic({"event": "admit"}, {"event": "*"}, {"resource": "Encounter"}, {"resource": "Patient"})
    assert foci(what) == ["Encounter/2", "Patient/7", "Patient/8"]


def test_event_without_a_focus_is_about_the_message_itself() -> None:
    (one,) = found(topic({"event": "admit"}), message(focus=()))
    assert one.focus is None
    assert one.values["identifier"] == {"system": "urn:b", "value": "1"}


def test_event_with_many_foci_is_one_occurrence() -> None:
    (one,) = found(topic({"event": "admit"}), message(focus=("urn:uuid:e", "urn:uuid:o", "urn:uuid:none")))
    assert one.focus is not None
    assert (one.focus.type, [more.type for more in one.more]) == ("Encounter", ["Observation"])


@pytest.mark.parametrize(
    ("method", "interactions", "expected"),
    [
        ("POST", ["create"], CREATE),
        ("PUT", ["create"], None),
        ("PUT", ["create", "update"], UPDATE),
        ("PATCH", ["update"], UPDATE),
        ("GET", ["update"], UPDATE),
        ("", ["create"], CREATE),
        ("", ["create", "update", "delete"], UPDATE),
        ("", ["delete"], None),
    ],
)
def test_what_is_done_is_read_from_the_entry(
    method: str, interactions: list[str], expected: Interaction | None
) -> None:
    entry = {**ENTRIES[1], "request": {"method": method, "url": "Encounter/2"}}
    content = message(entries=[ENTRIES[0], entry])
    occurrences = found(topic({"resource": "Encounter", "interactions": interactions}), content)
    assert [one.interaction for one in occurrences] == ([] if expected is None else [expected])


def test_event_says_what_is_done_where_the_entry_does_not() -> None:
    what = topic({"resource": "Encounter", "interactions": ["create"]}, interactions={"admit": "create", "x": "update"})
    assert [one.interaction for one in found(what)] == [CREATE]
    assert found(what, message(event=Event(code="x"))) == []
    by_event = topic({"event": "admit"}, interactions={"urn:e|admit": "create"})
    assert [one.interaction for one in found(by_event)] == [CREATE]


def test_what_is_deleted_is_known_by_its_request_alone() -> None:
    entries = [ENTRIES[0], {"request": {"method": "DELETE", "url": "Encounter/2"}}]
    what = topic({"resource": "Encounter", "interactions": ["delete"], "where": "status=finished"})
    (one,) = found(what, message(entries=entries))
    assert (one.interaction, one.focus and one.focus.id) == (DELETE, "2")


# --- what goes along ---


@pytest.mark.parametrize(
    ("include", "expected"),
    [
        (["Encounter:patient"], ["Patient/7"]),
        (["Encounter:subject:Patient"], ["Patient/7"]),
        (["Encounter:subject:Group"], []),
        (["Encounter:patient&iterate=Patient.link"], ["Patient/7", "Patient/8"]),
        (["Encounter:patient&iterate=Patient:link", "Encounter:patient"], ["Patient/7", "Patient/8"]),
        (["Observation:encounter"], ["Observation/3"]),
        (["Observation:subject"], []),
        (["Encounter:nothing"], []),
        (["Encounter:status"], []),
        (["Encounter:location"], []),
    ],
)
def test_shape_of_the_topic_says_what_goes_along(include: list[str], expected: list[str]) -> None:
    """Links that go in circles end."""
    (one,) = found(topic({"resource": "Encounter"}, send={"Encounter": include}))
    assert [f"{more.type}/{more.id}" for more in one.more] == expected


def test_what_goes_along_stands_once() -> None:
    what = topic({"event": "admit"}, send={"Encounter": ["Encounter:patient", "Observation:encounter"]})
    (one,) = found(what, message(focus=("urn:uuid:e", "urn:uuid:p")))
    assert [more.type for more in one.more] == ["Patient", "Observation"]


# --- the look-up before ---


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b'{"entry":[{"resource":{"resourceType":"Encounter"}}]}', True),
        (b'{"entry":[{"resource":{"resourceType" : "Patient"}}]}', False),
        (rb'{"entry":[{"resource":{"\u0072esourceType":"\u0045ncounter"}}]}', True),
        (b'{"entry":[{"request":{"method":"DELETE","url":"Encounter/2"}}]}', True),
        (b'{"entry":[{"request":{"method":"DELETE","url":"Patient/2"}}]}', False),
    ],
)
def test_message_without_the_types_is_not_looked_into(body: bytes, expected: bool) -> None:
    header = message().header
    assert Topics([topic({"resource": "Encounter"})]).may_concern(str(header.event), header.format, body) is expected


def test_message_in_xml_is_looked_for_the_same_types() -> None:
    header = Header(release=Release.R4, format=Format.XML, event=Event(code="x"))
    topics = Topics([topic({"resource": "Encounter"})])
    assert topics.may_concern(str(header.event), header.format, b'<f:Encounter xmlns:f="http://hl7.org/fhir"/>')
    assert not topics.may_concern(str(header.event), header.format, b"<Patient/>")


def test_without_topics_nothing_is_looked_at() -> None:
    assert not Topics([]).may_concern(str(message().header.event), message().header.format, b"\\u00")
    assert not Topics([topic({"event": "discharge"})]).may_concern(
        str(message().header.event), message().header.format, message().body
    )


def test_message_in_xml_is_told_of_as_in_json() -> None:
    body = (
        b'<Bundle xmlns="http://hl7.org/fhir"><entry><resource><MessageHeader/></resource></entry>'
        b'<entry><fullUrl value="urn:uuid:e"/><resource><Encounter><id value="2"/><status value="finished"/>'
        b'<subject><reference value="urn:uuid:p"/></subject></Encounter></resource></entry>'
        b'<entry><fullUrl value="urn:uuid:p"/><resource><Patient><id value="7"/></Patient></resource></entry></Bundle>'
    )
    header = Header(release=Release.R4, format=Format.XML, event=Event(code="x"))
    what = topic(
        {"resource": "Encounter", "where": "patient=Patient/7&status=finished", "fhirpath": "status = 'finished'"},
        send={"Encounter": ["Encounter:patient"]},
    )
    (one,) = found(what, Content(body, header))
    assert [more.type for more in one.more] == ["Patient"]


# --- the classic model ---


def test_classic_subscriptions_to_a_type_share_a_topic() -> None:
    """S-41: deletes notify nobody."""
    what = topic_of("Encounter")
    assert what.url == CLASSIC + "Encounter"
    assert foci(what) == ["Encounter/2"]
    entries = [ENTRIES[0], {"request": {"method": "DELETE", "url": "Encounter/2"}}]
    assert foci(what, message(entries=entries)) == []


def test_search_strings_of_classic_subscriptions_are_their_filters() -> None:
    subscribers = Subscribers()
    for id, criteria in enumerate(("Encounter?patient=Patient/7", "Encounter?patient=Patient/8", "Encounter")):
        one = msgspec.structs.replace(read(r4(criteria=criteria), Release.R4), id=str(id))
        subscribers.add(one, topic_of("Encounter"))
    content = message()
    (one,) = found(topic_of("Encounter"), content)
    assert sorted(subscribers.hearing(one, content.aliases)) == ["0", "2"]


def test_message_whose_entries_are_known_concerns_topics_of_their_types_and_of_its_event() -> None:
    topics = Topics([topic({"resource": "Encounter"}), topic({"event": "admit"})])
    assert topics.may_concern_types("x", {"MessageHeader", "Encounter"})
    assert topics.may_concern_types("urn:s|admit", set())
    assert not topics.may_concern_types("urn:s|x", {"MessageHeader", "Patient"})
