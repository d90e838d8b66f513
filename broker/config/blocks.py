"""A channel's own settings: its plain dataclass as a form, and a validated form as its dataclass.

What a plugin may declare: str, int, float, bool, `timedelta`, `pathlib.Path`, enums, `X | None`, `tuple[X, ...]`,
mappings, and dataclasses of these. `field(metadata={"description": …})` is what the settings page says;
`metadata={"size": True}` makes an int a size such as `32MiB`; `metadata={"short": "name"}` lets a text stand for a
mapping with that key alone. A str called `listen` is a listener, and so is a `str | None` with
`metadata={"listener": True}`; a tuple of them called `behind_proxy` is of networks. A field that would be a Python
keyword ends in `_`, its key does not.
"""

from __future__ import annotations

import dataclasses
import functools
import operator
import os
import typing
from collections.abc import Mapping
from datetime import timedelta
from functools import cache
from pathlib import Path
from types import GenericAlias, UnionType
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import Field, GetCoreSchemaHandler, GetJsonSchemaHandler, create_model, model_validator
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import core_schema

from broker.config.kinds import ONE_OR_MORE, Duration, Flag, Form, Listen, Networks, Size, Strings

_KINDS_BY_NAME: dict[tuple[str, Any], Any] = {("listen", str): Listen, ("behind_proxy", tuple[str, ...]): Networks}
_KINDS: dict[Any, Any] = {bool: Flag, timedelta: Duration, tuple[str, ...]: Strings}


class _Short:
    """A text is as good as a mapping that has it under one key."""

    def __init__(self, key: str) -> None:
        self._key = key

    def __call__(self, value: Any) -> Any:
        return {self._key: value} if isinstance(value, str) else value

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> core_schema.CoreSchema:
        return core_schema.no_info_before_validator_function(self, handler(source))

    def __get_pydantic_json_schema__(
        self, schema: core_schema.CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        return {"anyOf": [{"type": "string"}, handler(schema)]}


make: Any = create_model  # its overloads do not know fields that are made of a mapping


@cache
def form_of(settings: type) -> type[Form]:
    """The form that reads a plugin's settings; unknown keys are mistakes, which plain dataclasses would not mind."""
    hints = typing.get_type_hints(settings, include_extras=True)
    fields = {
        # with a `_`, so that no setting's name meets a method of the form's
        f"{field.name}_": _field(field, hints[field.name])
        for field in dataclasses.fields(settings)
        if field.init
    }

    def acceptable(form: Form) -> Form:
        try:
            settings_of(settings, form, Path())  # what the plugin's own `__post_init__` says
        except ValueError:
            raise
        except Exception as error:  # which pydantic would let pass, to end as a traceback
            raise ValueError(f"{type(error).__name__}: {error}") from error
        return form

    form: type[Form] = make(
        settings.__name__,
        __base__=Form,
        __doc__=settings.__doc__,
        __validators__={"acceptable": model_validator(mode="after")(acceptable)},
        **fields,
    )
    return form


def settings_of(settings: type, form: Form, folder: Path) -> Any:
    """The plugin's own value; relative paths start at the folder of the configuration."""
    hints = typing.get_type_hints(settings)
    said = {name.removesuffix("_"): getattr(form, name) for name in form.model_fields_set}
    return settings(**{name: _plain(value, hints[name], folder) for name, value in said.items()})


def _field(field: dataclasses.Field[Any], hint: Any) -> tuple[Any, Any]:
    short = field.metadata.get("short")
    if short is not None:  # of a tuple of dataclasses
        kind: Any = Annotated[
            GenericAlias(tuple, (Annotated[_kind(get_args(hint)[0]), _Short(short)], ...)), ONE_OR_MORE
        ]
    else:
        kind = _KINDS_BY_NAME.get((field.name, hint)) or _kind_by_metadata(field) or _kind(hint)
    said: dict[str, Any] = {"description": field.metadata.get("description"), "alias": key_of(field.name)}
    if field.default is not dataclasses.MISSING:
        return kind, Field(field.default, **said)
    if field.default_factory is not dataclasses.MISSING:
        return kind, Field(default_factory=field.default_factory, **said)
    return kind, Field(**said)


def _kind_by_metadata(field: dataclasses.Field[Any]) -> Any:
    if field.metadata.get("size"):
        return Size
    return Listen | None if field.metadata.get("listener") else None


def listeners(settings: Any) -> list[tuple[str, str]]:
    """The listeners of a channel that are on: key and text of each."""
    fields = [
        field for field in dataclasses.fields(settings) if field.name == "listen" or field.metadata.get("listener")
    ]
    found = [(key_of(field.name), getattr(settings, field.name)) for field in fields]
    return [(key, text) for key, text in found if isinstance(text, str)]


def key_of(name: str) -> str:
    """The key of a field: `from_` is written `from`."""
    return name.removesuffix("_")


def _kind(hint: Any) -> Any:
    if hint in _KINDS:
        return _KINDS[hint]
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        return form_of(hint)
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Annotated:
        return Annotated[(_kind(arguments[0]), *arguments[1:])]
    if origin in (Union, UnionType):
        return functools.reduce(operator.or_, (_kind(argument) for argument in arguments))
    if origin is tuple:
        return Annotated[GenericAlias(tuple, (_kind(arguments[0]), ...)), ONE_OR_MORE]
    if origin is not None and issubclass(origin, Mapping):
        return GenericAlias(dict, tuple(_kind(argument) for argument in arguments))
    return hint


def _plain(value: Any, hint: Any, folder: Path) -> Any:
    """What pydantic made of a value, as what the plugin declared."""
    match value:
        case Form():
            declared = next(kind for kind in _dataclasses_in(hint) if form_of(kind) is type(value))
            return settings_of(declared, value, folder)
        case Path():
            return absolute(value, folder)
        case tuple():
            return tuple(_plain(item, hint, folder) for item in value)
        case dict():
            return {key: _plain(item, hint, folder) for key, item in value.items()}
        case str() if value.startswith("unix:") and hint is str:
            return f"unix:{absolute(value.removeprefix('unix:'), folder)}"
    return value


def absolute(path: str | Path, folder: Path) -> Path:
    """From the folder, without `..`; links stay, so that a certificate that is renewed behind one is found."""
    return Path(os.path.normpath(folder / path))


def _dataclasses_in(hint: Any) -> list[type]:
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        return [hint]
    return [kind for argument in get_args(hint) for kind in _dataclasses_in(argument)]
