"""Helps the tests of what the broker writes: validation by fhir.resources, order of elements, XML as values."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from importlib import import_module
from typing import Any

import orjson

from broker.core.fhir.header import Format, Release

HERE = "{http://hl7.org/fhir}"
ALL = tuple(Release)
R4_AND_LATER = (Release.R4, Release.R4B, Release.R5, Release.R6)

_PACKAGES = {
    Release.DSTU2: "fhir.resources.R4B",
    Release.STU3: "fhir.resources.R4B",
    Release.R4: "fhir.resources.R4B",
    Release.R4B: "fhir.resources.R4B",
    Release.R5: "fhir.resources",
    Release.R6: "fhir.resources",
}


def validated(resource: dict[str, Any], release: Release, package: str | None = None) -> dict[str, Any]:
    """The resource, once fhir.resources found it valid and its elements in the order of the release."""
    name = resource["resourceType"]
    module = import_module(f"{package or _PACKAGES[release]}.{name.lower()}")
    model = getattr(module, name).model_validate(resource)
    _in_order(model, resource)
    return resource


def _in_order(model: Any, data: dict[str, Any]) -> None:
    order = model.elements_sequence()
    keys = [key.removeprefix("_") for key in data if key != "resourceType"]
    places = [order.index(key) for key in keys]
    assert places == sorted(places), (type(model).__name__, keys)
    for key, value in data.items():
        inner = getattr(model, key, None)
        pairs = zip(inner, value, strict=True) if isinstance(value, list) and inner else [(inner, value)]
        for one, raw in pairs:
            if isinstance(raw, dict) and hasattr(one, "elements_sequence"):
                _in_order(one, raw)


def read(body: bytes, format: Format) -> Any:
    return orjson.loads(body) if format is Format.JSON else ET.fromstring(body)


def values_of_xml(body: bytes) -> list[tuple[str, str]]:
    """Every value of an XML resource with its path, as an independent parser reads it."""
    root = ET.fromstring(body)
    found: list[tuple[str, str]] = []
    _walk_xml(root, root.tag.removeprefix(HERE), found)
    return found


def _walk_xml(element: ET.Element, path: str, found: list[tuple[str, str]]) -> None:
    found += [(f"{path}.@{name}" if name != "value" else path, value) for name, value in element.attrib.items()]
    for child in element:
        name = child.tag.removeprefix(HERE)
        if name == child.tag:
            found.append((f"{path}.div", "".join(child.itertext())))
        else:
            _walk_xml(child, f"{path}.{name}", found)


def values_of_json(resource: dict[str, Any]) -> list[tuple[str, str]]:
    """The same for a resource in the form of JSON: what its XML has to hold (without `_element` and extensions)."""
    found: list[tuple[str, str]] = []
    _walk_json(resource, resource["resourceType"], found, is_resource=True)
    return found


def _walk_json(element: dict[str, Any], path: str, found: list[tuple[str, str]], *, is_resource: bool) -> None:
    if "id" in element and not is_resource:
        found.append((f"{path}.@id", element["id"]))
    for name, held in element.items():
        if (name == "resourceType" and not path.endswith(".filterBy")) or (name == "id" and not is_resource):
            continue
        for value in held if isinstance(held, list) else [held]:
            inside = f"{path}.{name}"
            if name == "div":
                found.append((inside, "".join(ET.fromstring(value).itertext())))
            elif name != "filterBy" and isinstance(value, dict) and "resourceType" in value:
                _walk_json(value, f"{inside}.{value['resourceType']}", found, is_resource=True)
            elif isinstance(value, dict):
                _walk_json(value, inside, found, is_resource=False)
            else:
                found.append((inside, str(value).lower() if isinstance(value, bool) else str(value)))
