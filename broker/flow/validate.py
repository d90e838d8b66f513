"""Validates a message against FHIR's own definitions, where a rule asks for it: slow, never on the usual way."""

from __future__ import annotations

import importlib
from typing import Any

from broker.core.fhir.header import Format, Header, Release
from broker.core.outcome import MessageInvalid, Problem, Unsupported

PACKAGES = {  # fhir.resources has R4B for the R4 family: the differences are in resources that messages rarely carry
    Release.STU3: "fhir.resources.STU3",
    Release.R4: "fhir.resources.R4B",
    Release.R4B: "fhir.resources.R4B",
    Release.R5: "fhir.resources",
}
MOST = 20  # problems in one outcome


def validate(body: bytes, header: Header) -> None:
    """Raises MessageInvalid with every problem (up to 20), Unsupported where there is nothing to validate against."""
    package = PACKAGES.get(header.release)
    if header.format is not Format.JSON or package is None:
        raise Unsupported(
            f"this route validates messages, and cannot do so for FHIR {header.release.value} as {header.format.value};"
            " send JSON of STU3, R4, R4B or R5",
            id="cannot-validate",
        )
    bundle: Any = importlib.import_module(f"{package}.bundle").Bundle
    try:
        bundle.model_validate_json(body)
    except ValueError as error:
        problems = _problems(error)
        raise MessageInvalid(
            problems[0].text,
            code="invariant",
            id="invalid-resource",
            expression=problems[0].expression,
            also=problems[1:],
        ) from error


def _problems(error: ValueError) -> tuple[Problem, ...]:
    """Each with the element's place; the values themselves are clinical content and stay out."""
    details = (
        error.errors(include_url=False, include_context=False, include_input=False) if hasattr(error, "errors") else []
    )
    problems = [
        Problem(
            code="invariant",
            id="invalid-resource",
            text=f"{_path(one['loc'])}: {one['msg']}"
            if one["type"] != "value_error"
            else f"{_path(one['loc'])}: not valid",
            expression=(_path(one["loc"]),),
        )
        for one in details[:MOST]
    ]
    return tuple(problems) or (Problem(code="invariant", id="invalid-resource", text="not a valid Bundle"),)


def _path(places: tuple[str | int, ...]) -> str:
    path = "Bundle"
    for place in places:
        path += f"[{place}]" if isinstance(place, int) else f".{place}"
    return path
