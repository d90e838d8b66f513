"""The block `subscriptions:` and the files of its topics; what is wrong in them is in config/broken."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest
from config_desk import BROKER, CHANNELS, HTTP_ON, Desk

from broker.config import load
from broker.config.settings import Subscriptions
from broker.core.fhir.header import Event
from broker.core.policy import Order
from broker.core.subscription import life
from broker.core.subscription.subscription import Content

ALLOW = "subscriptions: {allow: https://*.partner.example/*}\n"
TOPIC = 'url: http://t.example/{0}\non: [{{event: admit}}]\n'  # fmt: skip
CORPUS = Path(__file__).parents[1] / "corpus" / "subscriptions" / "FHIR__fhir-candle"


def block(text: str) -> str:
    return "subscriptions:\n  allow: https://*.partner.example/*\n" + text


def served(desk: Desk, text: str) -> Subscriptions:
    found = desk.load(text).subscriptions
    assert found is not None
    return found


def write(desk: Desk, name: str, text: str) -> None:
    path = desk.folder / name
    path.parent.mkdir(exist_ok=True, parents=True)
    path.write_text(text)


def test_without_the_block_nobody_subscribes(desk: Desk) -> None:
    assert desk.load("").subscriptions is None


def test_an_empty_block_is_served_with_the_defaults(desk: Desk) -> None:
    found = served(desk, ALLOW)
    assert found == Subscriptions(
        allow=("https://*.partner.example/*",), delivery=found.delivery, event=found.event, policy=life.Policy()
    )
    assert (found.content, found.topics) == (Content.ID_ONLY, ())
    assert served(desk, "subscriptions: {allow: [https://a.example/*]}\n").most == 10_000


def test_each_key_is_heard(desk: Desk) -> None:
    found = served(
        desk,
        block(
            "  content: full-resource\n  most: 7\n  error_after: 2\n  off_after: 1h\n  heartbeat: 1s\n  token: 5m\n"
            "  event: http://events.example|told\n  retry: {first: 2s, give_up: 1m}\n  lane: {concurrent: 2}\n"
        ),
    )
    assert (found.content, found.most) == (Content.FULL, 7)
    assert found.policy == life.Policy(error_after=2, off_after=timedelta(hours=1))
    assert (found.heartbeat, found.token) == (timedelta(seconds=1), timedelta(minutes=5))
    assert found.event == Event(system="http://events.example", code="told")
    assert (found.delivery.retry.first, found.delivery.retry.give_up) == (timedelta(seconds=2), timedelta(minutes=1))
    assert found.delivery.lane.concurrent == 2


def test_what_is_left_unsaid_of_deliveries_comes_from_the_defaults_but_their_order_and_reports_do_not(
    desk: Desk,
) -> None:
    found = served(
        desk, "defaults: {order: source, bounce: always, retry: {max: 7m}}\n" + block("  retry: {first: 9s}\n")
    )
    assert (found.delivery.retry.first, found.delivery.retry.max) == (timedelta(seconds=9), timedelta(minutes=7))
    assert (found.delivery.order, found.delivery.bounce) == (Order.NONE, "never")


def test_a_party_has_a_cap_of_its_own(desk: Desk) -> None:
    parties = "parties: {north: {endpoints: urn:x:n, content: full-resource}, south: {endpoints: urn:x:s}}\n"
    found = desk.load(parties + ALLOW).parties
    assert (found["north"].content, found["south"].content) == (Content.FULL, None)


def test_topics_are_read_in_the_order_of_the_patterns_and_of_names_each_file_once(desk: Desk) -> None:
    write(desk, "topics/b.yaml", TOPIC.format("b"))
    write(
        desk,
        "topics/a.yml",
        "- " + TOPIC.format("a1").replace("\n", "\n  ") + "\n- " + TOPIC.format("a2").replace("\n", "\n  "),
    )
    write(desk, "topics/deep/c.yaml", TOPIC.format("c"))
    urls = [
        one.url.rpartition("/")[2]
        for one in served(desk, block("  topics: [topics/b.yaml, 'topics/**/*.y*ml']\n")).topics
    ]
    assert urls == ["b", "a1", "a2", "c"]


def test_a_resource_is_a_topic_in_json_and_in_xml(desk: Desk) -> None:
    write(desk, "one.xml", '<SubscriptionTopic xmlns="http://hl7.org/fhir"><url value="http://t.example/x"/>'
          '<resourceTrigger><resource value="Encounter"/></resourceTrigger></SubscriptionTopic>')  # fmt: skip
    write(desk, "two.json", '{"resourceType": "SubscriptionTopic", "url": "http://t.example/j", "status": "active",'
          ' "resourceTrigger": [{"resource": "Patient"}]}')  # fmt: skip
    assert [one.url[-1] for one in served(desk, block("  topics: [one.xml, two.json]\n")).topics] == ["x", "j"]


def test_rules_over_the_state_before_are_left_out_only_where_that_is_said(desk: Desk) -> None:
    name = CORPUS / "SubscriptionTopic-encounter-complete.json"
    for said in desk.mistakes(block(f"  topics: {name}\n")):
        assert "needs the state before" in said
        assert said.endswith("(without_previous: true)")
    (topic,) = served(desk, block(f"  topics: {name}\n  without_previous: true\n")).topics
    assert topic.source == name.read_bytes()


def test_the_place_of_what_is_wrong_in_a_file_of_topics_is_named(desk: Desk) -> None:
    write(desk, "t.yaml", "url: http://t.example/a\non:\n  - event: admit\n    focus: encounter\n")
    with pytest.raises(Exception, match=r"t\.yaml:4:12: `on\[0\]\.focus` must be a type"):
        desk.load(block("  topics: t.yaml\n"))


def test_mistakes_of_the_configuration_come_before_those_of_its_topics(desk: Desk) -> None:
    write(desk, "a.yaml", "url: 1\n")
    said = desk.mistakes("log: {level: loud}\n" + block("  topics: [a.yaml, gone.yaml]\n"))
    assert [one.partition(" ")[0] for one in said] == ["`level`", "`topics`:", "`on`", "`url`"]


def test_variables_stand_for_values_in_topics_and_are_never_shown(desk: Desk) -> None:
    desk.env["SERVER"] = "https://source.example"
    write(desk, "t.yaml", TOPIC.format("a") + 'query: "${SERVER}/fhir/Encounter?_lastUpdated=gt{since}"\n')
    (topic,) = served(desk, block("  topics: t.yaml\n")).topics
    assert topic.query == "https://source.example/fhir/Encounter?_lastUpdated=gt{since}"
    desk.env["SERVER"] = "hunter2"
    (said,) = desk.mistakes(block("  topics: t.yaml\n"))
    assert said.startswith("`query` cannot be used with what stands in the place of `${SERVER}/fhir")
    del desk.env["SERVER"]
    assert desk.mistakes(block("  topics: t.yaml\n")) == [
        "the environment has no variable SERVER (set it, or write ${SERVER:default})"
    ]


def test_a_pattern_that_names_nothing_is_a_warning_and_a_file_that_is_not_there_a_mistake(desk: Desk) -> None:
    assert desk.warnings(block("  topics: [topics/*.yaml]\n")) == ["`topics`: there is no file `topics/*.yaml`"]
    assert desk.mistakes(block("  topics: [topics/a.yaml]\n")) == ["`topics`: there is no file `topics/a.yaml`"]


def test_a_channel_that_allowed_endpoints_need_has_to_be_on(desk: Desk) -> None:
    assert desk.mistakes("subscriptions: {allow: [mailto:*@ward.example]}\n") == [
        "`mailto:*@ward.example` has a scheme that no channel speaks (did you mean mailbox:?)"
    ]


def test_it_is_said_where_nobody_can_subscribe_or_be_told(desk: Desk) -> None:
    assert desk.warnings("subscriptions: {most: 5}\n") == [
        "no subscriber can be told: `allow` names no endpoint, and websocket is off"
    ]
    desk.write(BROKER + "channels: {}\nsubscriptions: {most: 5}\n")
    said = [one.text for one in load(desk.file, env={}, channels=CHANNELS).warnings]
    assert "nobody can subscribe: Subscriptions are created over FHIR's REST interface" in said
    desk.write(BROKER + HTTP_ON + "  websocket: {listen: 127.0.0.1:8081}\nsubscriptions: {most: 5}\n")
    assert load(desk.file, env={}).warnings == ()


def test_a_cap_without_subscriptions_is_pointless(desk: Desk) -> None:
    assert desk.warnings("parties: {north: {endpoints: urn:x:n, content: empty}}\n") == [
        "`content` is what subscriptions are told, and none are served"
    ]
