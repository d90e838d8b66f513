from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from base64 import b64decode
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from written import ALL, HERE, validated, values_of_json, values_of_xml

from broker.core.fhir.header import Format, Release
from broker.core.fhir.searchset import PageEntry, count_only, searchset
from broker.core.outcome import Problem, Severity

CORPUS = Path(__file__).parent.parent / "corpus" / "messages"
BASE = "https://broker.example/fhir"
SELF = f"{BASE}/Bundle?message.destination-uri=urn:x&_offset=0"
NEXT = f"{BASE}/Bundle?message.destination-uri=urn:x&_offset=7"
ID = "9d0f3b0e-6f4a-4c55-8a5f-1f7f5f0e1a01"
JSON_BODY = b'{ "resourceType": "Bundle",\r\n  "id": "theirs", "type": "message" }'
XML_BODY = b'<?xml version="1.0"?>\r\n<Bundle xmlns="http://hl7.org/fhir"><id  value="theirs"/></Bundle>'
WARNING = Problem(code="value", id="unknown-parameter", text="Left out: _foo.", severity=Severity.WARNING)


def entry(**changed: Any) -> PageEntry:
    known: dict[str, Any] = {
        "message_id": ID,
        "position": 7,
        "body": JSON_BODY,
        "format": Format.JSON,
        "release": Release.R4,
        "media_type": "application/fhir+json; fhirVersion=4.0",
        "last_updated": datetime(2026, 11, 21, tzinfo=UTC),
    }
    return PageEntry(**(known | changed))


def page(*entries: PageEntry, format: Format = Format.JSON, release: Release = Release.R4, **more: Any) -> bytes:
    known: dict[str, Any] = {"self_url": SELF, "next_url": NEXT, "total": 3, "base_url": BASE}
    return searchset(entries, format=format, release=release, **(known | more))


@pytest.mark.parametrize("release", ALL)
def test_page_is_a_valid_searchset(release: Release) -> None:
    """M-65; one entry as it came, one wrapped, one with warnings."""
    body = page(
        entry(release=release), entry(body=b"odd", message_id=ID[:-1] + "2"), release=release, warnings=[WARNING]
    )
    written = validated(orjson.loads(body), release)
    assert [one["search"]["mode"] for one in written["entry"]] == ["match", "match", "outcome"]
    assert [one["resource"]["resourceType"] for one in written["entry"]] == ["Bundle", "Binary", "OperationOutcome"]
    assert len({one["fullUrl"] for one in written["entry"]}) == 3


def test_original_stands_byte_for_byte() -> None:
    """Promise 3, M-66."""
    assert b'"resource":' + JSON_BODY + b',"search"' in page(entry())
    cut = XML_BODY[XML_BODY.index(b"<Bundle") :]
    body = page(entry(body=XML_BODY, format=Format.XML), format=Format.XML)
    assert b"<resource>" + cut + b"</resource>" in body


def test_entry_carries_our_id_its_position_and_the_way_to_the_original() -> None:
    """M-66 and the contract."""
    (written,) = orjson.loads(page(entry(links=(("related", "urn:more"),))))["entry"]
    assert written["fullUrl"] == f"urn:uuid:{ID}"
    assert written["id"] == "7"
    assert written["link"] == [
        {"relation": "original", "url": f"{BASE}/Bundle/{ID}"},
        {"relation": "related", "url": "urn:more"},
    ]


def test_page_says_where_it_is_and_where_to_go_on() -> None:
    """M-65, M-69: `next` also on the last page."""
    written = orjson.loads(page(entry()))
    assert written["link"] == [{"relation": "self", "url": SELF}, {"relation": "next", "url": NEXT}]
    assert written["total"] == 3


def test_empty_page_has_no_entry_element() -> None:
    written = validated(orjson.loads(page(total=None, next_url=None)), Release.R4)
    assert written == {
        "resourceType": "Bundle",
        "type": "searchset",
        "link": [{"relation": "self", "url": SELF}],
    }


@pytest.mark.parametrize("format", Format)
def test_count_is_a_page_without_entries(format: Format) -> None:
    """M-67."""
    body = count_only(format=format, self_url=SELF, total=12)
    expected = {"resourceType": "Bundle", "type": "searchset", "total": 12, "link": [{"relation": "self", "url": SELF}]}
    if format is Format.JSON:
        assert validated(orjson.loads(body), Release.R5) == expected
    else:
        assert values_of_xml(body) == values_of_json(expected)


