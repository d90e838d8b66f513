"""One attempt over HTTP: the bytes as they are, the envelope in headers, and one of three ends."""

from __future__ import annotations

import asyncio
import io
import ssl
from collections.abc import Iterator
from datetime import UTC, datetime
from types import SimpleNamespace
from urllib.parse import urlsplit

import aiohttp
import msgspec
from aiohttp import hdrs
from yarl import URL

from broker.channel import Deferred, Delivered, Host, Refused, Transmission
from broker.core.fhir.header import Format
from broker.core.fhir.media import media_type
from broker.core.outcome import Problem, Refusal, Who
from plugins.http.address import is_own, on_the_wire
from plugins.http.binding import write_envelope
from plugins.http.classify import HttpAnswer, classify, said
from plugins.http.coding import Coding, Damaged, TooBig, Unpacker, coding_of
from plugins.http.digest import attribute_of, digest_of, parse_content_digest
from plugins.http.settings import HttpSettings

LARGEST_ANSWER = 32 * 1024 * 1024  # a response message may be as large as a message
LARGEST_REASON = 1024 * 1024  # of an answer that is no 2xx: an OperationOutcome, or an error page nobody reads
LONGEST_HEADER = 32 * 1024  # the same that we take
MOST_HEADERS = 128
IDLE = 50.0  # seconds a connection is kept; below the 60 after which many servers and balancers drop it
STREAMED = 512 * 1024  # aiohttp wants larger bodies as a stream

Attempted = Delivered | Deferred | Refused


