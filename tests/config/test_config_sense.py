"""What no single value shows."""

from __future__ import annotations

import pytest
from config_desk import BROKER, Desk

from broker.directory import ServerSource

PARTIES = "parties: {north: {endpoints: urn:x:north}}\n"


# --- listeners -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("listen", ["127.0.0.1:8080", "localhost:8080", "'[::1]:8080'", "unix:http.sock"])
def test_a_loopback_listener_needs_nothing(desk: Desk, listen: str) -> None:
    assert desk.load(f"channels: {{http: {{listen: {listen}}}}}\n").channels


@pytest.mark.parametrize("listen", ["0.0.0.0:8080", "'[::]:8080'", "10.0.0.5:8080", "broker.example:8080"])
def test_a_listener_beyond_loopback_needs_tls_and_parties(desk: Desk, listen: str) -> None:
    (said,) = desk.mistakes(f"channels: {{http: {{listen: {listen}}}}}\n")
    assert "without tls or behind_proxy and without parties (listen on 127.0.0.1, or run with --insecure)" in said


def test_each_of_tls_and_parties_alone_is_not_enough(desk: Desk) -> None:
    proxied = "channels: {http: {listen: 0.0.0.0:8080, behind_proxy: [10.0.0.0/8]}}\n"
    (said,) = desk.mistakes(proxied)
    assert "0.0.0.0:8080, without parties" in said
    (said,) = desk.mistakes("channels: {http: {listen: 0.0.0.0:8080}}\n" + PARTIES)
    assert "0.0.0.0:8080, without tls or behind_proxy" in said
    assert "parties" not in said
    assert desk.load(proxied + PARTIES).channels


def test_a_listener_with_tls_and_parties_is_right(desk: Desk) -> None:
    (desk.folder / "pem").write_text("")
    settings = desk.load("channels: {http: {listen: 0.0.0.0:8443, tls: {cert: pem, key: pem}}}\n" + PARTIES)
    assert settings.channels["http"].listen == "0.0.0.0:8443"


def test_a_wrong_tls_block_is_one_mistake_not_two(desk: Desk) -> None:
    assert desk.mistakes("channels: {http: {listen: 0.0.0.0:8443, tls: {cert: pem}}}\n" + PARTIES) == [
        "`key` is missing in `tls`"
    ]


def test_insecure_is_the_one_way_round_and_is_remembered(desk: Desk) -> None:
    settings = desk.load("admin: {listen: 0.0.0.0:1}\nchannels: {http: {listen: 0.0.0.0:2}}\n", insecure=True)
    assert settings.insecure is True


def test_two_listeners_do_not_share_a_port_unless_it_is_any(desk: Desk) -> None:
    assert desk.mistakes("admin: {listen: 127.0.0.1:8080}\n") == ["admin listens on 127.0.0.1:8080 already"]
    assert desk.load("admin: {listen: 127.0.0.1:0}\nchannels: {http: {listen: 127.0.0.1:0}}\n")


def test_certificates_must_be_there_and_callers_need_an_authority(desk: Desk) -> None:
    (desk.folder / "pem").write_text("")
    assert desk.mistakes("channels: {http: {tls: {cert: gone, key: pem, client: optional}}}\n") == [
        "`cert`: there is no file `gone`",
        "`client: optional` needs `client_ca`: whose certificates are believed",
    ]
    assert desk.load("channels: {http: {tls: {cert: pem, key: pem, client_ca: pem, client: required}}}\n")
    assert desk.load("channels: {http: {tls: {cert: pem, key: pem, client: off}}}\n")


# --- store, limits, parties, sources ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("postgresql://db/x", "a store in PostgreSQL is not in this release (use sqlite:PATH)"),
        ("postgres:x", "a store in PostgreSQL is not in this release (use sqlite:PATH)"),
        ("sqlite3:x.db", "`url` must be sqlite:PATH, not `sqlite3:x.db` (did you mean sqlite:x.db?)"),
        ("sqlite:", "`url` must be sqlite:PATH, not `sqlite:` (did you mean sqlite:PATH?)"),
        ("data/broker.db", "`url` must be sqlite:PATH, not `data/broker.db`"),
        ("'sqlite::memory:'", "`url` must name a file: sqlite:PATH (did you mean sqlite:data/broker.db?)"),
        ("sqlite:///x.db", "`url` must name a file: sqlite:PATH (did you mean sqlite:data/broker.db?)"),
    ],
)
def test_the_store_is_an_sqlite_file(desk: Desk, url: str, said: str) -> None:
    assert desk.mistakes(f"store: {{url: {url}}}\n") == [said]