@pytest.mark.parametrize(
    ("changed", "format", "release"),
    [
        ({"body": XML_BODY, "format": Format.XML}, Format.JSON, Release.R4),
        ({}, Format.XML, Release.R4),
        ({"release": Release.R5}, Format.JSON, Release.R4),
        ({"release": Release.STU3}, Format.JSON, Release.R4),
        ({"release": Release.R5}, Format.JSON, Release.R6),
        ({"body": b'{"resourceType":"Bundle","x":"\xff"}'}, Format.JSON, Release.R4),
    ],
)
def test_what_may_not_stand_in_the_page_is_wrapped_whole(
    changed: dict[str, Any], format: Format, release: Release
) -> None:
    """The contract: other format, other version, unsafe bytes: a Binary."""
    original = entry(**changed)
    body = page(original, format=format, release=release)
    if format is Format.JSON:
        binary = orjson.loads(body)["entry"][0]["resource"]
        assert binary["meta"] == {"lastUpdated": "2026-11-21T00:00:00.000Z"}
        id, media_type, data = binary["id"], binary["contentType"], binary["data"]
    else:
        values = dict(values_of_xml(body))
        at = "Bundle.entry.resource.Binary"
        id, media_type, data = values[f"{at}.id"], values[f"{at}.contentType"], values[f"{at}.data"]
    assert (id, media_type) == (ID, "application/fhir+json; fhirVersion=4.0")
    assert b64decode(data) == original.body


def test_r4_and_r4b_stand_in_each_others_pages() -> None:
    """M-2."""
    for mine, theirs in ((Release.R4, Release.R4B), (Release.R4B, Release.R4)):
        assert JSON_BODY in page(entry(release=theirs), release=mine)


def test_binary_without_media_type_or_body_is_still_valid() -> None:
    body = page(entry(body=b"", media_type="", last_updated=None))
    binary = validated(orjson.loads(body), Release.R4)["entry"][0]["resource"]
    assert binary == {"resourceType": "Binary", "id": ID, "contentType": "application/octet-stream"}


@pytest.mark.parametrize("path", sorted(p for p in CORPUS.rglob("*.*") if p.is_file()), ids=lambda path: path.name)
def test_real_messages_come_out_of_a_page_unchanged(path: Path) -> None:
    original = path.read_bytes()
    format = Format.XML if original.lstrip(b"\xef\xbb\xbf \r\n\t").startswith(b"<") else Format.JSON
    body = page(entry(body=original, format=format), entry(message_id=ID[:-1] + "2"), format=format)
    if format is Format.JSON:
        assert original in body
        assert orjson.loads(body)["entry"][0]["resource"] == orjson.loads(original)
    else:
        resource = ET.fromstring(body).find(f"{HERE}entry/{HERE}resource")
        assert resource is not None
        assert ET.canonicalize(ET.tostring(resource[0])) == ET.canonicalize(ET.tostring(ET.fromstring(original)))


# --- laws ---

foreign = st.one_of(
    st.binary(),
    st.sampled_from([JSON_BODY, XML_BODY]),
    st.builds(
        lambda body, at, odd: body[:at] + odd + body[at:],
        st.sampled_from([JSON_BODY, XML_BODY]),
        st.integers(0, 80),
        st.sampled_from(
            [b"\xef\xbb\xbf", b"\r\n", b"\xff", b"\x00", b'"', b"{", b"]", b"<", b"<!--", b"]]>", b"\\ud8"]
        ),
    ),
    st.integers(800, 1100).map(lambda n: b'{"resourceType":"Bundle","x":' + b"[" * n + b"]" * n + b"}"),
)


@settings(deadline=None)
@given(st.lists(foreign, min_size=1, max_size=4))
def test_any_bytes_leave_the_page_valid_json(bodies: list[bytes]) -> None:
    body = page(*(entry(body=one, position=at) for at, one in enumerate(bodies)))
    for read in (json.loads, orjson.loads):
        entries = read(body)["entry"]
        assert [one["id"] for one in entries] == [str(at) for at in range(len(bodies))]
        for original, one in zip(bodies, entries, strict=True):
            if one["resource"]["resourceType"] == "Binary":
                assert b64decode(one["resource"].get("data", "")) == original
            else:
                assert one["resource"] == orjson.loads(original.removeprefix(b"\xef\xbb\xbf"))


@settings(deadline=None)
@given(st.lists(foreign, min_size=1, max_size=4))
def test_any_bytes_leave_the_page_well_formed_xml(bodies: list[bytes]) -> None:
    written = page(*(entry(body=one, format=Format.XML) for one in bodies), format=Format.XML)
    entries = ET.fromstring(written).findall(f"{HERE}entry")
    assert len(entries) == len(bodies)
    for one in entries:
        assert [child.tag.removeprefix(HERE) for child in one] == ["link", "fullUrl", "resource", "search"]
