"""What commands print, without a broker."""

from __future__ import annotations

import io
import os
import pty
import select

from broker.commands.say import Say, at, clean


def said() -> tuple[Say, io.StringIO]:
    out = io.StringIO()
    return Say(out=out), out


def test_columns_are_as_wide_as_they_must_be() -> None:
    say, out = said()
    say.table(("NAME", "N"), [("a", 1), ("longer", None)], nothing="none")
    assert out.getvalue() == "NAME    N\na       1\nlonger  -\n"


def test_an_empty_table_says_so() -> None:
    say, out = said()
    say.table(("NAME",), [], nothing="no dead letters")
    assert out.getvalue() == "no dead letters\n"


def test_what_a_sender_wrote_does_not_steer_the_terminal() -> None:
    assert clean("a\x1b[31mb\x07\u009b\r") == "a\ufffd[31mb\ufffd\ufffd\ufffd"
    say, out = said()
    say.table(("A",), [("x\x1b[2Jy\nz",)], nothing="")
    assert out.getvalue() == "A\nx\ufffd[2Jy z\n"


def test_piped_output_has_no_colours() -> None:
    say, out = said()
    say.line("text", "red")
    assert out.getvalue() == "text\n"


def test_a_terminal_gets_colours_unless_it_is_asked_not_to() -> None:
    controller, terminal = pty.openpty()
    try:
        with open(terminal, "w", closefd=False) as out:
            Say(out=out).line("one", "red")
            Say(out=out, no_colour=True).line("two", "red")
            os.environ["NO_COLOR"] = "1"
            try:
                Say(out=out).line("three", "red")
            finally:
                del os.environ["NO_COLOR"]
        seen = ""
        while "three" not in seen:  # a terminal hands over what it has got so far
            assert select.select([controller], [], [], 5)[0], f"no more came than {seen!r}"
            seen += os.read(controller, 1000).decode()
    finally:
        os.close(controller)
        os.close(terminal)
    assert "\x1b[31mone" in seen
    assert "two\r\nthree\r\n" in seen


def test_instants_are_read_by_people() -> None:
    assert at("2026-11-21T10:00:00.123456Z") == "2026-11-21 10:00:00.123Z"
    assert at("2026-11-21T10:00:00Z") == "2026-11-21 10:00:00.000Z"
    assert at("yesterday") == "yesterday"
    assert at(None) == "-"
