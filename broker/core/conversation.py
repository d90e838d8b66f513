"""Whether a response is the last one: where a rule expects several, the request stays open until then (W-9)."""

from __future__ import annotations

from functools import lru_cache

from broker.core.addressing import compile_glob
from broker.core.fhir.focus import focused, is_over
from broker.core.fhir.header import Event, Header
from broker.core.policy import Policy, Responses


def is_final(policy: Policy, header: Header, body: bytes) -> bool:
    """Of a response, by the policy of the request that it answers.

    The last is one that reports a failure (nothing comes of the request any more, or it is sent again), one whose event
    the rule calls final, or one with a Task that has come to its end.
    """
    if policy.responses is Responses.ONE:
        return True
    if header.response is not None and header.response.code in ("fatal-error", "transient-error"):
        return True
    return _is_named(header.event, policy.final) or is_over(focused(body, header))


def _is_named(event: Event, patterns: tuple[str, ...]) -> bool:
    return any(_fits(pattern, event.code) or _fits(pattern, str(event)) for pattern in patterns)


@lru_cache(maxsize=1024)
def _fits(pattern: str, value: str) -> bool:
    return bool(compile_glob(pattern)(value))
