from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from subscribed import ADMISSIONS, ENCOUNTERS, NOW, offer, r4, r5, read, subscription

from broker.core.fhir.header import Release
from broker.core.fhir.outcomes import http_status
from broker.core.outcome import SubscriptionRefused
from broker.core.subscription.check import ChannelOffer, Offer, checked, filter_problem
from broker.core.subscription.subscription import BACKPORT, R5_CHANNELS, Content, Filter, Status, Subscription
from broker.core.subscription.topic import EventTrigger, FilterBy, ResourceTrigger, Topic


def problems(asked: Subscription, to: Offer | None = None) -> list[tuple[str, str]]:
    try:
        checked(asked, to or offer(), now=NOW)
    except SubscriptionRefused as refusal:
        status = http_status(refusal)
        found = [(problem.expression[0].removeprefix("Subscription."), problem.id) for problem in refusal.problems]
        return found if status == 422 else []
    return []


def native(**changed: Any) -> Subscription:
    return read(r5(**changed))


def mail(endpoint: str, media: str) -> Subscription:
    return native(channelType={"code": "email"}, endpoint=endpoint, contentType=media)


def test_what_is_served_comes_back_with_its_gaps_filled() -> None:
    assert checked(native(content=None), offer(), now=NOW).content is Content.ID_ONLY
    whole = native(end="2027-01-01T00:00:00Z")
    assert checked(whole, offer(), now=NOW) is not None
    assert problems(native(status="off")) == []


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        (native(topic="http://nobody"), [("topic", "unknown-topic")]),
        (native(topic=ENCOUNTERS + "|9"), [("topic", "unknown-topic")]),
        (native(topic=ENCOUNTERS + "|1.0.0"), []),
        (native(status="active"), [("status", "invalid-value")]),
        (native(end="2020-01-01T00:00:00Z"), [("end", "invalid-value")]),
        (native(channelType={"code": "pigeon"}), [("channelType", "unknown-channel")]),
        (native(endpoint=None), [("endpoint", "missing-element")]),
        (native(endpoint="http://example.org/hook"), [("endpoint", "endpoint-does-not-fit")]),
        (native(endpoint="https://u:p@example.org/hook"), [("endpoint", "endpoint-does-not-fit")]),
        (native(endpoint="https://stranger.example/hook"), [("endpoint", "endpoint-not-allowed")]),
        (native(channelType={"code": "websocket"}), [("endpoint", "invalid-value")]),
        (native(channelType={"code": "websocket"}, endpoint=None), []),
        (
            native(channelType={"code": "websocket"}, endpoint=None, parameter=[{"name": "A", "value": "b"}]),
            [("parameter", "invalid-value")],
        ),
        (native(contentType="image/png"), [("contentType", "media-type-not-served")]),
        (native(contentType="application/fhir+json; fhirVersion=4.3"), []),
        (native(contentType="application/fhir+json; fhirVersion=3.0"), [("contentType", "fhir-version-not-served")]),
        (native(contentType="application/fhir+json; fhirVersion=9"), [("contentType", "media-type-not-served")]),
        (native(contentType="application/cloudevents+json"), []),
        (native(contentType=None), []),
        (native(heartbeatPeriod=1), [("heartbeatPeriod", "invalid-value")]),
        (native(timeout=3600), [("timeout", "invalid-value")]),
        (native(maxCount=5000), [("maxCount", "invalid-value")]),
        (native(content="full-resource"), [("content", "content-above-cap")]),
        (native(content="empty"), [("content", "content-not-offered")]),
        (native(content="empty", topic=ADMISSIONS.url), []),
        (native(filterBy=[{"filterParameter": "patient", "value": "Patient/1"}]), []),
        (native(filterBy=[{"filterParameter": "status", "value": "x"}]), [("filterBy[0]", "filter-not-allowed")]),
        (
            native(filterBy=[{"resourceType": "Patient", "filterParameter": "patient", "value": "x"}]),
            [("filterBy[0]", "filter-not-allowed")],
        ),
        (
            native(filterBy=[{"filterParameter": "length", "comparator": "lt", "value": "5"}]),
            [("filterBy[0]", "filter-not-allowed")],
        ),
        (native(filterBy=[{"filterParameter": "length", "comparator": "gt", "value": "5"}]), []),
        (mail("mailto:a@example.org", "text/plain"), []),
        (mail("mailto:a@example.org", "text/html;attach=application/fhir+json"), []),
        (mail("mailto:a@example.org", "application/fhir+json"), [("contentType", "invalid-value")]),
        (
            mail("mailto:a@example.org", "text/plain;attach=application/fhir+json; fhirVersion=3.0"),
            [("contentType", "fhir-version-not-served")],
        ),
        (mail("mailto:a@example.org", "text/plain;attach=image/png"), [("contentType", "media-type-not-served")]),
        (mail("mailto:a@b?bcc=c@d", "text/plain"), [("endpoint", "endpoint-does-not-fit")]),
        (mail("https://example.org/hook", "text/plain"), [("endpoint", "endpoint-does-not-fit")]),
    ],
)
def test_each_refusal_names_its_element(asked: Subscription, expected: list[tuple[str, str]]) -> None:
    """S-8, S-9, S-40, S-44, S-45, S-57a, S-61, S-63."""
    assert problems(asked) == expected


