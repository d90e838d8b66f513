"""What is the same message, and what a response may quote (M-20 to M-23, M-31)."""

from __future__ import annotations

import pytest

from broker.core.fhir.header import Event, Format, Header, Identifier, Release, ResponseLink
from broker.core.identity import Identity, identity, quotable_ids, quoted_ids

DIGEST = bytes(range(32))
HEX = DIGEST.hex()


def header(
    release: Release = Release.R4,
    bundle_id: str | None = None,
    message_id: str | None = None,
    identifier: Identifier | None = None,
) -> Header:
    return Header(
        release=release,
        format=Format.JSON,
        event=Event("s", "c"),
        bundle_id=bundle_id,
        message_id=message_id,
        bundle_identifier=identifier,
    )


@pytest.mark.parametrize("release", [Release.DSTU2, Release.STU3, Release.R4, Release.R4B])
def test_identity_up_to_r4b_is_bundle_id_with_message_id(release: Release) -> None:
    """M-20."""
    expected = Identity(key="b", message_id="m")
    assert identity(header(release, "b", "m", Identifier("s", "v")), DIGEST) == expected
    assert identity(header(release, "b"), DIGEST) == Identity(key="b")


def test_identity_in_r4_without_bundle_id_rests_on_the_bytes() -> None:
    assert identity(header(message_id="m"), DIGEST) == Identity(key=f"message:m:{HEX}", message_id="m")
    assert identity(header(), DIGEST) == Identity(key=f"message::{HEX}")
    assert identity(header(message_id="m"), DIGEST) != identity(header(message_id="m"), DIGEST[::-1])


@pytest.mark.parametrize("release", [Release.R5, Release.R6])
def test_identity_from_r5_on_is_bundle_identifier_alone(release: Release) -> None:
    """M-20, M-23, M-28."""
    one = header(release, "b", "m", Identifier("s", "v"))
    assert identity(one, DIGEST) == Identity(key="s|v")
    assert identity(header(release, "b", "m"), DIGEST) == Identity(key="b")
    assert identity(header(release, None, "m"), DIGEST) == Identity(key=f"digest:{HEX}")


def test_request_may_be_quoted_by_any_of_its_ids() -> None:
    """M-31."""
    assert quotable_ids(header()) == ()
    assert quotable_ids(header(bundle_id="b", message_id="m")) == ("m", "b")
    assert quotable_ids(header(bundle_id="b", message_id="b")) == ("b",)
    assert quotable_ids(header(identifier=Identifier("s", "v"))) == ("v", "s|v")
    assert quotable_ids(header(identifier=Identifier("", "v"))) == ("v",)


def test_urn_prefix_is_no_part_of_a_quoted_id() -> None:
    one = header(
        bundle_id="b",
        message_id="urn:uuid:m",
        identifier=Identifier("urn:ietf:rfc:3986", "URN:UUID:b"),
    )
    assert quotable_ids(one) == ("m", "b")
    nothing = Identifier("urn:ietf:rfc:3986", "urn:uuid:")
    assert quotable_ids(header(bundle_id="b", identifier=nothing)) == ("b",)


@pytest.mark.parametrize(
    ("quoted", "keys"),
    [
        (Identifier("", "m"), ("m",)),
        (Identifier("", "urn:uuid:m"), ("m",)),
        (Identifier("urn:ietf:rfc:3986", "urn:uuid:b"), ("urn:ietf:rfc:3986|b", "b")),
        (Identifier("s", "v"), ("s|v",)),
    ],
)
def test_response_is_looked_up_by_what_it_quotes(quoted: Identifier, keys: tuple[str, ...]) -> None:
    assert quoted_ids(ResponseLink(identifier=quoted, code="ok")) == keys


def test_value_under_another_system_is_another_message() -> None:
    request = quotable_ids(header(Release.R5, identifier=Identifier("mine", "1")))
    assert not set(request) & set(quoted_ids(ResponseLink(identifier=Identifier("theirs", "1"), code="ok")))
    assert set(request) & set(quoted_ids(ResponseLink(identifier=Identifier("mine", "1"), code="ok")))
    assert set(request) & set(quoted_ids(ResponseLink(identifier=Identifier("", "1"), code="ok")))
