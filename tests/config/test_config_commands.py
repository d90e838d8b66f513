from __future__ import annotations

import io
import json
from pathlib import Path

from config_desk import BROKER, CHANNELS, HTTP_ON, Desk

from broker.commands.check import check
from broker.commands.init import init
from broker.commands.schema import schema


def checked(file: Path, **more: bool) -> tuple[int, str]:
    out = io.StringIO()
    return check(file, channels=CHANNELS, env={}, out=out, **more), out.getvalue()  # type: ignore[arg-type]


def test_check_counts_what_is_right(desk: Desk) -> None:
    file = desk.write(BROKER + HTTP_ON + "parties: {a: {endpoints: urn:x:1}}\nroutes: [{refuse: a}]\n")
    assert checked(file) == (0, "ok: 1 party, 1 route, 1 channel, 0 endpoints, 0 sources\n")


def test_check_says_warnings_before_ok(desk: Desk) -> None:
    file = desk.write(BROKER)
    code, said = checked(file)
    assert code == 0
    assert said.splitlines() == [
        f"{file}:1:1: warning: no channel is on: nothing can come in (add `http:` under channels)",
        "ok: 0 parties, 0 routes, 0 channels, 0 endpoints, 0 sources",
    ]


def test_check_says_every_mistake_on_its_line(desk: Desk) -> None:
    file = desk.write(BROKER + "loq: {}\nstor: {}\n")
    assert checked(file) == (
        2,
        f"{file}:4:1: unknown key `loq` (did you mean log?)\n{file}:5:1: unknown key `stor` (did you mean store?)\n",
    )


def test_check_in_json_is_for_programs(desk: Desk) -> None:
    code, said = checked(desk.write(BROKER + "loq: {}\n"), as_json=True)
    assert code == 2
    assert json.loads(said) == {
        "ok": False,
        "counts": {},
        "mistakes": [
            {
                "file": str(desk.file), "line": 4, "column": 1, "severity": "error",
                "text": "unknown key `loq`", "hint": "did you mean log?",
            }
        ],
    }  # fmt: skip
    code, said = checked(desk.write(BROKER + HTTP_ON), as_json=True)
    assert code == 0
    assert json.loads(said)["ok"] is True
    assert json.loads(said)["counts"]["channels"] == 1


def test_check_of_a_file_that_is_not_there(tmp_path: Path) -> None:
    code, said = checked(tmp_path / "none.yaml")
    assert code == 2
    assert said == f"{tmp_path}/none.yaml:1:1: there is no such file (fhir-broker init writes a starter)\n"


def test_check_is_told_of_insecure(desk: Desk) -> None:
    file = desk.write(BROKER + "channels: {http: {listen: 0.0.0.0:80}}\n")
    assert checked(file)[0] == 2
    assert checked(file, insecure=True)[0] == 0


def test_schema_prints_json() -> None:
    out = io.StringIO()
    assert schema(channels=CHANNELS, out=out) == 0
    assert json.loads(out.getvalue())["$defs"]["Channels"]["properties"]["http"]


def test_init_writes_what_passes_check_and_never_overwrites(tmp_path: Path) -> None:
    home = tmp_path / "new" / "place"
    out = io.StringIO()
    assert init(home, out=out) == 0
    assert f"fhir-broker check --config {home}/broker.yaml" in out.getvalue()
    assert (home / "directory").is_dir()
    assert checked(home / "broker.yaml")[0] == 0
    assert "warning" not in checked(home / "broker.yaml")[1]

    (home / "broker.yaml").write_text("mine")
    out = io.StringIO()
    assert init(home, out=out) == 1
    assert out.getvalue() == f"{home}/broker.yaml is there already; nothing was written\n"
    assert (home / "broker.yaml").read_text() == "mine"


def test_init_says_where_it_cannot_write(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    out = io.StringIO()
    assert init(tmp_path / "file" / "sub", out=out) == 1
    assert "cannot be written" in out.getvalue()
    (tmp_path / "directory").write_text("")
    assert init(tmp_path, out=io.StringIO()) == 1


def test_what_the_starter_shows_in_comments_is_right_too(tmp_path: Path) -> None:
    init(tmp_path, out=io.StringIO())
    file = tmp_path / "broker.yaml"
    lines = file.read_text().splitlines()
    # a comment that holds a setting is written with one space, at the place where the setting belongs
    for begin in ("# parties:", "# routes:"):
        at = lines.index(begin)
        while lines[at].startswith("#"):
            lines[at] = lines[at].removeprefix("# ")
            at += 1
    lines = [line.replace("    # urn:", "    urn:").replace('    # "*"', '    "*"') for line in lines]
    lines = [line.replace("  # sources:", "  sources:") for line in lines]
    file.write_text("\n".join(lines))
    code, said = checked(file)
    assert (code, said) == (0, "ok: 2 parties, 1 route, 1 channel, 5 endpoints, 2 sources\n")
