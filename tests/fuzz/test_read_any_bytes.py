"""Any bytes are a header or a refusal that says why; never anything else."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from broker.core.fhir.header import Header
from broker.core.fhir.media import acceptable, media_type
from broker.core.fhir.read import read
from broker.core.fhir.same import same_content
from broker.core.identity import identity, quotable_ids, quoted_ids
from broker.core.outcome import Refusal, Unsupported

CORPUS = Path(__file__).parent.parent / "corpus"
SEEDS = [
    file.read_bytes()
    for category in ("messages", "subscriptions", "invalid")
    for file in sorted((CORPUS / category).rglob("*"))
    if file.is_file() and file.stat().st_size < 24_000
]
MEDIA = [media_type("json"), media_type("xml"), media_type("json; fhirVersion=5.0")]
quickly = settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))

# what breaks readers: brackets, quotes, escapes, half characters, odd numbers and names out of the header itself
SPLINTERS = [
    b"", b"{", b"}", b"[", b"]", b'"', b"\\", b",", b":", b"<", b">", b"/>", b"\0", b"\xff", b"\xc3", b"\xef\xbb\xbf",
    b"null", b"[]", b"{}", b"1e999", b"-", b'"\\ud800"', b"&#0;", b"&x;", b"<!DOCTYPE x>", b"<!--", b'"id":1,',
    b'"source":null,', b'"endpoint":[],', b"<source/>", b"<entry/>", b'"reference":"#x",', b'"entry":[],',
    b"[" * 200, b"<x>" * 200,
]  # fmt: skip


def check(body: bytes) -> None:
    for media in MEDIA:
        header: Header | Refusal
        try:
            header = read(body, media)
        except Refusal as refusal:
            header = refusal
        if isinstance(header, Refusal):
            assert all(problem.text and problem.id for problem in header.problems)
            continue
        assert isinstance(header, Header)
        msgspec.json.encode(header).decode()  # every text of it can be written down
        assert identity(header, b"\0" * 32).key
        assert all(quotable_ids(header))
        assert header.response is None or quoted_ids(header.response)
        assert same_content(body, media.format, body, media.format)


def check_that_closely_is_the_same(body: bytes) -> None:
    """What is read at once has the header, or the refusal, that it has where an escape calls for a closer look."""
    start = body.find(b"{") + 1
    closely = body[:start] + b'"_":"\\n",' + body[start:]
    assert what_is_read(closely) == what_is_read(body) or not body[start:].lstrip().startswith(b'"')


def what_is_read(body: bytes) -> Header | list[tuple[str, object]]:
    try:
        return read(body, MEDIA[0])
    except Refusal as refusal:
        return [(problem.id, problem.expression) for problem in refusal.problems]


@quickly
@given(st.binary(max_size=300))
def test_any_bytes(body: bytes) -> None:
    check(body)


@quickly
@given(st.data())
def test_real_messages_with_something_wrong(data: st.DataObject) -> None:
    body = bytearray(data.draw(st.sampled_from(SEEDS)))
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(body)))
        length = data.draw(st.sampled_from([0, 0, 1, 2, 30, 1000]))
        body[at : at + length] = data.draw(st.sampled_from(SPLINTERS) | st.binary(max_size=6))
    check(bytes(body))
    check_that_closely_is_the_same(bytes(body))


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
NAMES = [
    "id", "meta", "extension", "contained", "event", "eventCoding", "eventUri", "_eventUri", "eventCanonical", "source",
    "destination", "sender", "receiver", "response", "focus", "data", "timestamp", "identifier", "endpoint",
    "endpointUrl", "endpointReference", "reference", "value", "system", "code", "profile",
]  # fmt: skip
elements = st.recursive(
    anything,
    lambda inner: (
        st.dictionaries(st.sampled_from(NAMES), inner | st.just("x"), max_size=5) | st.lists(inner, max_size=3)
    ),
    max_leaves=12,
)


@quickly
@given(
    header=st.dictionaries(st.sampled_from(NAMES), elements, max_size=6),
    bundle=st.dictionaries(st.sampled_from(["id", "identifier", "meta", "timestamp", "x"]), elements, max_size=3),
    more=st.lists(elements | st.fixed_dictionaries({"fullUrl": st.just("x"), "resource": elements}), max_size=3),
)
def test_headers_of_any_shape(header: dict[str, object], bundle: dict[str, object], more: list[object]) -> None:
    resource = {"resourceType": "MessageHeader", "eventCoding": {}, "source": {}, **header}
    value = {"resourceType": "Bundle", "type": "message", "entry": [{"resource": resource}, *more], **bundle}
    check(json.dumps(value).encode())
    check_that_closely_is_the_same(json.dumps(value).encode())


@quickly
@given(
    st.text(max_size=60) | st.from_regex(r"application/fhir\+(json|xml)(;[a-zA-Z]*=\"?[0-9.,;\\]*\"?)*", fullmatch=True)
)
def test_any_media_type(text: str) -> None:
    for call in (media_type, acceptable, lambda text: acceptable(None, text)):
        with contextlib.suppress(Unsupported):
            call(text)


@pytest.mark.parametrize("seed", SEEDS[:20], ids=range(20))
def test_real_messages_cut_anywhere(seed: bytes) -> None:
    for n in range(0, len(seed), max(1, len(seed) // 40)):
        check(seed[:n])
