"""Patterns of addresses: what an allow-list lets through, attacked (M-48, A-27)."""

from __future__ import annotations

import re
from urllib.parse import urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.core.address_pattern import AddressPattern, AddressPatterns, read_url

PARTNER = AddressPattern.parse("https://*.partner.example/*")


@pytest.mark.parametrize(
    "address",
    [
        "https://a.partner.example/fhir",
        "https://a.b.partner.example/fhir/$process-message?async=true",
        "https://a.partner.example:443/x",
        "https://a.partner.example",
        "https://a.partner.example/",
        "https://a.partner.example?x=1",
        "HTTPS://A.Partner.EXAMPLE/x",
        "https://a.partner.example/x/?y=/../z@b",
        "https://a.partner.example/%C3%A9t%C3%A9/~a_b-c",
        "https://xn--bcher-kva.partner.example/x",
    ],
)
def test_addresses_of_the_partner_are_meant(address: str) -> None:
    assert PARTNER.matches(address)


@pytest.mark.parametrize(
    "address",
    [
        "https://partner.example/x",  # `*.` is one label at least
        "https://.partner.example/x",
        "https://a..partner.example/x",
        "https://evilpartner.example/x",
        "https://a.partner.example.evil.com/x",
        "https://partner.example.evil.com/x",
        "http://a.partner.example/x",
        "https://a.partner.example:8443/x",
        "https://a.partner.example:443443/x",
        "https://a.partner.example:0443/x",
        "https://a.partner.example:/x",
        "https://a.partner.example:70000/x",
        "https://a.partner.example:-1/x",
        "https://a.partner.example:٤٤٣/x",
        "https://a.partner.example./x",
        "https://user@a.partner.example/x",
        "https://user:pw@a.partner.example/x",
        "https://evil.com@a.partner.example/x",
        "https://a.partner.example@evil.com/x",
        "https://evil.com:443@a.partner.example/",
        "https://evil.com#@a.partner.example/x",
        "https://evil.com?@a.partner.example/x",
        "https://evil.com/.partner.example/x",
        "https://evil.com\\.partner.example/x",
        "https://evil.com\\@a.partner.example/x",
        "https:\\\\a.partner.example/x",
        "https:///a.partner.example/x",
        "https:a.partner.example/x",
        "https:/a.partner.example/x",
        "//a.partner.example/x",
        "https://evil.com%2f.partner.example/x",
        "https://evil.com%00.partner.example/x",
        "https://evil.com%23.partner.example/x",
        "https://a.partner.example/x#fragment",
        "https://a.partner.example/x#",
        "https://a.partner.example/../x",
        "https://a.partner.example/x/..",
        "https://a.partner.example/x/..;/y",
        "https://a.partner.example/./x",
        "https://a.partner.example/%2e%2e/x",
        "https://a.partner.example/.%2E/x",
        "https://a.partner.example/a%2fb",
        "https://a.partner.example/a%5Cb",
        "https://a.partner.example/a%252fb",
        "https://a.partner.example/a%0d%0aHost:evil",
        "https://a.partner.example/a%",
        "https://a.partner.example/a%zz",
        "https://a.partner.example/a b",
        "https://a.partner.example/a\r\nHost: evil",
        "https://a.partner.example/x\n",
        "\thttps://a.partner.example/x",
        "https://a.partner.example/x?\t",
        "https://a.partner.example/x\x00",
        "https://a.partner.example/é",
        "https://evil.com。partner.example/x",
        "https://a.partner.еxample/x",
        "https://a.PARTNER.EXAMPLEK/x",
        "https://-a.partner.example/x",
        "https://*.partner.example/x/{y}",
        "https://" + "a." * 130 + "partner.example/x",
        "https://" + "a" * 64 + ".partner.example/x",
        "https://a.partner.example/" + "x" * 9000,
        "wss://a.partner.example/x",
        "https",
        "",
    ],
)
def test_whatever_is_not_surely_the_partners_is_refused(address: str) -> None:
    assert not PARTNER.matches(address)
    assert not AddressPatterns([PARTNER]).match(address)


