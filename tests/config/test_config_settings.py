"""What a right file becomes."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest
from config_desk import CHANNELS, Desk
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from broker.config import ConfigurationErrors
from broker.config.freeze import _laid_over
from broker.core.fhir.header import Release
from broker.core.policy import DEFAULT, Expects, Match, OnTimeout, Order, Policy

EVERYTHING = """\
broker:
  endpoint: urn:oid:2.16.578.1.12.4.1.2.8142
  base_url: http://127.0.0.1:8080/fhir/
  fhir: 5.0
  event_prefix: org.example
  limits: {message: 16MiB, in_flight: 128MiB, hops: 8, clock_skew: 2s}
store:
  url: sqlite:data/broker.db
  min_free: 500MB
  retention: {body: 1d, mailbox: 2d, identity: 3d, trace: 4d}
admin: {listen: 127.0.0.1:8079}
channels:
  http: {listen: 127.0.0.1:8080}
parties:
  north: {endpoints: ["urn:oid:2.16.578.1.12.4.1.2.1001"]}
  national: {relays_for: ["urn:oid:2.16.578.1.12.4.1.2.*"], broker: true}
allow: {response_url: [https://*.partner.example/*]}
directory:
  refresh: 5m
  sources: [directory/*.yaml]
  endpoints:
    urn:oid:2.16.578.1.12.4.1.2.102287: https://ehr.example/fhir/$process-message
    urn:oid:2.16.578.1.12.4.1.2.102288: ["mailbox:", https://new.example/fhir/$process-message]
    urn:oid:2.16.578.1.12.4.1.2.102289: {first: [https://a.example/fhir, https://b.example/fhir]}
    urn:oid:2.16.578.1.12.4.1.2.*: https://national.example/fhir/$process-message
    https://*.partner.example/*: direct
    "*": https://gateway.example/fhir
routes:
  - name: sick notes
    match:
      event: "*sick-leave*"
      source: urn:oid:2.999.*
      destination: [urn:oid:2.999.1, urn:oid:2.999.2]
      receiver: urn:oid:2.999|7
      sender: urn:oid:2.999|*
      party: north
      channel: http
      path: lab
      header: {X-Name: "a*", X-Other: [b, c]}
      profile: https://profile.example/*
      fhir: [4.0, 5.0]
      type: org.example.*
      response: false
      not: {event: test, not: {party: north}}
    address: https://sick.example/fhir
    sync: {wait: 5s, expects: response, on_timeout: refuse}
    mailbox: {unread: 1d}
    order: none
    validate: resource
    category: currency
  - to: [urn:oid:2.999.1]
  - refuse: "no"
    match: {event: x}
  - log: true
    match: {event: y}
defaults:
  sync: {longest: 30s}
  lane: {rate: 2.5}
log: {level: debug, format: json}
"""


def test_the_whole_contract_is_read(desk: Desk) -> None:
    settings = desk.load(EVERYTHING, whole=True)
    broker, store = settings.broker, settings.store
    assert (broker.endpoint, broker.base_url) == ("urn:oid:2.16.578.1.12.4.1.2.8142", "http://127.0.0.1:8080/fhir")
    assert (broker.fhir, broker.event_prefix) == (Release.R5, "org.example")
    assert (broker.limits.message, broker.limits.in_flight, broker.limits.hops) == (2**24, 2**27, 8)
    assert broker.limits.clock_skew == timedelta(seconds=2)
    assert store.path == desk.folder / "data/broker.db"
    assert store.url == f"sqlite:{desk.folder}/data/broker.db"
    assert store.min_free == 500_000_000
    assert [store.retention.body.days, store.retention.mailbox.days] == [1, 2]
    assert [store.retention.identity.days, store.retention.trace.days] == [3, 4]
    assert settings.admin.listen == "127.0.0.1:8079"
    assert settings.parties["north"].endpoints == ("urn:oid:2.16.578.1.12.4.1.2.1001",)
    assert settings.parties["national"].relays_for == ("urn:oid:2.16.578.1.12.4.1.2.*",)
    assert [party.broker for party in settings.parties.values()] == [False, True]
    assert settings.allow.response_url == ("https://*.partner.example/*",)
    assert (settings.log.level.value, settings.log.format.value) == ("debug", "json")
    assert settings.file == desk.file
    assert settings.insecure is False


def test_the_directory_keeps_its_order_shapes_and_lines(desk: Desk) -> None:
    directory = desk.load(EVERYTHING, whole=True).directory
    assert directory.refresh == timedelta(minutes=5)
    assert directory.sources == (f"{desk.folder}/directory/*.yaml",)
    assert list(directory.endpoints.values()) == [
        "https://ehr.example/fhir/$process-message",
        ("mailbox:", "https://new.example/fhir/$process-message"),
        {"first": ("https://a.example/fhir", "https://b.example/fhir")},
        "https://national.example/fhir/$process-message",
        "direct",
        "https://gateway.example/fhir",
    ]
    assert list(directory.endpoints)[-1] == "*"
    assert directory.lines["*"] == 27
    with pytest.raises(TypeError):
        directory.endpoints["urn:x:y"] = "mailbox:"  # type: ignore[index]


def test_rules_become_the_cores_rules(desk: Desk) -> None:
    rules = desk.load(EVERYTHING, whole=True).routes
    assert [rule.name for rule in rules] == ["sick notes", "rule 2", "rule 3", "rule 4"]
    assert [rule.where for rule in rules] == [f"{desk.file}:{line}" for line in (29, 51, 52, 54)]
    assert rules[0].match == Match(
        event=("*sick-leave*",),
        source=("urn:oid:2.999.*",),
        destination=("urn:oid:2.999.1", "urn:oid:2.999.2"),
        receiver=("urn:oid:2.999|7",),
        sender=("urn:oid:2.999|*",),
        party=("north",),
        channel=("http",),
        path=("lab",),
        header=(("x-name", ("a*",)), ("x-other", ("b", "c"))),
        profile=("https://profile.example/*",),
        fhir=("4.0", "5.0"),
        type=("org.example.*",),
        response=False,
        negated=Match(event=("test",), negated=Match(party=("north",))),
    )
    assert rules[0].address == "https://sick.example/fhir"
    assert rules[1].to == ("urn:oid:2.999.1",)
    assert rules[2].refuse == "no"
    assert rules[3].log is True


def test_what_a_rule_leaves_unsaid_comes_from_defaults_and_then_from_us(desk: Desk) -> None:
    settings = desk.load(EVERYTHING, whole=True)
    policy = settings.routes[0].policy
    assert policy.sync.wait == timedelta(seconds=5), "of the rule"
    assert policy.sync.longest == timedelta(seconds=30), "of defaults"
    assert policy.sync.late is DEFAULT.sync.late, "of ours"
    assert (policy.sync.expects, policy.sync.on_timeout) == (Expects.RESPONSE, OnTimeout.REFUSE)
    assert (policy.order, policy.validate, policy.category) == (Order.NONE, "resource", "currency")
    assert policy.unread == timedelta(days=1)
    assert policy.lane.rate == 2.5
    assert settings.routes[1].policy == settings.defaults
    assert settings.defaults.unread == DEFAULT.unread


def test_a_rule_takes_nothing_from_another_rule(desk: Desk) -> None:
    rules = desk.load(
        "routes:\n  - {match: {event: a}, validate: resource, sync: {wait: 1s}}\n  - {sync: {longest: 20s}}\n"
    ).routes
    assert rules[1].policy.validate == DEFAULT.validate
    assert rules[1].policy.sync.wait == DEFAULT.sync.wait


def test_a_rule_can_go_back_to_what_defaults_changed(desk: Desk) -> None:
    settings = desk.load("defaults: {bounce: never, sync: {wait: 1s}}\nroutes: [{bounce: always, sync: {wait: 10s}}]\n")
    assert settings.defaults.bounce == "never"
    assert settings.routes[0].policy == DEFAULT


def test_the_least_file_has_every_default(desk: Desk) -> None:
    settings = desk.load("", whole=False)
    assert settings.defaults == DEFAULT
    assert settings.broker.limits.message == 32 * 2**20
    assert settings.broker.limits.in_flight == 256 * 2**20
    assert (settings.broker.limits.hops, settings.broker.limits.clock_skew) == (16, timedelta(seconds=5))
    assert settings.broker.fhir is Release.R4
    assert settings.store.retention.trace == timedelta(days=400)
    assert settings.store.min_free == 2**30
    assert settings.store.path == desk.folder / "data/broker.db"
    assert settings.admin.listen == "127.0.0.1:8079"
    assert settings.directory.refresh == timedelta(minutes=15)
    assert (settings.log.level.value, settings.log.format.value) == ("info", "auto")
    assert settings.routes == ()
    assert settings.warnings == ()


def test_a_key_without_a_value_is_as_good_as_absent(desk: Desk) -> None:
    assert desk.load("parties:\nroutes:\nstore:\n  min_free:\ndefaults:\n  sync:\n").defaults == DEFAULT


def test_unquoted_no_is_a_word_and_numbers_keep_their_noughts(desk: Desk) -> None:
    settings = desk.load(
        "parties: {no: {endpoints: [off, 012]}}\nroutes: [{match: {event: 4.10, party: no}, refuse: no}]\n"
    )
    assert settings.parties["no"].endpoints == ("off", "012")
    assert settings.routes[0].match.event == ("4.10",)
    assert settings.routes[0].refuse == "no"


def test_a_file_beside_us_is_read_by_a_relative_name(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    from broker.config import load

    desk.load("")
    monkeypatch.chdir(desk.folder)
    settings = load("broker.yaml", env={}, channels=CHANNELS)
    assert settings.file == Path("broker.yaml")
    assert settings.store.path == desk.folder / "data/broker.db"


@given(st.integers(1, 99), st.integers(1, 99))
def test_laying_over_changes_only_what_is_said(wait: int, priority: int) -> None:
    policy = _laid_over(DEFAULT, {"sync": {"wait": timedelta(seconds=wait)}, "priority": priority})
    assert policy.sync.wait == timedelta(seconds=wait)
    assert policy.priority == priority
    assert _laid_over(policy, {"sync": {"wait": DEFAULT.sync.wait}, "priority": DEFAULT.priority}) == DEFAULT
    assert _laid_over(policy, {}) == policy
    assert isinstance(policy, Policy)


_LINES = EVERYTHING.splitlines()
_ODD = st.sampled_from(
    [
        "",
        "x",
        "[]",
        "{}",
        "[x]",
        "{a: b}",
        "-1",
        "~",
        "true",
        '"*"',
        "mailbox:",
        "${X}",
        "'${X:}'",
        "*a",
        "direct",
        "5d",
        "a: b",
    ]
)


@hypothesis_settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.integers(0, len(_LINES) - 1), _ODD), min_size=1, max_size=4))
def test_any_damage_to_a_file_is_harmless_or_named(desk: Desk, damage: list[tuple[int, str]]) -> None:
    lines = list(_LINES)
    for number, odd in damage:
        key, colon, _ = lines[number].partition(": ")
        lines[number] = f"{key}: {odd}" if colon else odd
    try:
        desk.load("\n".join(lines), whole=True)
    except ConfigurationErrors as errors:
        mistakes = errors.mistakes
    else:
        return
    assert mistakes
    assert all(1 <= one.line <= len(lines) + 1 and one.text for one in mistakes)
