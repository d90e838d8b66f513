from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from broker.config import ConfigurationErrors, Mistake, load
from broker.config.places import Place, Reader
from broker.config.substitution import Substitution


def read(text: str | bytes, folder: Path) -> tuple[Place, list[Mistake]]:
    file = folder / "x.yaml"
    file.write_bytes(text.encode() if isinstance(text, str) else text)
    reader = Reader(str(file), Substitution(env={}, folder=folder))
    return reader.read(), reader.mistakes


def refused(text: str | bytes, folder: Path) -> tuple[int, int, str]:
    with pytest.raises(ConfigurationErrors) as caught:
        read(text, folder)
    last = caught.value.mistakes[-1]
    return last.line, last.column, last.text


def test_scalars_stay_the_text_that_was_written(tmp_path: Path) -> None:
    root, mistakes = read("a: no\nb: 4.0\nc: 0x10\nd: 2026-01-01\ne: true\nf: 012\ng: '1'\nh: 'null'\n", tmp_path)
    assert not mistakes
    assert root.plain() == {
        "a": "no", "b": "4.0", "c": "0x10", "d": "2026-01-01", "e": "true", "f": "012", "g": "1", "h": "null",
    }  # fmt: skip


def test_only_an_unquoted_null_is_nothing(tmp_path: Path) -> None:
    root, _ = read("a:\nb: ~\nc: null\nd: ''\n", tmp_path)
    assert root.plain() == {"a": None, "b": None, "c": None, "d": ""}


def test_every_place_knows_where_it_and_its_key_stand(tmp_path: Path) -> None:
    root, _ = read("a:\n  - x\n  - {b: y}\nc:\n", tmp_path)
    assert (root.at(("a", 0)).line, root.at(("a", 0)).column) == (2, 5)
    assert root.at(("a", 1, "b")).key == (3, 6)
    assert root.at(("a", 1, "b")).start == (3, 9)
    assert root.at(("c",)).start == (4, 1), "nothing stands there: the key is shown"


def test_a_path_is_followed_as_far_as_it_goes(tmp_path: Path) -> None:
    root, _ = read("a: {b: [x]}\n", tmp_path)
    assert root.follow(("a", "branch of a union", "b", 0)) == ("a", "b", 0)
    assert root.at(("a", "missing")) is root.at(("a",))
    assert root.has("a", "b", 0)
    assert not root.has("a", "b", 1)
    assert root.keys("a") == ("b",)
    assert root.keys("a", "b") == ()
    assert root.keys("z") == ()


def test_anchors_are_followed_and_share_their_place(tmp_path: Path) -> None:
    root, mistakes = read("a: &x {b: c}\nd: *x\n", tmp_path)
    assert not mistakes
    assert root.plain() == {"a": {"b": "c"}, "d": {"b": "c"}}


def test_an_alias_that_contains_itself_is_a_mistake(tmp_path: Path) -> None:
    _, mistakes = read("a: &x [*x]\n", tmp_path)
    assert [one.text for one in mistakes] == ["this alias contains itself"]


def test_a_byte_order_mark_and_windows_lines_are_nothing_special(tmp_path: Path) -> None:
    root, _ = read(b"\xef\xbb\xbfa: b\r\nc: d\r\n", tmp_path)
    assert root.plain() == {"a": "b", "c": "d"}


def test_keys_written_twice_are_all_named(tmp_path: Path) -> None:
    _, mistakes = read("a: 1\nb: {c: 1, c: 2}\na: 2\n", tmp_path)
    assert [(one.line, one.column, one.text) for one in mistakes] == [
        (2, 11, "`c` is written twice"),
        (3, 1, "`a` is written twice"),
    ]


def test_tags_and_keys_that_are_no_text_are_mistakes(tmp_path: Path) -> None:
    _, mistakes = read("a: !secret b\n? [c]\n: d\n", tmp_path)
    assert [(one.line, one.text) for one in mistakes] == [
        (1, "the tag !secret means nothing here"),
        (2, "a key must be text, not a list"),
    ]


@pytest.mark.parametrize(
    ("text", "where"),
    [
        ("", (1, 1, "the file is empty")),
        ("# nothing\n", (1, 1, "the file is empty")),
        ("a:\n\tb: 1\n", (2, 1, "a tab cannot indent")),
        ("a: 1\n---\nb: 2\n", (2, 1, "a second document begins here")),
        ("a: \x01\n", (1, 4, "this character is not allowed in YAML")),
        (b"a: b\nc: \xff\n", (2, 4, "this is not UTF-8")),
        (b"\xef\xbb\xbfa: \xff\n", (1, 4, "this is not UTF-8")),
        ("a: [1, 2\nb: 3\n", (2, 2, "a `,` or the closing bracket is missing before this")),
        ("a: [${X}]\n", (1, 6, "inside { } and [ ] a ${…} needs quotes around it")),
        ("a: mailbox:\n", (1, 11, "a `:` does not fit here")),
        ("a: 'b\n", (1, 4, "this quote is not closed")),
        ("a: @b\n", (1, 4, "a value cannot begin with this character")),
        ("a: *b\n", (1, 4, "there is no anchor for the alias 'b'")),
        ("a:\n  b: 1\n c: 2\n", (3, 2, "the indentation does not fit the lines above")),
    ],
)
def test_syntax_is_said_with_its_place(tmp_path: Path, text: str | bytes, where: tuple[int, int, str]) -> None:
    assert refused(text, tmp_path) == where


def test_a_missing_file_and_a_folder_are_said(tmp_path: Path) -> None:
    for path, said in ((tmp_path / "none.yaml", "there is no such file"), (tmp_path, "the file cannot be read")):
        with pytest.raises(ConfigurationErrors, match=said):
            load(path, env={}, channels={})


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.text() | st.lists(st.sampled_from(list("ab:-[]{}'\"\n \t&*!|>$#,~0")), max_size=30).map("".join))
def test_any_text_is_read_or_refused_with_a_place(tmp_path: Path, text: str) -> None:
    try:
        _, mistakes = read(text.encode("utf-8", "surrogatepass"), tmp_path)
    except ConfigurationErrors as errors:
        mistakes = [*errors.mistakes]
        refused = True
    else:
        refused = False
    assert bool(mistakes) or not refused
    assert all(one.line >= 1 and one.column >= 1 and one.text for one in mistakes)
