from __future__ import annotations

from typing import Any

import orjson
import pytest
from subscribed import ENCOUNTERS, r4, r5, read
from written import validated

from broker.core.fhir.header import Release
from broker.core.subscription.shown import in_release
from broker.core.subscription.subscription import PROFILE, Model, Subscription
from broker.core.subscription.write import as_resource


def native(**changed: Any) -> Subscription:
    return read(r5(**changed), Release.R5)


def backport(**changed: Any) -> Subscription:
    return read(r4(criteria=ENCOUNTERS, **changed), Release.R4)


@pytest.mark.parametrize("release", [Release.R4, Release.R4B])
def test_native_one_is_shown_as_the_backport(release: Release) -> None:
    found = in_release(native(name="mine", meta={"profile": ["urn:x"], "tag": [{"code": "a"}]}), release)
    assert found is not None
    resource = validated(as_resource(found), release)
    assert (found.model, resource["criteria"], resource["reason"]) == (
        Model.BACKPORT,
        ENCOUNTERS,
        f"to be told of {ENCOUNTERS}",
    )
    assert resource["meta"] == {"tag": [{"code": "a"}], "profile": [PROFILE]}
    assert "name" not in resource


def test_backport_is_shown_as_a_native_one() -> None:
    contact = [{"system": "phone", "value": "1"}]
    found = in_release(backport(contact=contact, meta={"profile": [PROFILE]}), Release.R5)
    assert found is not None
    resource = validated(as_resource(found), Release.R5)
    assert (resource["topic"], resource["contact"], resource["reason"]) == (ENCOUNTERS, contact, "to know")
    assert "meta" not in resource


def test_same_model_stays_whole() -> None:
    """R4 and R4B are one model: nothing is left out."""
    extension = [{"url": "urn:x", "valueString": "kept"}]
    found = in_release(backport(extension=extension), Release.R4B)
    assert found is not None
    assert (found.release, orjson.loads(found.kept)) == (Release.R4B, {"extension": extension})
    assert in_release(native(), Release.R5) == native()


def test_search_string_has_no_words_in_r5() -> None:
    classic = read(r4(), Release.R4)
    assert in_release(classic, Release.R5) is None
    assert in_release(classic, Release.R4B) is not None