def test_one_message_fits_into_what_is_in_flight(desk: Desk) -> None:
    text = "channels: {}\n"
    limits = BROKER + "  limits: {in_flight: 1MiB}\n" + text
    assert desk.mistakes(limits, whole=True) == [
        "`message` must not be larger than `in_flight`: one message has to fit"
    ]


def test_an_endpoint_has_one_owner(desk: Desk) -> None:
    said = desk.mistakes("parties:\n  a: {endpoints: [urn:x:1]}\n  b: {endpoints: urn:x:1, relays_for: urn:x:1}\n")
    assert said == ["`urn:x:1` is owned by a already (one owner; others may relay for it)"]


def test_a_party_without_endpoints_is_worth_a_warning(desk: Desk) -> None:
    assert desk.warnings("parties: {a: {broker: true}}\n") == ["the party a may send as nobody"]


def test_a_party_cannot_prove_itself_yet(desk: Desk) -> None:
    assert desk.mistakes("parties: {a: {endpoints: urn:x:1, auth: []}}\n") == [
        "`auth` is not in this release (take it out for now)"
    ]


def test_sources_that_are_named_must_be_there_and_patterns_need_their_folder(desk: Desk) -> None:
    (desk.folder / "there").mkdir()
    (desk.folder / "there" / "x.json").write_text("{}")
    assert desk.warnings("directory: {sources: [there/*.yaml, there/x.json, gone/*.yaml]}\n") == [
        "the source `gone/*.yaml`: there is no such folder"
    ]
    assert desk.warnings("directory: {sources: there/*.yaml}\n") == []
    assert desk.mistakes("directory: {sources: [there/gone.json]}\n") == [
        "the source `there/gone.json`: there is no such file"
    ]


def test_a_server_is_a_source_by_its_base(desk: Desk) -> None:
    assert desk.warnings("directory: {sources: [https://directory.example/fhir, 'http://127.0.0.1:9/fhir']}\n") == []
    assert desk.warnings("directory: {sources: https://directory.example/fhir/}\n") == []
    (said,) = desk.warnings("directory: {sources: 'http://directory.example/fhir'}\n")
    assert "is read without TLS" in said


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("ftp://directory.example/", "is no FHIR server (write https://host/path)"),
        ("https:///fhir", "is no FHIR server (write https://host/path)"),
        ("https://u:p@directory.example/fhir", "must not hold a user or password (headers: {Authorization: …})"),
        ("https://directory.example/fhir?x=1", "must be the base of a FHIR server, without a query"),
    ],
)
def test_a_server_that_cannot_be_asked_is_a_mistake(desk: Desk, source: str, said: str) -> None:
    (mistake,) = desk.mistakes(f"directory: {{sources: ['{source}']}}\n")
    assert mistake.endswith(said)
    assert "u:p" not in mistake


def test_this_broker_is_no_source_of_its_own(desk: Desk) -> None:
    (said,) = desk.mistakes("directory: {sources: ['http://127.0.0.1:8080/fhir/R4']}\n")
    assert "is this broker itself" in said


def test_more_can_be_said_of_a_server(desk: Desk) -> None:
    (desk.folder / "token").write_text("abc\n")
    (desk.folder / "ca.pem").write_text("")
    source = "{url: 'https://d.example/fhir/', headers: {Authorization: 'Bearer ${file:token}'}, ca: ca.pem}"
    settings = desk.load(f"directory: {{sources: [{source}, 'https://e.example']}}\n")
    first, second = settings.directory.sources
    assert first == ServerSource(
        url="https://d.example/fhir", headers=(("Authorization", "Bearer abc"),), ca=desk.folder / "ca.pem"
    )
    assert second == ServerSource(url="https://e.example")


