"""Reads media types: which format, which release (spec: messaging M-51), and writes the canonical ones."""

from __future__ import annotations

import re
from functools import lru_cache

import msgspec

from broker.core.fhir.header import Format, Release
from broker.core.outcome import Unsupported

FORMATS = {
    "application/fhir+json": Format.JSON,
    "application/fhir+xml": Format.XML,
    "application/json+fhir": Format.JSON,  # DSTU2's own spelling
    "application/xml+fhir": Format.XML,
    "application/json": Format.JSON,
    "text/json": Format.JSON,
    "application/xml": Format.XML,
    "text/xml": Format.XML,
    "json": Format.JSON,
    "xml": Format.XML,
}
SERVED = "application/fhir+json or application/fhir+xml"
PARAMETER = re.compile(r';\s*([^\s=;,"]+)\s*=\s*("(?:[^"\\]|\\.)*"|[^;"]*)')
ITEM = re.compile(r'(?:[^,"]|"(?:[^"\\]|\\.)*")+')  # of a header's list: commas inside quotes do not part
PUBLISHED = re.compile(r"(\d\.\d)(?:\.\d+)?(?:-[A-Za-z0-9.-]+)?")  # 4.0, 4.0.1, 6.0.0-ballot3


class MediaType(msgspec.Struct, frozen=True, kw_only=True):
    """What a media type says about a message."""

    format: Format
    release: Release | None
    bare: str  # the type itself, in lower case, without parameters


@lru_cache(maxsize=256)  # a process sees a handful of them, each with every message
def media_type(text: str) -> MediaType:
    """The format and release that a Content-Type or `_format` names; raises Unsupported."""
    bare, parameters = _parts(text)
    format = FORMATS.get(bare)
    if format is None:
        said = f"The media type {_shown(bare)} is" if bare else "No media type is given; that is"
        raise Unsupported(f"{said} not one that is read here: send {SERVED}.", id="unsupported-media-type")
    charset = parameters.get("charset", "utf-8").lower()
    if charset not in ("utf-8", "utf8"):
        raise Unsupported(
            f"The charset {_shown(charset)} is not read here: FHIR is written in UTF-8.",
            id="unsupported-charset",
        )
    version = parameters.get("fhirversion")
    return MediaType(format=format, release=None if version is None else release_of(version), bare=bare)


def release_of(version: str) -> Release:
    """The release that a `fhirVersion` names, as x.y or x.y.z; raises Unsupported."""
    published = PUBLISHED.fullmatch(version)
    try:
        return Release(published[1] if published else version)
    except ValueError:
        known = ", ".join(release.value for release in Release)
        raise Unsupported(
            f"fhirVersion {_shown(version)} is not known here: use one of {known}.",
            id="unsupported-fhir-version",
        ) from None


def acceptable(accept: str | None, format_param: str | None = None) -> tuple[Format, Release | None]:
    """What the caller wants to read; `_format` goes before Accept, and saying nothing means JSON (M-51)."""
    if format_param:
        try:
            # an unescaped + of a query arrives as a space
            asked = media_type(format_param.replace("fhir ", "fhir+"))
        except Unsupported as refusal:
            raise _not_acceptable(f"_format={_shown(format_param)}") from refusal
        return asked.format, asked.release
    if not accept or not accept.strip():
        return Format.JSON, None
    best: tuple[float, Format, Release | None] | None = None
    excluded, anything = set(), 0.0
    for item in ITEM.findall(accept):
        bare, parameters = _parts(item)
        quality = _quality(parameters.get("q", "1"))
        if bare in ("*/*", "application/*", "*"):
            anything = max(anything, quality)
            continue
        try:
            named = media_type(item)
        except Unsupported:
            continue
        if quality == 0:
            excluded.add(named.format)
        elif best is None or quality > best[0]:
            best = (quality, named.format, named.release)
    if best is not None and best[0] >= anything:
        return best[1], best[2]
    if anything:
        for format in Format:
            if format not in excluded:
                return format, None
    raise _not_acceptable(f"Accept: {_shown(accept)}")


def media_text(format: Format, release: Release | None = None) -> str:
    """The canonical media type of a format, with `fhirVersion` where the release is known."""
    bare = f"application/fhir+{format.value}"
    return bare if release is None else f"{bare}; fhirVersion={release.value}"


def _parts(text: str) -> tuple[str, dict[str, str]]:
    bare, mark, _ = text.partition(";")
    parameters: dict[str, str] = {}
    if mark:
        for name, value in PARAMETER.findall(text, len(bare)):
            parameters.setdefault(name.lower(), _unquoted(value.strip()))
    return bare.strip().lower(), parameters


def _unquoted(value: str) -> str:
    return re.sub(r"\\(.)", r"\1", value[1:-1]) if value.startswith('"') else value


def _quality(text: str) -> float:
    try:
        return min(max(float(text), 0.0), 1.0)
    except ValueError:
        return 0.0


def _not_acceptable(what: str) -> Unsupported:
    return Unsupported(f"{what} asks for nothing that is written here: ask for {SERVED}.", id="not-acceptable")


def _shown(text: str) -> str:
    """A foreign text, cut so that no one can make our answers long."""
    return repr(text if len(text) <= 80 else text[:77] + "...")
