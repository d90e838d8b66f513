"""The callback at which a webhook's owner may consent later (C-30): a URL that nobody can guess, for one purpose."""

from __future__ import annotations

import hashlib
import hmac

from broker.core.subscription.subscription import Subscription

_PERSON = b"consent"  # so that the same key seals other things otherwise


def consent_token(key: bytes, subscription: Subscription) -> str:
    """Good for this subscription at this endpoint only; `key` is the store's."""
    return f"{subscription.id}.{_seal(key, subscription)}"


def callback(base_url: str, key: bytes, subscription: Subscription) -> str:
    """The URL at which the owner of the endpoint consents."""
    return f"{base_url}/consent/{consent_token(key, subscription)}"


def consents_to(token: str) -> str:
    """The id of the subscription that a token is about; what it is worth, `is_consent` says."""
    return token.rpartition(".")[0]


def is_consent(key: bytes, subscription: Subscription, token: str) -> bool:
    return hmac.compare_digest(token.encode(), consent_token(key, subscription).encode())


def _seal(key: bytes, subscription: Subscription) -> str:
    text = f"{subscription.id}\n{subscription.endpoint}".encode()
    return hashlib.blake2b(text, digest_size=20, key=key, person=_PERSON).hexdigest()
