"""Resends whose bytes differ: the same message or another one (M-21)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from broker.core.fhir.header import Format
from broker.core.fhir.same import same_content

JSON, XML = Format.JSON, Format.XML
CORPUS = Path(__file__).parent.parent / "corpus" / "messages"

HEADER = {"resourceType": "MessageHeader", "id": "m", "eventUri": "http://e", "source": {"endpoint": "s"}}
PATIENT = {"resourceType": "Patient", "id": "p", "active": True, "name": [{"given": ["A", "B"]}]}


def bundle(header: dict[str, Any] | None = None, patient: dict[str, Any] | None = None, **more: Any) -> dict[str, Any]:
    entry = [{"fullUrl": "urn:uuid:m", "resource": HEADER | (header or {})}, {"resource": PATIENT | (patient or {})}]
    return {"resourceType": "Bundle", "id": "b", "type": "message", "entry": entry} | more


def same_json(a: dict[str, Any] | str, b: dict[str, Any] | str) -> bool:
    one, other = (value if isinstance(value, str) else json.dumps(value) for value in (a, b))
    answer = same_content(one.encode(), JSON, other.encode(), JSON)
    assert answer is same_content(other.encode(), JSON, one.encode(), JSON)
    return answer


@pytest.mark.parametrize(
    "other",
    [
        bundle(),
        bundle(timestamp="2026"),
        bundle(_timestamp={"id": "x"}),
        bundle(meta={"lastUpdated": "2026"}),
        bundle(signature={"data": "x"}),
        bundle({"meta": {"versionId": "2"}}),
        bundle({"timestamp": "2026"}),
        dict(reversed(bundle().items())),
        "\ufeff" + json.dumps(bundle(), indent=3),
        json.dumps(bundle()).replace("http", "\\u0068ttp"),
    ],
)
def test_rebuilt_bundle_is_the_same_message(other: dict[str, Any] | str) -> None:
    assert same_json(bundle(), other)


@pytest.mark.parametrize(
    "other",
    [
        bundle(id="other"),
        bundle({"id": "other"}),
        bundle({"source": {"endpoint": "other"}}),
        bundle(patient={"active": False}),
        bundle(patient={"active": "true"}),
        bundle(patient={"active": None}),
        bundle(patient={"meta": {"versionId": "2"}}),
        bundle(patient={"timestamp": "2026"}),
        bundle(patient={"name": [{"given": ["B", "A"]}]}),
        bundle(entry=[]),
        json.dumps(bundle()).replace('"active"', '"active": false, "active"'),
        "[]",
        "{",
        "",
        "[" * 100_000,
    ],
)
def test_other_content_is_another_message(other: dict[str, Any] | str) -> None:
    assert not same_json(bundle(), other)


def test_numbers_are_compared_as_written() -> None:
    texts = [
        json.dumps(bundle(patient={"x": "MARK"})).replace('"MARK"', n) for n in ("1.0", "1.00", "1", '"1"', "1e400")
    ]
    for one in texts:
        assert [same_json(one, other) for other in texts].count(True) == 1


def test_what_cannot_be_read_is_the_same_as_nothing() -> None:
    assert not same_content(b"{", JSON, b"{", JSON)
    assert not same_content(b"\xff", JSON, b"\xff", JSON)
    assert not same_content(b"<", XML, b"<", XML)
    assert same_content(b"[]", JSON, b"[]", JSON)


def xml(header: str = "", patient: str = '<active value="true"/>', root: str = "") -> str:
    return (
        f'<Bundle xmlns="http://hl7.org/fhir"><id value="b"/>{root}<type value="message"/><entry><fullUrl value='
        f'"urn:uuid:m"/><resource><MessageHeader><id value="m"/>{header}<eventUri value="http://e"/><source><endpoint '
        f'value="s"/></source></MessageHeader></resource></entry><entry><resource><Patient><id value="p"/>{patient}'
        '<name><given value="A"/><given value="B"/></name></Patient></resource></entry></Bundle>'
    )


def same_xml(a: str, b: str) -> bool:
    answer = same_content(a.encode(), XML, b.encode(), XML)
    assert answer is same_content(b.encode(), XML, a.encode(), XML)
    return answer


@pytest.mark.parametrize(
    "other",
    [
        xml(),
        xml(root='<meta><lastUpdated value="x"/></meta><timestamp value="x"/><signature><data value="x"/></signature>'),
        xml(header='<meta><versionId value="2"/></meta><timestamp value="x"/>'),
        xml().replace("><", "> \n <").replace('"/>', '"  ></id>').replace("></id>", "/>"),
        "<?xml version='1.0'?><!-- c -->" + xml().replace('"', "'"),
        xml().replace("<Bundle ", '<Bundle xmlns:i="http://i" i:schemaLocation="x" '),
    ],
)
def test_rebuilt_xml_is_the_same_message(other: str) -> None:
    assert same_xml(xml(), other)


@pytest.mark.parametrize(
    "other",
    [
        xml(patient='<active value="false"/>'),
        xml(patient='<active id="x" value="true"/>'),
        xml(patient='<meta><versionId value="2"/></meta><active value="true"/>'),
        xml().replace('<given value="A"/><given value="B"/>', '<given value="B"/><given value="A"/>'),
        xml().replace("<Patient>", '<Patient xmlns="urn:other">'),
        xml(patient="<x>text</x>"),
        '<Bundle xmlns="http://hl7.org/fhir"/>',
        "<x",
    ],
)
def test_other_xml_is_another_message(other: str) -> None:
    assert not same_xml(xml(), other)


def test_white_space_in_a_narrative_counts_only_between_words() -> None:
    def narrative(text: str) -> str:
        return xml(patient=f'<text><div xmlns="http://www.w3.org/1999/xhtml">{text}</div></text>')

    assert same_xml(narrative("<p>a b</p>"), narrative("\n <p>a\n  b</p>"))
    assert not same_xml(narrative("<p>a b</p>"), narrative("<p>ab</p>"))


def test_json_and_xml_of_one_message_are_the_same() -> None:
    extension = '<extension url="http://u"><valueInteger value="7"/></extension>'
    narrative = '<div xmlns="http://www.w3.org/1999/xhtml"><p class="x">a  b</p></div>'
    patient = (
        f'<text><status value="generated"/>{narrative}</text><active value="true"/>'
        f'<birthDate id="d" value="2000">{extension}</birthDate>'
    )
    value = bundle(
        patient={
            "text": {"status": "generated", "div": narrative},
            "birthDate": "2000",
            "_birthDate": {"id": "d", "extension": [{"url": "http://u", "valueInteger": 7}]},
            "name": [{"given": ["A", "B"]}],
        }
    )
    as_json = json.dumps(value).encode()
    assert same_content(as_json, JSON, xml(patient=patient).encode(), XML)
    assert same_content(xml(patient=patient).encode(), XML, as_json, JSON)
    assert not same_content(as_json, JSON, xml(patient=patient.replace("a  b", "ab")).encode(), XML)
    assert not same_content(as_json, JSON, xml(patient=patient.replace('"7"', '"8"')).encode(), XML)
    assert not same_content(as_json, JSON, xml().encode(), XML)
    assert not same_content(as_json, JSON, xml(patient=patient + "text").encode(), XML)
    assert not same_content(b"[1]", JSON, xml().encode(), XML)


def test_arrays_of_json_with_gaps_are_those_of_xml() -> None:
    extended = '<extension url="u"/>'
    names = f'<given value="A"/><given>{extended}</given><given value="B">{extended}</given>'
    one = xml().replace('<given value="A"/><given value="B"/>', names)
    extension = {"extension": [{"url": "u"}]}
    name = {"given": ["A", None, "B"], "_given": [None, extension, extension]}
    assert same_content(json.dumps(bundle(patient={"name": [name]})).encode(), JSON, one.encode(), XML)
    only = {"_birthDate": extension}
    two = xml(patient=f'<birthDate>{extended}</birthDate><active value="true"/>')
    assert same_content(json.dumps(bundle(patient=only)).encode(), JSON, two.encode(), XML)


@pytest.mark.parametrize(
    "path", sorted(file for file in CORPUS.rglob("*") if file.is_file()), ids=lambda path: path.name
)
def test_real_message_is_itself_after_being_laid_out_anew(path: Path) -> None:
    body = path.read_bytes()
    if path.suffix == ".xml":
        assert same_content(body, XML, body.replace(b"><", b">\n<"), XML)
        assert not same_content(body, XML, body.replace(b"value=", b"value =", 1).replace(b"MessageHeader", b"M"), XML)
        return
    # numbers keep their spelling only through a parser that leaves them alone
    value = json.loads(body.decode("utf-8-sig"), parse_float=lambda text: f"\0{text}\0")
    again = json.dumps(value, indent=1).replace('"\\u0000', "").replace('\\u0000"', "")
    assert same_content(body, JSON, again.encode(), JSON)
    value["entry"][-1]["fullUrl"] = "urn:other"
    assert not same_content(body, JSON, json.dumps(value).encode(), JSON)