def test_client_may_write_the_status_back_as_it_read_it() -> None:
    active = native(status="active")
    assert checked(active, offer(), now=NOW, current=Status.ACTIVE).status is Status.ACTIVE
    with pytest.raises(SubscriptionRefused):
        checked(active, offer(), now=NOW, current=Status.ERROR)


def test_mistake_elsewhere_does_not_hide_an_endpoint_that_is_not_allowed() -> None:
    """S-61."""
    asked = native(status="active", endpoint="https://stranger.example/hook")
    assert problems(asked) == [("status", "invalid-value"), ("endpoint", "endpoint-not-allowed")]


def test_cap_of_the_party_may_allow_all() -> None:
    """S-63."""
    assert problems(native(content="full-resource"), offer(cap=Content.FULL)) == []
    assert problems(native(content="id-only"), offer(cap=Content.EMPTY)) == [("content", "content-above-cap")]


def test_reader_of_the_mailbox_may_be_told_nothing_more() -> None:
    """S-57a."""
    assert problems(native(content="empty"), offer(reads_mailbox=True)) == []


def test_cloudevents_are_for_channels_that_serve_them() -> None:
    plain = offer(channels={(R5_CHANNELS, "rest-hook"): ChannelOffer(schemes=("https",))})
    assert problems(native(contentType="application/cloudevents+json"), plain) == [("contentType", "invalid-value")]


def test_filters_are_few() -> None:
    one = {"filterParameter": "patient", "value": "Patient/1"}
    assert problems(native(filterBy=[one] * 21)) == [("filterBy", "invalid-value")]


def test_mistake_in_the_backport_is_named_as_r4_spells_it() -> None:
    wrong = r4(
        criteria="http://nobody",
        channel={
            "type": "websocket",
            "header": ["A: b"],
            "payload": "image/png",
            "_payload": {"extension": [{"url": BACKPORT + "payload-content", "valueCode": "full-resource"}]},
        },
    )
    assert problems(read(wrong, Release.R4)) == [
        ("channel.header", "invalid-value"),
        ("channel.endpoint", "invalid-value"),
        ("channel.payload", "media-type-not-served"),
        ("criteria", "unknown-topic"),
    ]


@pytest.mark.parametrize(
    ("asked", "to", "expected"),
    [
        (r4(), offer(), []),
        (r4(criteria="Encounter?nothing=1"), offer(), [("criteria", "criteria-not-evaluable")]),
        (r4(criteria="encounter"), offer(), [("criteria", "criteria-not-evaluable")]),
        (r4(channel={"payload": "application/fhir+json"}), offer(), [("channel.payload", "invalid-value")]),
        (r4(channel={"payload": "application/fhir+json"}), offer(cap=Content.FULL), []),
        (r4(channel={"type": "message"}), offer(), [("channel.type", "no-classic")]),
    ],
)
def test_classic_model_is_checked_by_its_own_rules(
    asked: dict[str, Any], to: Offer, expected: list[tuple[str, str]]
) -> None:
    assert problems(read(asked, Release.R4), to) == expected


def test_filter_that_cannot_be_evaluated_is_refused_and_says_why() -> None:
    """S-57: `_in` needs the members of groups, which no message holds."""
    topic = Topic(
        url="http://t",
        resources=(ResourceTrigger(resource="Encounter"),),
        filters=(FilterBy(parameter="_in"), FilterBy(parameter="status", modifiers=("missing",))),
    )
    assert "more than the message holds" in filter_problem(topic, Filter(parameter="_in", value="Group/1"))
    assert filter_problem(topic, Filter(parameter="status", modifier="missing", value="true")) == ""
    assert "the topic allows: missing" in filter_problem(topic, Filter(parameter="status", modifier="not", value="a"))


def test_topic_whose_focus_may_be_anything_takes_filters_about_any_type() -> None:
    topic = Topic(url="http://t", events=(EventTrigger(event="admit"),), filters=(FilterBy(parameter="status"),))
    about = Filter(parameter="status", value="a", resource_type="Encounter")
    assert filter_problem(topic, about) == ""
    assert "not known here" in filter_problem(topic, Filter(parameter="status", value="a"))


def test_several_mistakes_come_in_one_answer() -> None:
    asked = subscription(status=Status.ACTIVE, end=NOW - timedelta(days=1), max_count=99999, topic="http://nobody")
    assert len(problems(asked)) == 4
