"""What the caller asks for beside carrying the message: `async`, `response-url`, `Prefer` (M-41, M-48, M-50)."""

from __future__ import annotations

from datetime import timedelta
from urllib.parse import urlsplit

from broker.channel import Asked
from broker.core.outcome import BadRequest
from broker.web import Asking, parameter, preferences

LONGEST_WAIT = 24 * 3600  # seconds; a wish, which the rule's `longest` cuts down anyway


_PLAIN, _PLAIN_ASYNCHRONOUS = Asked(), Asked(asynchronous=True)


def asked(request: Asking) -> Asked:
    """Reads the query and the preferences; parameters that are not ours are ignored."""
    query = request.rel_url.raw_query_string
    if query in ("", "async=true") and "Prefer" not in request.headers:
        return _PLAIN_ASYNCHRONOUS if query else _PLAIN
    prefer = preferences(request)
    asynchronous = parameter(request, "async")
    if asynchronous not in (None, "true", "false"):
        raise BadRequest("async must be true or false", expression="http.async")
    response_url = parameter(request, "response-url")
    if response_url is not None:
        _check_url(response_url)
    by_preference = "respond-async" in prefer and asynchronous is None
    return Asked(
        asynchronous=asynchronous == "true" or by_preference,
        wait=_wait(prefer.get("wait")),
        response_url=response_url,
    )


def _wait(text: str | None) -> timedelta | None:
    """A preference that cannot be understood is no error (RFC 7240, section 2)."""
    if text is None or not (text.isascii() and text.isdigit()):
        return None
    return timedelta(seconds=min(int(text[:9]), LONGEST_WAIT))


def _check_url(url: str) -> None:
    try:
        parts = urlsplit(url)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        usable = False
    if not usable or any(char.isspace() or not char.isprintable() for char in url):
        raise BadRequest(
            "response-url must be an absolute http or https URL, percent-encoded in the query",
            expression="http.response-url",
        )