def test_what_is_wrong_with_a_server_is_named_where_it_stands(desk: Desk) -> None:
    source = "{url: 'https://d.example', headers: {Host: x, X-Key: \"a\\tb\"}, cert: gone.pem, types: [Endpont]}"
    assert desk.mistakes(f"directory: {{sources: [{source}, 'https://d.example']}}\n") == [
        "`cert` and `key` belong together: one of them is missing",
        "`Host` is no header that may be set here",
        "the value of `X-Key` has characters that no header has, or several lines",
        "`cert`: there is no file `gone.pem`",
        "`Endpont` is no resource that says how somebody is reached (did you mean Endpoint?)",
        "the source `https://d.example` is here twice",
    ]


# --- endpoints and addresses ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("htps://x/", "has a scheme that no channel speaks (did you mean https:?)"),
        ("HTTPS://x/", None),
        ("amqp10://x/", "needs the channel amqp10, which is not in this release"),
        ("mllp://x:1/", "needs the channel mllp, which is not in this release"),
        ("x.example/fhir", "is no address: it has no scheme (such as https: or mailbox:)"),
        ("https:///fhir", "cannot be used (there is no host in https:///fhir)"),
        ("http://127.0.0.1:8080/fhir/$process-message", "is this broker itself, by its base_url"),
        ("http://127.0.0.1:8080/other", None),
        ("'mailbox:'", None),
        ("mailbox:x", "says too much: every endpoint has one mailbox"),
    ],
)
def test_an_addresss_scheme_picks_a_channel_that_is_there(desk: Desk, address: str, said: str | None) -> None:
    in_directory = f"directory: {{endpoints: {{urn:x:1: {address}}}}}\n"
    in_rule = f"routes: [{{match: {{event: a}}, address: {address}}}]\n"
    for text in (in_directory, in_rule):
        if said is None:
            assert desk.load(text)
        else:
            (mistake,) = desk.mistakes(text)
            assert said in mistake


def test_an_address_of_a_channel_that_is_off_names_the_channel(desk: Desk) -> None:
    (said,) = desk.mistakes("channels: {}\ndirectory: {endpoints: {urn:x:1: 'https://x/'}}\n")
    assert said == "the address `https://x/` needs the channel http, which is off (add `http:` under channels)"


def test_every_address_of_an_endpoint_is_looked_at(desk: Desk) -> None:
    said = desk.mistakes(
        "directory:\n  endpoints:\n    urn:x:1: [https://x/, nope]\n    urn:x:2: {first: [nope, https://x/]}\n"
    )
    assert [one[:25] for one in said] == ["the address `nope` is no "] * 2


@pytest.mark.parametrize("value", ["", "{}", "{second: [https://x/]}", "{all: [https://x/]}", "[]", "[[https://x/]]"])
def test_an_endpoints_value_has_one_of_four_shapes(desk: Desk, value: str) -> None:
    assert desk.mistakes(f"directory:\n  endpoints:\n    urn:x:1: {value}\n")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("urn:oid:1.2.3*", "must end in `*` after a whole arc or segment (did you mean urn:oid:1.2.3.*?)"),
        ("https://x.example/fhir*", "(did you mean https://x.example/fhir/*?)"),
        ("urn:oid:1.*.3", "may have `*` only at its end (did you mean urn:oid:1.*?)"),
        ("urn:*", "means no namespace"),
        ("' urn:x:1'", "must be the name of an endpoint"),
    ],
)
def test_patterns_of_names_end_after_a_whole_arc_a_5(desk: Desk, name: str, said: str) -> None:
    (mistake,) = desk.mistakes(f"directory:\n  endpoints:\n    {name}: https://x/\n")
    assert said in mistake


def test_names_that_are_the_same_are_written_once_a_3(desk: Desk) -> None:
    (said,) = desk.mistakes("directory:\n  endpoints:\n    urn:oid:1.2: https://x/\n    URN:OID:1.2: https://y/\n")
    assert said == "`URN:OID:1.2` is the same name as `urn:oid:1.2` (the first is in line 8)"