class HttpSender:
    """Shares one pool of connections; how many go to a peer is its lane's business."""

    def __init__(self, settings: HttpSettings, host: Host) -> None:
        self._own = tuple(_own_urls(host.base_url, settings.listen))
        self._user_agent = settings.user_agent
        self._client_ca = settings.client_ca
        self._kept: aiohttp.ClientSession | None = None  # connections are kept and used again
        self._fresh: aiohttp.ClientSession | None = None  # a new connection for each request
        self._context: ssl.SSLContext | None = None

    async def attempt(self, transmission: Transmission) -> Attempted:
        """Makes one attempt and says how it ended."""
        try:
            if any(is_own(transmission.address, own) for own in self._own):
                return _unusable("own-address", "the address is this broker's own")
            url = on_the_wire(transmission.address, asynchronous=not transmission.caller_waits)
            headers = await self._headers(transmission)
        except ValueError as exc:
            return _unusable("unusable-address", str(exc))
        limits = aiohttp.ClientTimeout(
            total=(transmission.connect + transmission.answer).total_seconds(),
            connect=transmission.connect.total_seconds(),
        )
        reused = SimpleNamespace(connection=False)
        try:
            return await self._post(self._session(), url, headers, transmission, limits, reused)
        except (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError) as exc:
            if not reused.connection or isinstance(exc, aiohttp.ClientConnectorError):
                return _no_answer(exc)
        except ValueError:  # aiohttp's InvalidURL, a host that is no name, a header that cannot be written
            return _unusable("unusable-address", "no request can be written for the address")
        except (aiohttp.ClientError, OSError) as exc:
            return _no_answer(exc)
        # The peer closed a connection that it had kept, most likely before it read anything (RFC 9112, section 9.3.1);
        # if it did read, it gets a copy with the same bytes and ids (promise 2).
        try:
            return await self._post(self._session(fresh=True), url, headers, transmission, limits, reused)
        except (aiohttp.ClientError, OSError) as exc:
            return _no_answer(exc)

    async def stop(self) -> None:
        sessions = [session for session in (self._kept, self._fresh) if session is not None]
        self._kept = self._fresh = None
        for session in sessions:
            await session.close()
        if sessions:
            await asyncio.sleep(0)  # transports say good-bye in the next turn of the loop

    # --- the request ---

    async def _headers(self, transmission: Transmission) -> list[tuple[str, str]]:
        envelope = transmission.envelope
        changes: dict[str, object] = {}
        if envelope.digest is None:
            changes["digest"] = await attribute_of(transmission.body)
        if not transmission.caller_waits:
            changes["timeleft"] = None  # absent = nobody waits
        envelope = msgspec.structs.replace(envelope, **changes) if changes else envelope
        headers = [
            (hdrs.CONTENT_TYPE, transmission.media_type),
            (hdrs.ACCEPT, _accept(transmission.media_type)),
            (hdrs.ACCEPT_ENCODING, "gzip, deflate"),
            (hdrs.USER_AGENT, self._user_agent),
            *write_envelope(envelope),
        ]
        if transmission.caller_waits and envelope.timeleft is not None and envelope.timeleft >= 1000:
            headers.append(("Prefer", f"wait={envelope.timeleft // 1000}"))
        return headers

    def _session(self, *, fresh: bool = False) -> aiohttp.ClientSession:
        found = self._fresh if fresh else self._kept
        if found is not None:
            return found
        if self._context is None:
            self._context = ssl.create_default_context(cafile=self._client_ca)
            self._context.minimum_version = ssl.TLSVersion.TLSv1_2
        connector = aiohttp.TCPConnector(
            limit=0,  # the lane counts
            ssl=self._context,
            force_close=fresh,
            ttl_dns_cache=10,
            **({} if fresh else {"keepalive_timeout": IDLE}),  # type: ignore[arg-type]
        )
        session = aiohttp.ClientSession(
            connector=connector,
            cookie_jar=aiohttp.DummyCookieJar(),
            trust_env=False,  # no proxy and no netrc that nobody configured here
            auto_decompress=False,  # unpacked below, with a bound
            trace_configs=[_REUSE],
            max_line_size=LONGEST_HEADER,
            max_field_size=LONGEST_HEADER,
            max_headers=MOST_HEADERS,
        )
        if fresh:
            self._fresh = session
        else:
            self._kept = session
        return session

    async def _post(
        self,
        session: aiohttp.ClientSession,
        url: URL,
        headers: list[tuple[str, str]],
        transmission: Transmission,
        limits: aiohttp.ClientTimeout,
        reused: SimpleNamespace,
    ) -> Attempted:
        body = transmission.body
        async with session.post(
            url,
            data=io.BytesIO(body) if len(body) > STREAMED else body,
            headers=headers,
            allow_redirects=False,
            timeout=limits,
            trace_request_ctx=reused,
        ) as response:
            reused.connection = False  # an answer has begun: from here on nothing is sent a second time
            try:
                answer = await _whole(response)
            except _Unreadable as exc:
                return Deferred(note=f"{said(response.status)}, but {exc}", status=response.status)
        return classify(answer, transmission.address)


def _own_urls(base_url: str, listen: str) -> Iterator[str]:
    """How others reach us, and where we listen: both lead back here."""
    yield base_url
    if not listen.startswith("unix:") and not listen.endswith(":0"):
        yield f"http://{listen}{urlsplit(base_url).path}"


async def _mark_reused(session: object, context: SimpleNamespace, _: object) -> None:
    context.trace_request_ctx.connection = True


_REUSE = aiohttp.TraceConfig()
_REUSE.on_connection_reuseconn.append(_mark_reused)


def _accept(written: str) -> str:
    """Both formats, the message's own first."""
    try:
        xml = media_type(written).format is Format.XML
    except Refusal:
        xml = False
    names = (
        ("application/fhir+xml", "application/fhir+json") if xml else ("application/fhir+json", "application/fhir+xml")
    )
    return f"{names[0]}, {names[1]};q=0.9"


# --- the answer ------------------------------------------------------------------------------------------------------


class _Unreadable(Exception):
    """A 2xx that could not be read to its end is no delivery (design: delivered)."""


