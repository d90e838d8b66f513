from __future__ import annotations

import pytest
from subscribed import ADMISSIONS, TOPIC

from broker.core.fhir.header import Release
from broker.core.subscription.capability import subscription_params, subscription_resources, websocket_extension


@pytest.mark.parametrize("release", [Release.R4, Release.R4B, Release.R5])
@pytest.mark.parametrize("sockets", [True, False])
def test_operations_are_those_of_the_release_and_its_channels(release: Release, sockets: bool) -> None:
    resource, *topics = subscription_resources(release, [TOPIC, ADMISSIONS], (), sockets=sockets)
    names = [one["name"] for one in resource["operation"]]
    assert names == ["status", "events", *(["get-ws-binding-token"] if sockets else []), "resend"]
    of_backport = "backport" in resource["operation"][0]["definition"]
    assert of_backport is (release is not Release.R5)
    assert [one["type"] for one in topics] == ([] if release is Release.R4 else ["SubscriptionTopic"])


def test_topics_of_r4_are_advertised_and_where_there_are_none_nothing_is_said() -> None:
    """S-11."""
    (resource,) = subscription_resources(Release.R4, [TOPIC], (), sockets=False)
    assert [one["valueCanonical"] for one in resource["extension"]] == [TOPIC.url]
    (resource,) = subscription_resources(Release.R4, [], (), sockets=False)
    assert "extension" not in resource


def test_search_parameters_are_those_of_the_release() -> None:
    names = {release: {one.name for one in subscription_params(release)} for release in (Release.R4, Release.R5)}
    assert names[Release.R4] - names[Release.R5] == {"criteria"}
    assert names[Release.R5] - names[Release.R4] == {"topic", "content-level"}


def test_classic_sockets_have_their_extension() -> None:
    """S-42."""
    assert websocket_extension("wss://x")["valueUri"] == "wss://x"
