"""Shows a Subscription to clients of another release, in that release's own model, as far as it has one."""

from __future__ import annotations

from typing import Any

import msgspec
import orjson

from broker.core.fhir.header import Release
from broker.core.subscription.subscription import Model, Subscription

COMMON = ("meta", "implicitRules", "language", "contact")  # what all releases have and spell alike


def in_release(subscription: Subscription, release: Release) -> Subscription | None:
    """The Subscription as this release says it; None for a search string of R4, which R5 cannot say.

    What means nothing to us and not every release has (`name`, `managingEntity`, extensions) is left out then.
    """
    native = release.identifies_by_bundle_identifier
    if native is (subscription.model is Model.NATIVE):
        return msgspec.structs.replace(subscription, release=release)
    if subscription.model is Model.CLASSIC:
        return None
    return msgspec.structs.replace(
        subscription,
        model=Model.NATIVE if native else Model.BACKPORT,
        release=release,
        kept=_common(subscription.kept),
        # R4 must have one; R5 need not
        reason=subscription.reason or ("" if native else f"to be told of {subscription.topic_url}"),
    )


def _common(kept: bytes) -> bytes:
    values: dict[str, Any] = {name: value for name, value in orjson.loads(kept).items() if name in COMMON}
    meta = values.get("meta")
    if isinstance(meta, dict):  # a profile is of one release
        values["meta"] = {name: value for name, value in meta.items() if name != "profile"}
        if not values["meta"]:
            del values["meta"]
    return orjson.dumps(values)