@pytest.mark.parametrize(
    ("pattern", "address", "fits"),
    [
        ("https://a.example/fhir/*", "https://a.example/fhir/x/y", True),
        ("https://a.example/fhir/*", "https://a.example/fhir/", True),
        ("https://a.example/fhir/*", "https://a.example/fhir", False),
        ("https://a.example/fhir/*", "https://a.example/fhirx/y", False),
        ("https://a.example/fhir/*", "https://a.example//fhir/x", False),
        ("https://a.example/fhir", "https://a.example/fhir", True),
        ("https://a.example/fhir", "https://a.example/fhir?tenant=1", True),
        ("https://a.example/fhir", "https://a.example/fhir/x", False),
        ("https://a.example/f%68ir/%c3%a9", "https://a.example/fhir/%C3%A9", True),
        ("https://a.example", "https://a.example/", True),
        ("https://a.example/", "https://a.example", True),
        ("https://a.example", "https://a.example/x", False),
        ("https://a.example/*", "https://b.a.example/x", False),
        ("https://a.example:8443/*", "https://a.example:8443/x", True),
        ("https://a.example:8443/*", "https://a.example/x", False),
        ("http://a.example:80/*", "http://a.example/x", True),
        ("wss://a.example:443/*", "wss://a.example/x", True),
        ("sftp://a.example/*", "sftp://a.example/in", True),
        ("sftp://a.example/*", "sftp://a.example:22/in", False),
        ("https://[::1]/*", "https://[0:0:0:0:0:0:0:1]/x", True),
        ("https://[::1]/*", "https://[::1%25eth0]/x", False),
        ("https://[::1]/*", "https://[::2]/x", False),
        ("https://[::1]/*", "https://[:::1]/x", False),
        ("https://127.0.0.1/*", "https://127.0.0.1/x", True),
        ("https://127.0.0.1/*", "https://127.1/x", False),
        ("https://127.0.0.1/*", "https://2130706433/x", False),
        ("https://127.0.0.1/*", "https://0x7f.0.0.1/x", False),
        ("https://127.0.0.1/*", "https://0177.0.0.1/x", False),
        ("https://127.0.0.1/*", "https://0x7f000001/x", False),
        ("https://*.s3/*", "https://bucket.s3/x", True),
    ],
)
def test_host_port_and_path_are_compared_by_pieces(pattern: str, address: str, fits: bool) -> None:
    assert AddressPattern.parse(pattern).matches(address) is fits
    assert AddressPatterns([AddressPattern.parse(pattern)]).match(address) is fits


@pytest.mark.parametrize(
    ("pattern", "says"),
    [
        ("*", "not scheme://host/path"),
        ("https://*/x", "elsewhere"),
        ("https://a.*.example/x", "elsewhere"),
        ("https://a.example/*/x", "elsewhere"),
        ("https://a.example/x*", "elsewhere"),
        ("*://a.example/x", "elsewhere"),
        ("https://a.example:*/x", "elsewhere"),
        ("a.example/*", "not scheme://host/path"),
        ("mailto:a@b.example", "not scheme://host/path"),
        ("https://u@a.example/*", "user part"),
        ("https://a.example/x#y", "fragment"),
        ("https://a.example/x?y", "query"),
        ("https://*.1.2.3.4/*", "numeric host"),
        ("https://*.2.3/*", "host is a number"),
        ("https://*.[::1]/*", "numeric host"),
        ("https://a..example/*", "label"),
        ("https://a.example./*", "label"),
        ("https://bücher.example/*", "xn--"),
        ("https://a.example\\b/*", "backslash"),
        ("https://a.example:0/*", "port"),
        ("https://a.example:x/*", "host, port or path"),
        ("https://a.example/%2e%2e/*", "must not be hidden"),
        ("https://a.example/../*", "dots"),
        ("https://a.example/%/*", "hexadecimal"),
        ("https://[::x]/*", "host, port or path"),
        ("https://[1:2]/*", "IPv6"),
        ("https://" + "a" * 9000, "longer than"),
    ],
)
def test_what_is_no_pattern_is_refused_with_a_reason(pattern: str, says: str) -> None:
    with pytest.raises(ValueError, match=re.escape(says)):
        AddressPattern.parse(pattern)


def test_the_narrowest_of_many_patterns_is_found() -> None:
    texts = ["https://*.example/*", "https://*.b.example/*", "https://a.b.example/*", "https://a.b.example/x/*"]
    patterns = AddressPatterns(AddressPattern.parse(text) for text in texts)
    assert [
        p.text if (p := patterns.find(u)) else None for u in ("https://a.b.example/x/y", "https://a.b.example/y")
    ] == [
        texts[3],
        texts[2],
    ]
    assert (found := patterns.find("https://c.b.example/y")) is not None
    assert found.text == texts[1]
    assert (found := patterns.find("https://c.d.example/y")) is not None
    assert found.text == texts[0]
    assert patterns.find("http://c.d.example/y") is None
    assert patterns.find("urn:oid:1.2") is None
    assert patterns
    assert not AddressPatterns([])
    assert AddressPatterns([]).find("https://a.example") is None


@given(st.text(st.characters(codec="utf-8"), max_size=40))
def test_any_text_is_read_or_refused_with_the_documented_error(text: str) -> None:
    for candidate in (text, f"https://{text}", f"https://a.partner.example/{text}"):
        try:
            read_url(candidate)
        except ValueError:
            assert not PARTNER.matches(candidate)


@given(
    st.text("a.:/@\\#?%2ef[]-_", max_size=25).map(lambda s: f"https://{s}.partner.example/x"),
)
def test_what_is_let_through_has_the_partners_host_for_other_readers_too(address: str) -> None:
    if PARTNER.matches(address):
        split = urlsplit(address)
        assert (split.hostname or "").endswith(".partner.example")
        assert split.username is None
        assert ".." not in split.path.split("/")