def test_direct_is_for_addresses_and_never_for_everything(desk: Desk) -> None:
    assert desk.load(
        "directory:\n  endpoints:\n    https://*.x.example/*: direct\n    https://y.example/fhir: direct\n"
    )
    for name, said in {
        '"*"': "must not be direct: the broker would connect anywhere",
        "https://x*.example/*": "must be a pattern such as",
        "urn:oid:1.2.*": "must be a pattern such as",
        "urn:oid:1.2": "has a scheme that no channel speaks",
        "mqtts://*.example/*": "needs the channel mqtt, which is not in this release",
    }.items():
        (mistake,) = desk.mistakes(f"directory:\n  endpoints:\n    {name}: direct\n")
        assert said in mistake


def test_what_the_directory_itself_refuses_is_refused_here(desk: Desk) -> None:
    (said,) = desk.mistakes("directory:\n  endpoints:\n    urn:x:1: [https://x/, https://x/]\n")
    assert "has the same address twice" in said
    (said,) = desk.mistakes("directory:\n  endpoints:\n    urn:x:1: https://æ.example/\n")
    assert "is no address" in said


# --- rules ------------------------------------------------------------------------------------------------------------


def test_a_rule_has_one_end(desk: Desk) -> None:
    said = desk.mistakes(
        "routes:\n  - {name: a, match: {event: a}, address: 'mailbox:', refuse: x, log: true}\n"
        "  - {match: {event: b}, log: false, refuse: x}\n"
    )
    assert said == ["rule `a` has `address`, `refuse` and `log`: only one of them can be"]


def test_rules_have_names_of_their_own(desk: Desk) -> None:
    said = desk.mistakes("routes:\n  - {name: a, match: {event: a}}\n  - {name: a, match: {event: b}}\n")
    assert said == ["two rules are called `a` (the first is in line 7)"]


def test_rules_name_parties_and_channels_that_are_there(desk: Desk) -> None:
    said = desk.mistakes(PARTIES + "routes: [{match: {party: nort, not: {channel: [http, htp]}}}]\n")
    assert said == [
        "there is no party `nort` (did you mean north?)",
        "there is no channel that is on called `htp` (did you mean http?)",
    ]


def test_a_party_with_a_mistake_of_its_own_is_still_there(desk: Desk) -> None:
    said = desk.mistakes("parties: {north: 5}\nroutes: [{match: {party: north}}]\n")
    assert said == ["`north` must be a mapping, not `5`"]


def test_hold_without_an_order_holds_nothing(desk: Desk) -> None:
    said = "`on_refused: hold` holds nothing where `order` is none"
    assert desk.warnings("defaults: {on_refused: hold}\n") == [said]
    assert desk.warnings("routes: [{on_refused: hold}]\n") == [said]
    assert desk.warnings("defaults: {order: source}\nroutes: [{on_refused: hold}]\n") == []
    assert desk.warnings("defaults: {on_refused: hold}\nroutes: [{match: {event: a}, order: focus}]\n") == []


def test_final_response_is_one_of_several(desk: Desk) -> None:
    said = "`final` says nothing where `responses` is one"
    assert desk.warnings("defaults: {final: done}\n") == [said]
    assert desk.warnings("routes: [{match: {event: a}, final: done}]\n") == [said]
    assert desk.warnings("defaults: {final: done}\nroutes: [{responses: several}]\n") == []


def test_consequence_has_one_response(desk: Desk) -> None:
    """M-33."""
    said = ["a message of category `consequence` has one response"]
    assert desk.mistakes("defaults: {category: consequence, responses: several}\n") == said
    assert desk.mistakes("defaults: {responses: several}\nroutes: [{category: consequence}]\n") == said


def test_what_is_refused_or_goes_nowhere_cancels_nothing(desk: Desk) -> None:
    said = ["what is refused or goes nowhere can cancel nothing"]
    assert desk.mistakes("routes: [{match: {event: a}, cancels: true, log: true}]\n") == said
    assert desk.mistakes("routes: [{match: {event: a}, cancels: true, refuse: no}]\n") == said


def test_rules_behind_one_for_everything_can_never_match(desk: Desk) -> None:
    assert desk.warnings(
        "routes:\n  - name: all\n  - name: late\n    match: {event: a}\n  - {match: {event: b}}\n"
    ) == [
        "rule `late` can never match: rule `all` in line 7 matches every message",
        "rule 3 can never match: rule `all` in line 7 matches every message",
    ]


