from __future__ import annotations

from pathlib import Path

import pytest
from config_desk import Desk

from broker.config import ConfigurationErrors, load
from broker.config.substitution import Substitution


def substituted(text: str, folder: Path, **env: str) -> str:
    value, wrong = Substitution(env=env, folder=folder).into(text)
    assert not wrong
    return value


def test_variables_and_defaults_are_put_in(tmp_path: Path) -> None:
    assert substituted("https://${HOST}/fhir", tmp_path, HOST="ehr.example") == "https://ehr.example/fhir"
    assert substituted("${HOST:localhost}:${PORT:8080}", tmp_path, PORT="1") == "localhost:1"
    assert substituted("${URL:https://a.example:8443/x}", tmp_path) == "https://a.example:8443/x"
    assert substituted("${EMPTY:}", tmp_path) == ""
    assert substituted("${SET:default}", tmp_path, SET="") == ""


def test_a_file_is_put_in_without_its_last_line_end(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("two words\r\n")
    assert substituted("${file:secret}", tmp_path) == "two words"
    assert substituted(f"${{file:{tmp_path}/secret}}!", Path("/nowhere")) == "two words!"


def test_two_dollars_stand_for_one_and_a_lone_one_for_itself(tmp_path: Path) -> None:
    assert substituted("$${HOST} ${A} $process-message $", tmp_path, A="b") == "${HOST} b $process-message $"


def test_what_is_put_in_is_not_looked_at_again(tmp_path: Path) -> None:
    assert substituted("${A}", tmp_path, A="${B}", B="c") == "${B}"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("${NOT_THERE}", "the environment has no variable NOT_THERE"),
        ("${}", "`${}` names no variable"),
        ("${a b}", "`${a b}` names no variable"),
        ("${open", "`${` is not closed by `}`"),
        ("${file:missing}", "there is no file"),
        ("${file:.}", "cannot be read"),
        ("${file:binary}", "it is not text in UTF-8"),
        ("${file:a\0b}", "cannot be read"),
    ],
)
def test_what_cannot_be_put_in_is_said(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    _, wrong = Substitution(env={}, folder=tmp_path).into(text)
    assert [said in str(one) for one in wrong] == [True]


def test_a_substituted_value_counts_as_if_it_were_written_there(desk: Desk) -> None:
    desk.env = {"N": "7", "WAIT": "3s", "FLAG": "true", "NO": "no"}
    settings = desk.load(
        "defaults: {lane: {concurrent: '${N}'}, sync: {wait: '${WAIT}'}}\n"
        "parties:\n  a:\n    endpoints: ${NO}\n    broker: ${FLAG}\n"
    )
    assert settings.defaults.lane.concurrent == 7
    assert settings.defaults.sync.wait.total_seconds() == 3
    assert settings.parties["a"].broker is True
    assert settings.parties["a"].endpoints == ("no",)


def test_files_start_at_the_folder_of_the_configuration(desk: Desk) -> None:
    (desk.folder / "host").write_text("ehr.example\n")
    settings = desk.load("directory:\n  endpoints:\n    urn:oid:2.999.2: https://${file:host}/fhir\n")
    assert settings.directory.endpoints["urn:oid:2.999.2"] == "https://ehr.example/fhir"


def test_a_missing_variable_is_one_mistake_at_its_place_and_no_more(desk: Desk) -> None:
    desk.write("broker:\n  endpoint: ${WHO}\n  base_url: ${URL}\n")
    with pytest.raises(ConfigurationErrors) as caught:
        load(desk.file, env={}, channels={})
    assert [(one.line, one.column, one.text) for one in caught.value.mistakes] == [
        (2, 13, "the environment has no variable WHO"),
        (3, 13, "the environment has no variable URL"),
    ]


def test_keys_are_not_substituted(desk: Desk) -> None:
    assert desk.mistakes("parties:\n  ${A}: {endpoints: urn:x:y}\n") == [
        "${…} is substituted in values only, not in keys"
    ]


@pytest.mark.parametrize(
    "text",
    [
        "store: {min_free: '${S}'}",
        "channels: {http: {listen: '${S}'}}",
        "channels: {http: {backlog: '${S}', compress: '${S}', prefix: '${S}', bodies: {wait: '${S}'}}}",
        "channels: {http: {behind_proxy: ['${S}']}}",
        "directory: {endpoints: {urn:x:y: '${S}', urn:x:z: 'https://${S}', urn:x:a: 'ftp://u:${S}@h/'}}",
        "directory: {sources: ['https://${S}/']}",
        "directory: {sources: ['${S}']}",
        "routes: [{match: {source: 'a${S}*', party: '${S}', fhir: '${S}'}, address: '${S}', order: '${S}'}]",
        "defaults: {sync: {wait: '${S}'}, retry: {factor: '${S}'}, priority: '${S}'}",
        "allow: {response_url: 'https://u:${S}@x/*'}",
        "log: {level: '${S}'}",
        "store: {url: '${S}'}",
    ],
)
def test_what_was_put_in_is_never_shown(desk: Desk, text: str) -> None:
    desk.env = {"S": "hunter2-is:the secret"}
    said = desk.mistakes(text + "\n")
    assert said
    assert not any("hunter2" in one or "secret" in one for one in said)


def test_a_literal_password_is_not_shown_either(desk: Desk) -> None:
    said = desk.mistakes(
        "channels: {http: {password: [letmein], user_agent: [x]}}\n"
        "directory: {endpoints: {urn:x:y: 'gopher://me:letm/ein@host/x'}}\n"
    )
    assert len(said) == 3
    assert not any("letm" in one for one in said)
