"""The reader on JSON: spellings of all releases, tolerances, and everything that is refused."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest

from broker.core.fhir.header import Destination, Event, Format, Header, Identifier, Release, ResponseLink
from broker.core.fhir.media import media_type
from broker.core.fhir.read import read
from broker.core.outcome import Refusal, TooLarge

JSON = media_type("application/fhir+json")
FIRST = "Bundle.entry[0].resource"
CODING = {"system": "http://example.org/events", "code": "admit"}
ORGANIZATION = {
    "resourceType": "Organization",
    "id": "org-1",
    "identifier": [{"system": "urn:ietf:rfc:3986", "value": "urn:oid:1.2.3"}, {"value": "plain"}, {"use": "old"}],
    "address": [{"city": "Bergen"}],
}


def message(header: Any = None, *more: Any, **bundle: Any) -> dict[str, Any]:
    resource: dict[str, Any] = {
        "resourceType": "MessageHeader",
        "eventCoding": CODING,
        "source": {"endpoint": "urn:oid:1"},
    }
    resource |= header or {}
    given = {name: value for name, value in resource.items() if value is not ...}
    return {"resourceType": "Bundle", "type": "message", "entry": [{"resource": given}, *more]} | bundle


def read_value(value: Any, media: str = "json", url_release: Release | None = None) -> Header:
    return read(json.dumps(value).encode(), media_type(media), url_release=url_release)


def refusal_of(body: bytes | dict[str, Any] | list[Any], media: str = "json") -> Refusal:
    if not isinstance(body, bytes):
        body = json.dumps(body).encode()
    with pytest.raises(Refusal) as refusal:
        read(body, media_type(media))
    return refusal.value


def id_of(body: bytes | dict[str, Any] | list[Any]) -> str:
    return refusal_of(body).problem.id


# --- what is read ---


def test_everything_of_an_r4_header_is_read() -> None:
    value = message(
        {
            "id": "mh-1",
            "meta": {"profile": ["http://profile/mh"]},
            "source": {"name": "Ward", "endpoint": "urn:oid:1"},
            "destination": [{"endpoint": "urn:oid:2", "receiver": {"identifier": {"system": "s", "value": "v"}}}],
            "sender": {"identifier": {"value": "alone"}},
            "response": {"identifier": "req-1", "code": "ok"},
            "focus": [{"reference": "Patient/1"}, {"display": "no reference"}],
        },
        id="b-1",
        identifier={"system": "urn:x", "value": "i-1"},
        meta={"profile": ["http://profile/b", None]},
        timestamp="2026-01-01T00:00:00Z",
    )
    assert read_value(value) == Header(
        release=Release.R4,
        format=Format.JSON,
        event=Event("http://example.org/events", "admit"),
        bundle_id="b-1",
        bundle_identifier=Identifier("urn:x", "i-1"),
        message_id="mh-1",
        timestamp="2026-01-01T00:00:00Z",
        source="urn:oid:1",
        source_name="Ward",
        destinations=(Destination(endpoint="urn:oid:2", receivers=("s|v",)),),
        response=ResponseLink(identifier=Identifier("", "req-1"), code="ok"),
        senders=("alone",),
        profiles=("http://profile/b", "http://profile/mh"),
        focus=("Patient/1",),
    )


@pytest.mark.parametrize(
    ("header", "release"),
    [
        ({}, Release.R4),
        ({"response": {"identifier": "x", "code": "ok"}}, Release.R4),
        ({"eventCoding": ..., "eventUri": "http://e"}, Release.R4),
        ({"source": {"endpointUrl": "http://s"}}, Release.R5),
        ({"source": {"endpointReference": {"reference": "Endpoint/1"}}}, Release.R5),
        ({"destination": [{"endpointUrl": "http://d"}]}, Release.R5),
        ({"eventCoding": ..., "eventCanonical": "http://e"}, Release.R5),
        ({"response": {"identifier": {"value": "x"}, "code": "ok"}}, Release.R5),
        ({"source": {"endpointUrl": "http://s", "sender": {"display": "x"}}}, Release.R6),
        ({"eventCoding": ..., "event": CODING}, Release.STU3),
        ({"eventCoding": ..., "event": CODING, "focus": [{"reference": "a"}]}, Release.STU3),
        ({"eventCoding": ..., "event": CODING, "data": [{"reference": "a"}]}, Release.DSTU2),
    ],
)
def test_release_shows_in_the_spelling(header: dict[str, Any], release: Release) -> None:
    """M-2."""
    assert read_value(message(header)).release is release


def test_media_type_goes_before_the_url_and_the_url_before_the_spelling() -> None:
    """M-2."""
    value = message({"source": {"endpointUrl": "http://s"}})
    assert read_value(value, "json; fhirVersion=4.3", Release.R4).release is Release.R4B
    assert read_value(value, "json", Release.R4).release is Release.R4
    assert read_value(value).release is Release.R5


@pytest.mark.parametrize(
    ("header", "event"),
    [
        ({"eventCoding": {"system": "s"}}, Event("s", "")),
        ({"eventCoding": {"display": "x"}}, Event("", "")),
        ({"eventCoding": ..., "eventUri": "http://e"}, Event("", "http://e")),
        ({"eventCoding": ..., "_eventUri": {"extension": []}}, Event("", "")),
        ({"eventCoding": ..., "eventCanonical": "http://e"}, Event("", "http://e")),
        ({"eventCoding": ..., "event": CODING}, Event("http://example.org/events", "admit")),
    ],
)
def test_event_has_four_spellings_and_may_lack_its_code(header: dict[str, Any], event: Event) -> None:
    assert read_value(message(header)).event == event


@pytest.mark.parametrize(
    ("destination", "endpoint"),
    [
        ({"endpoint": "[ODSCode]:[DoSId]"}, "[ODSCode]:[DoSId]"),
        ({"endpointUrl": "HTTP://A/#id=1"}, "HTTP://A/#id=1"),
        ({"endpoint": "x", "endpointUrl": "x"}, "x"),
        ({"name": "only a name"}, None),
        ({"_endpoint": {"extension": [{"url": "http://u"}]}}, None),
        ({}, None),
        ({"endpointReference": {}}, None),
        ({"endpointReference": {"reference": "Endpoint/e1"}}, "http://in-bundle"),
        ({"endpointReference": {"reference": "urn:uuid:e1"}}, "http://in-bundle"),
        ({"endpointReference": {"reference": "Endpoint/e2"}}, "s|no-address"),
        ({"endpointReference": {"reference": "Endpoint/e3"}}, "Endpoint/e3"),
        ({"endpointReference": {"reference": "#c1"}}, "http://contained"),
        ({"endpointReference": {"reference": "#c9"}}, "#c9"),
        ({"endpointReference": {"reference": "http://elsewhere/Endpoint/1"}}, "http://elsewhere/Endpoint/1"),
        (
            {"endpointReference": {"reference": "http://elsewhere", "identifier": {"value": "v"}}},
            "http://elsewhere",
        ),
        ({"endpointReference": {"reference": "Endpoint/e9", "identifier": {"value": "v"}}}, "v"),
        ({"endpointReference": {"reference": "Endpoint/e9", "identifier": {"system": "s"}}}, "Endpoint/e9"),
        ({"endpointReference": {"reference": "Endpoint/e9"}}, "Endpoint/e9"),
        ({"endpointReference": {"identifier": {"system": "s", "value": "v"}}}, "s|v"),
        ({"endpointReference": {"identifier": {"system": "s"}}}, None),
    ],
)
def test_endpoint_is_taken_as_written_or_by_reference(destination: dict[str, Any], endpoint: str | None) -> None:
    """M-3, M-4."""
    entries = [
        {"fullUrl": "urn:uuid:e1", "resource": {"resourceType": "Endpoint", "id": "e1", "address": "http://in-bundle"}},
        {"resource": {"resourceType": "Endpoint", "id": "e2", "identifier": {"system": "s", "value": "no-address"}}},
        {"resource": {"resourceType": "Endpoint", "id": "e3"}},
    ]
    contained = [{"resourceType": "Endpoint", "id": "c1", "address": "http://contained"}]
    header = read_value(message({"destination": [destination], "contained": contained}, *entries))
    assert header.destinations == (Destination(endpoint=endpoint),)
    header = read_value(message({"source": destination, "contained": contained}, *entries))
    assert header.source == endpoint


def test_message_may_name_no_destination_and_have_no_ids() -> None:
    """M-5."""
    header = read_value(message())
    assert header.destinations == ()
    assert (header.bundle_id, header.message_id, header.bundle_identifier, header.timestamp) == (None,) * 4
    assert not header.is_response


def test_identifier_without_a_value_is_none() -> None:
    assert read_value(message(identifier={"system": "s"})).bundle_identifier is None


@pytest.mark.parametrize("reference", ["Organization/org-1", "urn:uuid:o", "https://x/Organization/org-1"])
def test_parties_are_known_by_the_identifiers_of_what_they_refer_to(reference: str) -> None:
    url = reference if ":" in reference else "urn:uuid:other"
    party = {"reference": reference, "identifier": {"system": "s", "value": "own"}}
    found = ("s|own", "urn:ietf:rfc:3986|urn:oid:1.2.3", "plain")
    entry = {"fullUrl": url, "resource": ORGANIZATION}
    header = read_value(message({"sender": party, "destination": [{"receiver": party}]}, entry, {}, None, 7))
    assert header.senders == found
    assert header.destinations[0].receivers == found
    assert read_value(message({"source": {"sender": party}}, entry)).senders == found


def test_party_may_be_contained_or_not_be_there() -> None:
    header = read_value(message({"sender": {"reference": "#o"}, "contained": [ORGANIZATION | {"id": "o"}]}))
    assert header.senders[1] == "plain"
    assert read_value(message({"sender": {"reference": "Organization/9"}})).senders == ()
    assert read_value(message({"sender": {"display": "x"}})).senders == ()


def test_first_of_two_entries_with_one_url_is_the_one_referred_to() -> None:
    two = [
        {"fullUrl": "urn:uuid:o", "resource": {"resourceType": "Organization", "identifier": [{"value": value}]}}
        for value in ("first", "second")
    ]
    assert read_value(message({"sender": {"reference": "urn:uuid:o"}}, *two)).senders == ("first",)


def test_many_references_are_looked_up_without_searching_for_each() -> None:
    destinations = [{"receiver": {"reference": f"Organization/{n}"}} for n in range(20)]
    entries = [
        {"resource": {"resourceType": "Organization", "id": str(n), "identifier": {"value": f"v{n}"}}}
        for n in range(20)
    ]
    header = read_value(message({"destination": destinations}, *entries))
    assert [destination.receivers for destination in header.destinations] == [(f"v{n}",) for n in range(20)]


def test_identifiers_of_odd_shape_are_passed_over() -> None:
    odd = ORGANIZATION | {"identifier": ["text", 7, {"value": 7}, {"system": [], "value": "x"}, {"value": "good"}]}
    assert read_value(message({"sender": {"reference": "urn:o"}}, {"fullUrl": "urn:o", "resource": odd})).senders == (
        "good",
    )


def test_receiver_of_stu3_is_that_of_every_destination_that_names_none() -> None:
    header = {"eventCoding": ..., "event": CODING, "receiver": {"identifier": {"value": "r"}}, "timestamp": "2019"}
    assert read_value(message(header)).destinations == (Destination(receivers=("r",)),)
    assert read_value(message(header)).timestamp == "2019"
    assert read_value(message(header | {"receiver": {"display": "x"}})).destinations == ()
    header["destination"] = [{"endpoint": "a"}, {"endpoint": "b", "receiver": {"identifier": {"value": "own"}}}]
    assert read_value(message(header)).destinations == (
        Destination(endpoint="a", receivers=("r",)),
        Destination(endpoint="b", receivers=("own",)),
    )


@pytest.mark.parametrize(
    ("code", "expected"), [("never", "never"), ("on-error", "on-error"), ("sometimes", None), ("", None)]
)
def test_extension_says_whether_a_response_is_wanted(code: str, expected: str | None) -> None:
    """M-34."""
    extensions = [
        {"url": "http://other", "valueCode": "always"},
        {"url": "http://nested", "extension": [{"url": "x", "valueString": "y"}]},
        {"url": "http://hl7.org/fhir/StructureDefinition/messageheader-response-request", "valueCode": code},
    ]
    assert read_value(message({"extension": extensions})).response_request == expected


def test_response_of_r5_quotes_an_identifier() -> None:
    link = read_value(message({"response": {"identifier": {"system": "s", "value": "v"}, "code": "ok"}})).response
    assert link == ResponseLink(identifier=Identifier("s", "v"), code="ok")


def test_focus_of_dstu2_is_called_data() -> None:
    assert read_value(message({"data": [{"reference": "Patient/1"}]})).focus == ("Patient/1",)


# --- what a text may be ---


def test_bom_is_no_reason_to_refuse() -> None:
    assert read(b"\xef\xbb\xbf" + json.dumps(message()).encode(), JSON).source == "urn:oid:1"


@pytest.mark.parametrize(
    "content",
    [
        '"\\ud800"', '"\\udc00"', '"\\udc00\\ud800"', '"\\ud83d\\ude00"', '"\\\\ud800 \\ud800\\\\"',
        '"\\ud800\\ud800\\udc00"',
        "0.4e00669999999999999999999999", "9" * 500, '{"a":1,"a":2}', '"æøå\\u0000"', '"}]{["', '"\\"}"', "-0",
    ],
)  # fmt: skip
@pytest.mark.parametrize("holder", ["entry", "header", "bundle"])
def test_odd_json_of_no_concern_is_carried(content: str, holder: str) -> None:
    """X-43: lone surrogates and huge numbers are not ours to judge; a name twice counts where we read."""
    if holder != "entry" and "a" in content[:3]:
        return
    places = {"entry": message({}, "MARK"), "header": message({"text": "MARK"}), "bundle": message(signature="MARK")}
    body = json.dumps(places[holder]).replace('"MARK"', content).encode()
    assert read(body, JSON).source == "urn:oid:1"


@pytest.mark.parametrize("place", [{"id": "a\ud800"}, {"source": {"endpoint": "\udc00"}}])
def test_half_a_pair_in_what_is_read_is_refused(place: dict[str, Any]) -> None:
    assert id_of(message(place)) == "lone-surrogate"


def test_name_written_with_escapes_is_the_same_name() -> None:
    body = json.dumps(message({"id": "x"}, id="b")).replace('"id"', '"i\\u0064"').encode()
    assert (read(body, JSON).message_id, read(body, JSON).bundle_id) == ("x", "b")


def test_unknown_elements_of_the_bundle_are_passed_over() -> None:
    value = message(signature={"data": "x"}, link=[{"relation": "self"}], total=1, language="nb")
    assert read_value(value).source == "urn:oid:1"
    assert read_value(message(id="")).bundle_id is None
    assert read_value(message(id='quo"ted')).bundle_id == 'quo"ted'


@pytest.mark.parametrize(
    "broken",
    [
        "{", "nul", "[1,]", '{"a":1,}', "NaN", "-Infinity", "01", "1.", ".5", "+1", '"\\x"', '"\\u12"', '"\t"',
        "'a'", "{a:1}",
        "/*x*/1", "[1}", '"\x01"', '"\x00"', '"\\ud800" x', '"\\ud800" NaN', "\x00",
    ],
)  # fmt: skip
@pytest.mark.parametrize("deep", [False, True])
def test_broken_json_is_refused_also_where_nobody_reads(broken: str, deep: bool) -> None:
    value = message({}, {"resource": {"resourceType": "Patient", "x": ["MARK"]}} if deep else "MARK")
    refusal = refusal_of(json.dumps(value).replace('"MARK"', broken).encode())
    assert (refusal.problem.id, refusal.problem.code) == ("malformed-json", "structure")


@pytest.mark.parametrize("end", ["x", "{}", "\0", ",", "]"])
def test_garbage_after_the_bundle_is_refused(end: str) -> None:
    assert id_of(json.dumps(message()).encode() + end.encode()) == "malformed-json"


def test_truncated_json_is_refused_wherever_it_ends() -> None:
    body = json.dumps(message({"id": "æ"}, {"resource": ORGANIZATION}), ensure_ascii=False).encode()
    assert {id_of(body[:n]) for n in range(1, len(body))} == {"malformed-json", "not-utf-8"}


def test_place_of_a_mistake_is_named() -> None:
    assert "line 2, column 11" in str(refusal_of(b'{"type":"message",\n "entry": x}'))


def test_xml_sent_as_json_is_told_so() -> None:
    assert "looks like XML" in str(refusal_of(b'<Bundle xmlns="http://hl7.org/fhir"/>'))


@pytest.mark.parametrize("bad", [b"\xff", b"\xc0\xaf", b"\xed\xa0\x80", b"\xe6"])
def test_bytes_that_are_not_utf8_are_refused_wherever_they_stand(bad: bytes) -> None:
    body = json.dumps(message({}, {"resource": {"resourceType": "Patient", "x": "MARK"}})).encode()
    assert id_of(body.replace(b"MARK", bad)) == "not-utf-8"


@pytest.mark.parametrize("body", [b"", b" \r\n\t"])
@pytest.mark.parametrize("media", ["json", "xml"])
def test_empty_body_is_refused(body: bytes, media: str) -> None:
    assert refusal_of(body, media).problem.id == "empty-body"


# --- depth ---


def nested(levels: int, inner: str = "1", fill: str = "") -> bytes:
    """A message whose deepest part lies `levels` deep (the Bundle and its entries are three of them)."""
    deep = "[" * (levels - 3) + inner + "]" * (levels - 3)
    return json.dumps(message({}, {"x": "MARK", "fill": fill})).replace('"MARK"', deep).encode()


@pytest.mark.parametrize("fill", ["", "[" * 300, '\\"[[[' * 90, '{"' * 300, "\\" * 300, "[]" * 300])
def test_depth_is_bounded_whatever_stands_in_strings(fill: str) -> None:
    assert read(nested(128, fill=fill), JSON).source == "urn:oid:1"
    assert id_of(nested(129, fill=fill)) == "too-deep"


def test_depth_cannot_be_hidden_by_brackets_in_strings() -> None:
    inner = "1"
    for _ in range(200):
        inner = '{"}":' + inner + ',"{":1}'
    assert id_of(nested(4, inner=inner)) == "too-deep"


@pytest.mark.parametrize("depth", [2_000, 100_000, 3_000_000])
def test_bottomless_json_is_refused(depth: int) -> None:
    assert id_of(b"[" * depth) == "too-deep"
    assert id_of(b'{"a":' * depth) == "too-deep"
    assert id_of(nested(depth)) == "too-deep"
    assert id_of(nested(depth).replace(b'"fill": ""', b'"\\ud800": 1')) in ("too-deep", "malformed-json")
    assert id_of(b'{"a":"\\ud800","b":' + b"[" * depth) == "too-deep"


@pytest.mark.parametrize("chain", [b"[]", b"[" * 100 + b"]" * 100, b"{},", b'["}"]', b'"",', b"1,"])
def test_large_bodies_of_nothing_but_structure_are_read_in_time(chain: bytes) -> None:
    """Limits the work per byte: 4 MB of the worst that we know takes well under a second."""
    chains = b",".join([chain.rstrip(b",")] * (4_000_000 // len(chain)))
    body = json.dumps(message({}, "MARK")).encode().replace(b'"MARK"', b"[" + chains + b"]")
    started = time.perf_counter()
    read(body, JSON)
    assert time.perf_counter() - started < 5


# --- plain messages are read at once, any other part by part ---

PLAIN = message({"destination": [{"endpoint": "urn:oid:2"}]}, {"resource": ORGANIZATION}, {"resource": {"x": "{}"}})


def spelt(value: dict[str, Any], **how: Any) -> bytes:
    return json.dumps(value, **how).encode()


@pytest.mark.parametrize(
    "body",
    [
        spelt(PLAIN, indent=2),
        spelt(PLAIN, separators=(",", ":")),
        spelt(PLAIN, sort_keys=True),  # the second resource says its type late
        spelt(PLAIN | {"entry": PLAIN["entry"][:1]}),
        spelt(PLAIN | {"x": "entry"}),
        spelt({"entry": [1], **PLAIN, "x": {"entry": PLAIN["entry"]}}),  # `entry` further in, and after
        spelt({"x": {"entry": PLAIN["entry"]}, **PLAIN}),  # and before
        spelt({"x": {"entry": []}, **PLAIN}),
        spelt({"x": "entry", **PLAIN}),
        spelt({"x": 'an "entry": [', **PLAIN}),
        spelt({"link": [{"relation": "self", "url": "x"}], **PLAIN, "total": 10**400}),
        spelt({**PLAIN, "signature": {"data": "x" * 40_000}}),
        spelt(PLAIN).replace(b'"entry"', b'"\\u0065ntry"'),
        spelt(PLAIN).replace(b'"id"', b'"contained": [{"resourceType": "X"}], "id"'),
        spelt(PLAIN).replace(b'{"resource"', b'{"link": [{"url": "} \\"resourceType\\""}], "resource"'),
        spelt(PLAIN).replace(b'{"resource"', b'{"fullUrl": "}", "search": {}, "resource"'),
    ],
)
def test_however_a_message_is_spelt_its_header_is_the_same(body: bytes) -> None:
    assert read(body, JSON) == read_value(PLAIN)


@pytest.mark.parametrize(
    "first",
    [
        {"resource": PLAIN["entry"][0]["resource"], "contained": [{"x": "} "}]},
        {"resource": PLAIN["entry"][0]["resource"] | {"contained": [{"resourceType": "Organization", "id": "o"}]}},
        {"resource": PLAIN["entry"][0]["resource"] | {"text": {"div": 'a } and a "resourceType"'}}},
        {"link": [{"x": "}"}, {"resourceType": "}"}], "resource": PLAIN["entry"][0]["resource"]},
        {"a": [{"b": {"resourceType": 1}}, 2], "resource": PLAIN["entry"][0]["resource"]},
    ],
)
@pytest.mark.parametrize("after", [{}, {"x": [{"y": "]"}]}, {"link": [{"resourceType": "}"}]}])
def test_first_entry_is_found_whatever_it_holds(first: dict[str, Any], after: dict[str, Any]) -> None:
    body = spelt({**PLAIN, "entry": [first, *PLAIN["entry"][1:]], **after})
    assert read(body, JSON) == read_value(PLAIN)


# --- names written twice (X-43) ---


@pytest.mark.parametrize(
    ("name", "first", "where"),
    [
        ('"id"', '"id":"a",', "Bundle"),
        ('"type"', '"type":"batch",', "Bundle"),
        ('"entry"', '"entry":[],', "Bundle"),
        ('"signature"', '"signature":1,', "Bundle"),
        ('"identifier"', '"identifier":{},', "Bundle"),
        ('"value"', '"value":"a",', "Bundle.identifier"),
        ('"profile"', '"profile":[],', "Bundle.meta"),
        ('"resource"', '"resource":{},', "Bundle.entry[0]"),
        ('"source"', '"source":{},', "Bundle.entry[0]"),
        ('"endpoint"', '"endpoint":"a",', "Bundle.entry[0]"),
        ('"endpoint"', '"endp\\u006fint":"a",', "Bundle.entry[0]"),
        ('"text"', '"text":{"div":"\\""},', "Bundle.entry[0]"),
        ('"unknown"', '"unknown":1,', "Bundle.entry[0]"),
    ],
)
def test_name_written_twice_is_refused_where_it_is_read(name: str, first: str, where: str) -> None:
    value = message(
        {"text": {"div": 1}, "unknown": {"huge": 1}},
        id="b",
        identifier={"value": "v"},
        meta={"profile": ["p"]},
        signature={"x": "y"},
    )
    body = json.dumps(value).replace(name, first + name, 1).encode()
    problem = refusal_of(body).problem
    assert (problem.id, problem.code, problem.expression) == ("duplicate-key", "structure", (where,))


def test_name_written_twice_beside_a_number_no_machine_holds_is_refused() -> None:
    body = json.dumps(message({"x": "MARK", "y": 1})).replace('"MARK"', "9" * 400).replace('"y"', '"y": 2, "y"')
    assert id_of(body.encode()) == "duplicate-key"


def test_name_written_twice_in_the_entry_of_a_party_is_refused() -> None:
    body = json.dumps(message({"sender": {"reference": "Organization/org-1"}}, {"resource": ORGANIZATION}))
    assert id_of(body.replace('"address"', '"identifier": [], "address"').encode()) == "duplicate-key"


def test_name_with_a_quote_in_it_is_no_name_of_a_bundle() -> None:
    assert id_of(message(**{'a"b': 1})) == "duplicate-key"


def test_flood_of_names_in_the_bundle_is_refused_without_looking_at_each() -> None:
    assert id_of(message(**{f"n{n}": 1 for n in range(20_000)})) == "unknown-elements"


# --- wrong types ---


@pytest.mark.parametrize(
    ("header", "expression"),
    [
        ({"id": 7}, f"{FIRST}.id"),
        ({"id": None}, f"{FIRST}.id"),
        ({"source": "urn:oid:1"}, f"{FIRST}.source"),
        ({"source": []}, f"{FIRST}.source"),
        ({"source": None}, f"{FIRST}.source"),
        ({"source": {"endpoint": {}}}, f"{FIRST}.source.endpoint"),
        ({"destination": {"endpoint": "x"}}, f"{FIRST}.destination"),
        ({"destination": ["x"]}, f"{FIRST}.destination[0]"),
        ({"destination": [{"endpoint": 1.5}]}, f"{FIRST}.destination[0].endpoint"),
        ({"eventCoding": "x"}, f"{FIRST}.eventCoding"),
        ({"response": {"identifier": 7, "code": "ok"}}, f"{FIRST}.response.identifier"),
        ({"response": {"identifier": "x", "code": True}}, f"{FIRST}.response.code"),
        ({"focus": {"reference": "x"}}, f"{FIRST}.focus"),
        ({"sender": {"reference": 7}}, f"{FIRST}.sender.reference"),
        ({"resourceType": 7}, FIRST),
    ],
)
def test_wrong_type_in_the_header_is_refused_by_name(header: dict[str, Any], expression: str) -> None:
    problem = refusal_of(message(header)).problem
    assert problem.expression == (expression,)
    assert problem.id == ("no-message-header" if expression == FIRST else "wrong-type")
    assert "7" not in problem.text


@pytest.mark.parametrize(
    ("bundle", "expression"),
    [
        ({"id": 7}, "Bundle.id"),
        ({"type": None}, "Bundle.type"),
        ({"entry": {}}, "Bundle.entry"),
        ({"entry": None}, "Bundle.entry"),
        ({"entry": [None]}, "Bundle.entry[0]"),
        ({"entry": ["x"]}, "Bundle.entry[0]"),
        ({"entry": [[]]}, "Bundle.entry[0]"),
        ({"entry": [True]}, "Bundle.entry[0]"),
        ({"entry": [7]}, "Bundle.entry[0]"),
        ({"entry": [{"resource": None}]}, FIRST),
        ({"entry": [{"resource": []}]}, FIRST),
        ({"identifier": []}, "Bundle.identifier"),
        ({"identifier": {"value": 7}}, "Bundle.identifier.value"),
        ({"meta": 7}, "Bundle.meta"),
        ({"meta": {"profile": "x"}}, "Bundle.meta.profile"),
        ({"resourceType": 7}, "Bundle.resourceType"),
    ],
)
def test_wrong_type_in_the_bundle_is_refused_by_name(bundle: dict[str, Any], expression: str) -> None:
    problem = refusal_of(message(**bundle)).problem
    assert (problem.id, problem.code, problem.expression) == ("wrong-type", "structure", (expression,))


def test_number_that_no_machine_holds_is_no_address() -> None:
    value = message({"contained": [{"resourceType": "Endpoint", "address": "MARK"}]})
    assert id_of(json.dumps(value).replace('"MARK"', "0.4e00669999999999999").encode()) == "wrong-type"


@pytest.mark.parametrize("body", [b"[]", b'"x"', b"null", b"7", b"true"])
def test_json_that_is_no_object_is_refused(body: bytes) -> None:
    problem = refusal_of(body).problem
    assert (problem.id, problem.expression) == ("wrong-type", ("Bundle",))


# --- not a message ---


@pytest.mark.parametrize(
    "value",
    [{}, {"resourceType": "Patient"}, {"resourceType": "Organization", "type": []}, {"resourceType": "x" * 500}],
)
def test_other_resources_are_no_message(value: dict[str, Any]) -> None:
    refusal = refusal_of(value)
    assert refusal.problem.id == "not-a-bundle"
    assert len(refusal.problem.text) < 200


@pytest.mark.parametrize("type_", ["batch", "collection", "subscription-notification", "Message"])
def test_other_bundles_are_no_message(type_: str) -> None:
    """M-10."""
    problem = refusal_of(message(type=type_)).problem
    assert (problem.id, problem.code, problem.expression) == ("not-a-message", "invariant", ("Bundle.type",))
    assert type_ in problem.text


@pytest.mark.parametrize(
    ("value", "expression"),
    [
        ({"resourceType": "Bundle"}, "Bundle.type"),
        ({"resourceType": "Bundle", "type": "message"}, "Bundle.entry"),
        (message({"source": ...}), f"{FIRST}.source"),
        (message({"eventCoding": ...}), f"{FIRST}.event[x]"),
        (message({"response": {"code": "ok"}}), f"{FIRST}.response.identifier"),
        (message({"response": {"identifier": {"system": "s"}, "code": "ok"}}), f"{FIRST}.response.identifier"),
        (message({"response": {"identifier": "x"}}), f"{FIRST}.response.code"),
    ],
)
def test_missing_element_is_named(value: dict[str, Any], expression: str) -> None:
    problem = refusal_of(value).problem
    assert (problem.id, problem.code, problem.expression) == ("missing-element", "required", (expression,))


@pytest.mark.parametrize(
    "entry",
    [[], [{}], [{"fullUrl": "x"}], [{"resoure": {}}], [{"resource": {}}], [{"resource": {"resourceType": "Patient"}}]],
)
def test_first_entry_must_hold_the_header(entry: list[Any]) -> None:
    """M-10, bdl-12."""
    problem = refusal_of(message(entry=entry)).problem
    assert (problem.id, problem.code, problem.expression) == ("no-message-header", "invariant", (FIRST,))


def test_misspelt_resource_is_recognised() -> None:
    assert "'resoure'" in str(refusal_of(message(entry=[{"resoure": {}}])))


@pytest.mark.parametrize(
    ("header", "expression"),
    [
        ({"source": {"endpoint": "a", "endpointUrl": "b"}}, f"{FIRST}.source.endpoint[x]"),
        ({"destination": [{"endpoint": "a", "endpointUrl": "b"}]}, f"{FIRST}.destination.endpoint[x]"),
        ({"eventUri": "http://e"}, f"{FIRST}.event[x]"),
    ],
)
def test_header_that_says_two_things_is_refused(header: dict[str, Any], expression: str) -> None:
    problem = refusal_of(message(header)).problem
    assert (problem.id, problem.code, problem.expression) == ("contradiction", "invariant", (expression,))


def test_header_of_more_than_a_mebibyte_is_refused() -> None:
    assert isinstance(refusal_of(message({"text": "x" * (1 << 20)})), TooLarge)
    assert read_value(message({}, {"resource": {"text": "x" * (1 << 20)}})).source == "urn:oid:1"


def test_flood_of_tiny_entries_is_not_searched() -> None:
    entries = b'{"x":1},' * 200_000
    for sender, refused in (({"display": "x"}, False), ({"reference": "Organization/1"}, True)):
        body = json.dumps(message({"sender": sender}, "MARK")).encode().replace(b'"MARK"', entries + b'{"x":"1"}')
        if refused:
            assert id_of(body) == "too-many-entries"
        else:
            assert read(body, JSON).senders == ()
