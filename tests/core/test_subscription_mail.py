from __future__ import annotations

from typing import Any

import pytest
from subscribed import ENCOUNTERS, NOW

from broker.core.fhir.media import media_type
from broker.core.outcome import Unsupported
from broker.core.subscription.mail import MOST, Form, body, form_of, subject
from broker.core.subscription.notification import About, Carried, Event, Kind
from broker.core.subscription.subscription import Content
from broker.core.subscription.topic import Interaction

FOCUS = Carried(
    reference="https://s.example/Encounter/2", type="Encounter", id="2", interaction=Interaction.CREATE, body=b"SECRET"
)
PATIENT = Carried(reference="", type="Patient")


def about(content: Content = Content.ID_ONLY, **changed: Any) -> About:
    known: dict[str, Any] = {"url": "https://b.example/Subscription/7", "topic": ENCOUNTERS, "content": content}
    return About(**(known | changed))


def event(number: int = 4, **changed: Any) -> Event:
    return Event(**({"number": number, "at": NOW, "focus": FOCUS, "more": (PATIENT,)} | changed))


@pytest.mark.parametrize(
    ("text", "form"),
    [
        ("text/plain", Form(html=False)),
        ("TEXT/HTML", Form(html=True)),
        ("text/plain;attach=application/fhir+json", Form(html=False, attached=media_type("application/fhir+json"))),
        ('text/html; attach="application/fhir+xml; fhirVersion=5.0"',
         Form(html=True, attached=media_type("application/fhir+xml; fhirVersion=5.0"))),
        ("text/html;attach=application/fhir+xml; fhirVersion=5.0",
         Form(html=True, attached=media_type("application/fhir+xml; fhirVersion=5.0"))),
        ("text/calendar", None),
        ("text/plain;charset=x", None),
    ],
)  # fmt: skip
def test_media_type_says_body_and_attachment(text: str, form: Form | None) -> None:
    """S-45."""
    assert form_of(text) == form


def test_attachment_is_fhir() -> None:
    with pytest.raises(Unsupported):
        form_of("text/plain;attach=image/png")


@pytest.mark.parametrize("kind", Kind)
@pytest.mark.parametrize("html", [True, False])
def test_words_say_what_it_is(kind: Kind, html: bool) -> None:
    text = body(kind, about(), [], html=html)
    assert "https://b.example/Subscription/7" in text
    assert text.startswith("<!DOCTYPE html>") is html
    assert subject(kind, about(), []) == f"Subscription 7: {kind.value}"


@pytest.mark.parametrize(
    ("content", "told"),
    [(Content.EMPTY, False), (Content.ID_ONLY, True), (Content.FULL, True)],
)
def test_words_tell_no_more_than_the_level(content: Content, told: bool) -> None:
    """Full content is for the attachment alone, which a machine reads."""
    text = body(Kind.EVENT, about(content), [event()], html=False)
    assert ("https://s.example/Encounter/2 created, Patient" in text) is told
    assert (ENCOUNTERS in text) is told
    assert "SECRET" not in text
    assert "Event 4 at 2026-11-21T12:00:00.000Z" in text


def test_subject_names_the_last_number_and_nothing_else() -> None:
    line = subject(Kind.EVENT, about(), [event(3), event(4)])
    assert line == "Subscription 7: event-notification 4"


def test_text_of_others_is_no_markup() -> None:
    bad = event(focus=Carried(reference="<script>", type="X"), more=())
    assert "<script>" not in body(Kind.EVENT, about(), [bad], html=True)


def test_many_events_are_counted() -> None:
    text = body(Kind.EVENT, about(), [event(n, at=None, focus=None, more=()) for n in range(MOST + 2)], html=False)
    assert "and 2 more events" in text
    assert f"\nEvent {MOST - 1}\n" in text


def test_query_is_told_where_the_topic_has_one() -> None:
    """S-57a."""
    assert "(ask https://s/?x)" in body(Kind.EVENT, about(Content.EMPTY), [event(query="https://s/?x")], html=False)