async def _whole(response: aiohttp.ClientResponse) -> HttpAnswer:
    """Reads an answer to its end; only of a 2xx does it matter that the end is reached."""
    good = 200 <= response.status < 300
    body: bytes | None = None
    if not 300 <= response.status < 400:
        try:
            body = await _read(response, LARGEST_ANSWER if good else LARGEST_REASON)
        except _Unreadable:
            if good:
                raise
    headers: dict[str, str] = {}
    for name, value in response.headers.items():
        headers.setdefault(name.lower(), value)
    return HttpAnswer(status=response.status, headers=headers, body=body, now=datetime.now(UTC))


async def _read(response: aiohttp.ClientResponse, limit: int) -> bytes:
    coding = coding_of(",".join(response.headers.getall(hdrs.CONTENT_ENCODING, ())))
    if coding is None:
        raise _Unreadable("its Content-Encoding is unknown")
    unpacker, packed, pieces = Unpacker(coding, limit), [], []
    try:
        async for chunk in response.content.iter_any():
            if coding is not Coding.IDENTITY:
                packed.append(chunk)
            pieces.append(unpacker.feed(chunk))
        unpacker.finish()
    except (TooBig, Damaged) as exc:
        raise _Unreadable(f"its body is unusable: {exc}") from None
    except aiohttp.ClientPayloadError:
        raise _Unreadable("its body was cut short") from None
    except TimeoutError:
        raise _Unreadable("its body did not come in time") from None
    except (aiohttp.ClientError, OSError):
        raise _Unreadable("the connection broke within its body") from None
    body = b"".join(pieces)
    await _check_digest(response, body, b"".join(packed))
    return body


async def _check_digest(response: aiohttp.ClientResponse, body: bytes, packed: bytes) -> None:
    """RFC 9530, of the bytes on the wire or of what they unpack to (X-45)."""
    try:
        claims = parse_content_digest(",".join(response.headers.getall("Content-Digest", ())) or "x=::")
    except ValueError:
        return  # a receiver's untidy header is not worth sending the message again
    for algorithm, claimed in claims.items():
        if claimed != await digest_of(body, algorithm) and claimed != await digest_of(packed, algorithm):
            raise _Unreadable("its body is not the one that its Content-Digest speaks of")


def _no_answer(exc: Exception) -> Deferred:
    """Foreign exceptions in our words; none of their own text, which may quote what was on the wire."""
    match exc:
        case aiohttp.ClientConnectorDNSError():
            return Deferred(note="the host's name could not be resolved", of_peer=True, left=False)
        case ssl.SSLCertVerificationError() | aiohttp.ClientConnectorCertificateError():
            return Deferred(note="TLS: the certificate is not valid for the host", of_peer=True, left=False)
        case ssl.SSLError() | aiohttp.ClientSSLError():
            return Deferred(note="TLS: the handshake failed", of_peer=True, left=False)
        case aiohttp.ClientConnectorError():
            return Deferred(note=f"no connection: {_reason(exc.os_error)}", of_peer=True, left=False)
        case aiohttp.ConnectionTimeoutError():
            return Deferred(note="no connection in time", of_peer=True, left=False)
        case TimeoutError():
            return Deferred(note="no answer in time", of_peer=True)
        case aiohttp.ClientResponseError():
            return Deferred(note="the answer is not HTTP that can be read", of_peer=True)
        case aiohttp.ServerDisconnectedError() | OSError():
            return Deferred(note="the connection was closed before an answer came", of_peer=True)
        case _:
            return Deferred(note=f"no answer: {type(exc).__name__}", of_peer=True)


def _reason(error: OSError) -> str:
    return (error.strerror or type(error).__name__).lower()[:80]


def _unusable(id: str, why: str) -> Refused:
    text = f"The message cannot be sent: {why}; correct the directory or the rule that gives this address."
    return Refused(note=why, problem=Problem(code="processing", id=id, text=text, who=Who.BROKER))