def test_a_rule_behind_its_equal_can_never_match(desk: Desk) -> None:
    assert desk.warnings("routes:\n  - {match: {event: a}}\n  - {match: {event: [a]}}\n") == [
        "rule 2 can never match: rule 1 in line 7 matches the same messages"
    ]
    assert desk.warnings("routes:\n  - {match: {not: {event: a}}}\n  - {match: {event: a}}\n") == []


def test_to_is_for_messages_that_name_no_destination(desk: Desk) -> None:
    (said,) = desk.warnings("routes: [{match: {destination: urn:x:1}, to: urn:x:2}]\n")
    assert said == "rule 1 can never use `to`, which is for messages that name no destination"


def test_warnings_wait_for_a_file_without_mistakes(desk: Desk) -> None:
    said = desk.mistakes("routes:\n  - {match: {evnt: a}}\n  - {match: {event: b}}\n")
    assert said == ["unknown key `evnt` in `match` (did you mean event?)"]


# --- times ------------------------------------------------------------------------------------------------------------


def test_the_wait_is_not_longer_than_the_longest_wherever_each_is_said(desk: Desk) -> None:
    said = "`wait` must not be longer than `longest`"
    assert desk.mistakes("defaults: {sync: {wait: 2m}}\n") == [said]
    assert desk.mistakes("defaults: {sync: {longest: 5s}}\n") == [said]
    assert desk.mistakes("routes: [{sync: {wait: 2m}}]\n") == [said]
    assert desk.mistakes("routes: [{sync: {longest: 5s}}]\n") == [said]
    assert desk.mistakes("routes: [{sync: {wait: 2m}}]\ndefaults: {sync: {wait: 3m}}\n") == [said] * 2
    assert desk.load("routes: [{sync: {wait: 2m}}]\ndefaults: {sync: {longest: 3m}}\n")


def test_the_first_retry_is_not_later_than_the_last(desk: Desk) -> None:
    assert desk.mistakes("defaults: {retry: {first: 1h}}\n") == ["`first` must not be longer than `max`"]
    assert desk.mistakes("defaults: {retry: {max: 1ms}}\n") == ["`first` must not be longer than `max`"]


def test_a_copy_is_recognised_for_as_long_as_the_first_may_be_on_its_way(desk: Desk) -> None:
    (said,) = desk.mistakes("routes: [{retry: {give_up: 91d}}]\n")
    assert said.startswith("`give_up` must not be longer than `identity` in store.retention")
    (said,) = desk.mistakes("store: {retention: {identity: 23h}}\n")
    assert said == "`identity` must not be shorter than the longest `give_up`"
    assert desk.load("store: {retention: {identity: 91d}}\nroutes: [{retry: {give_up: 91d}}]\n")


@pytest.mark.parametrize(
    "policy",
    [
        "retry: {factor: 0.9}", "retry: {factor: .nan}", "retry: {jitter: -0.1}", "retry: {jitter: 1.1}",
        "retry: {first: 0s}", "retry: {give_up: -1h}", "lane: {concurrent: 0}", "lane: {rate: -1}",
        "lane: {rate: .inf}", "lane: {open_after: 0}", "lane: {connect: 0s}", "priority: 10", "priority: 1.5",
        "mailbox: {unread: 0}", "answer_within: 0s", "order: sauce", "bounce: no", "category: x",
        "validate: all", "sync: {expects: yes}",
    ],
)  # fmt: skip
def test_policies_have_bounds(desk: Desk, policy: str) -> None:
    assert len(desk.mistakes(f"defaults: {{{policy}}}\n")) == 1
    assert len(desk.mistakes(f"routes: [{{{policy}}}]\n")) == 1


@pytest.mark.parametrize(
    "policy",
    [
        "retry: {factor: 1, jitter: 0}", "retry: {jitter: 1}", "lane: {rate: 0.1}", "sync: {wait: 0s}",
        "order: none", "order: correlation", "order: focus, on_refused: hold", "on_refused: skip",
        "category: consequence", "priority: 0", "priority: 9",
        "reused_id: accept", "duplicates: forward", "bounce: never",
    ],
)  # fmt: skip
def test_policies_at_their_bounds_are_right(desk: Desk, policy: str) -> None:
    assert desk.load(f"defaults: {{{policy}}}\n").warnings == ()
