"""What a person writes: the endpoints of the configuration, YAML files, and every mistake in them."""

from __future__ import annotations

import json
import time
from datetime import UTC, datetime

import pytest

from broker.directory import Directory, How, Mode, Snapshot
from broker.directory.written import Unreadable, read_endpoints, read_file

NOW = datetime(2026, 11, 21, tzinfo=UTC)


def test_a_yaml_file_says_names_addresses_and_other_forms() -> None:
    content = read_file(
        """
endpoints:
  urn:oid:1.2.3: https://a.example/fhir/$process-message
  https://s.example/id|no: [mb:x, https://b.example]
  urn:oid:1.2.*: {first: [https://c.example, https://d.example]}
  https://*.partner.example/*: direct
  "*": amqp:?exchange=fhir&routing_key=out
aliases:
  https://s.example/id|*: [http://s.example/id|*]
  urn:oid:1.2.3: a
""",
        file="north.yaml",
    )
    assert content.problems == ()
    assert [(line.name, line.how) for line in content.listed] == [
        ("urn:oid:1.2.3", How.EXACT),
        ("https://s.example/id|no", How.EXACT),
        ("urn:oid:1.2.*", How.PREFIX),
        ("https://*.partner.example/*", How.DIRECT),
        ("*", How.DEFAULT),
    ]
    assert [line.entries[0].origin for line in content.listed[:2]] == ["north.yaml:3", "north.yaml:4"]
    assert content.listed[2].entries[0].mode is Mode.FIRST
    assert content.aliases == (("http://s.example/id|*", "https://s.example/id|*"), ("a", "urn:oid:1.2.3"))


def test_a_json_file_of_the_same_shape_is_read_the_same_and_quickly() -> None:
    names = {f"urn:oid:1.2.{number}": "https://a.example" for number in range(100_000)}
    text = json.dumps({"endpoints": names | {"x": {"first": ["mb:x"]}}, "aliases": {"x": ["y"]}})
    began = time.perf_counter()
    content = read_file(text, file="big.json")
    assert time.perf_counter() - began < 5
    assert content.problems == ()
    assert len(content.listed) == 100_001
    assert content.listed[-1].entries[0].mode is Mode.FIRST
    assert content.aliases == (("y", "x"),)


@pytest.mark.parametrize("text", ["", "endpoints:\n", "endpoints: {}\n", '{"endpoints": {}}', "{endpoints: {}}"])
def test_an_empty_file_says_nothing(text: str) -> None:
    assert read_file(text, file="f") == ((), (), ())


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ("endpoint: {a: mb:x}", "unknown key 'endpoint'"),
        ("endpoints: [a]", "must be a mapping"),
        ("endpoints: {a: []}", "has no address"),
        ("endpoints: {a: [x, mb:x]}", "'x' is no address"),
        ("endpoints: {a: 'https://a b'}", "is no address"),
        ("endpoints: {a: [mb:x, mb:x]}", "same address twice"),
        ("endpoints: {a: [direct, mb:x]}", "stands alone"),
        ("endpoints: {a: direct}", "'a' is no address"),
        ("endpoints: {urn:oid:1.*: direct}", "is no URL"),
        ("endpoints: {https://a.*.b/*: direct}", "no pattern for addresses"),
        ("endpoints: {a: {last: [mb:x]}}", "only key here is `first`, not last"),
        ("endpoints: {a: {first: [mb:x], x: y}}", "not first, x"),
        ("endpoints: {a: [[mb:x]]}", "write an address, a list"),
        ("endpoints: {a: {}}", "has no address"),
        ("endpoints: {urn:oid:1*: mb:x}", "whole arc"),
        ("endpoints: {'': mb:x}", "empty name"),
        ("endpoints: {[a]: mb:x}", "a name is a text"),
        ("aliases: {a: {b: c}}", "aliases are written"),
        ("aliases: {a: [[b]]}", "is a text"),
        ("aliases: {urn:oid:1.*: [b]}", "both end in `*`, or neither"),
        ("aliases: {a: ['*']}", "both end in"),
        ("aliases: {a: [b*c]}", "only at the end"),
        ("aliases: {a: [c], b: [c]}", "another form of 'a' already"),
    ],
)
def test_a_mistake_is_told_with_its_line_and_the_rest_is_kept(value: str, says: str) -> None:
    content = read_file("endpoints:\n  good: mb:x\n", file="f")
    assert content.problems == ()
    content = read_file("\n" + value, file="f.yaml")
    assert says in content.problems[0].text
    assert str(content.problems[0]).startswith("f.yaml:2: ")


def test_a_name_that_is_written_twice_is_told_in_whatever_form() -> None:
    """A-3, A-4."""
    text = "endpoints:\n  urn:oid:1.2.3: mb:x\n  URN:OID:1.2|3: https://b.example\n  urn:oid:1.2.3: mb:x\n"
    content = read_file(text, file="f.yaml")
    assert [problem.line for problem in content.problems] == [3, 4]
    assert "stands on line 2 already" in content.problems[0].text
    assert len(content.listed) == 1
    text = '{"endpoints": {"a": "mb:x", "a": "https://x.example"}}'
    assert "stands as 'a' already" in read_file(text, file="f.json").problems[0].text
    twice = read_endpoints({"urn:oid:1.*": "mb:x", "urn:OID:1.*": "mb:x"}, file="f", lines={"urn:OID:1.*": 9})
    assert [str(problem)[:4] for problem in twice.problems] == ["f:9:"]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("endpoints: {", "no YAML"),
        ("endpoints:\n  *: mb:x\n", "no YAML"),
        ("endpoints:\n  a: mailbox:\n", 'needs quotes: "mailbox:"'),
        ("- a", "a directory file is a mapping"),
        ("just a text", "a directory file is a mapping"),
        ("a: b\n---\nc: d\n", "no YAML"),
        ("a: \x00", "no YAML"),
        ("[" * 3000, "nested too deeply"),
        ("&a [*a]", "nested too deeply"),
        ('{"a":' * 100_000, "nested too deeply"),
    ],
)
def test_a_file_that_is_something_else_is_unreadable(text: str, says: str) -> None:
    with pytest.raises(Unreadable, match=says):
        read_file(text, file="f")


def test_anchors_of_anchors_do_not_grow() -> None:
    lines = ["a0: &a0 [x, x]"] + [f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]" for n in range(1, 60)]
    began = time.perf_counter()
    content = read_file("\n".join(lines), file="f")
    assert time.perf_counter() - began < 5
    assert len(content.problems) == 60


def test_numbers_and_no_are_names_like_any_other() -> None:
    content = read_file("endpoints:\n  no: mb:x\n  0123: mb:x\n  null: mb:x\n", file="f")
    assert [line.name for line in content.listed] == ["no", "0123", "null"]


def test_mistakes_in_the_configuration_name_its_lines() -> None:
    directory = Directory({"a": "x", "b": 5, "c": "mb:x"}, file="broker.yaml", lines={"a": 7, "c": 9})
    assert [str(problem).split("'")[0] for problem in directory.problems] == ["broker.yaml:7: ", "broker.yaml: "]
    assert directory.current.resolve("c", now=NOW).origin == "broker.yaml:9"
    assert isinstance(directory.current, Snapshot)
