"""Reading TOML and JSON into typed records; an unknown key is an error that names the file and the key."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from mscsa_deploy.errors import UserError

T = TypeVar("T")


class Config(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of everything that is read from a file a person writes."""


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """Base of what is written to reports; unlike a recipe, a newer report's extra keys are tolerated."""


def read_toml(path: Path, kind: type[T]) -> T:
    """The TOML file as a `kind`.

    Raises:
        UserError: The file is missing, not TOML, or has a wrong or unknown key.
    """
    try:
        with path.open("rb") as stream:
            data = tomllib.load(stream)
    except OSError as error:
        raise UserError(f"cannot read '{path}': {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"'{path}' is not valid TOML: {error}") from error
    return convert(data, kind, source=str(path))


def read_json(path: Path, kind: type[T]) -> T:
    """The JSON file as a `kind`.

    Raises:
        UserError: The file is missing, not JSON, or does not fit the schema.
    """
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except OSError as error:
        raise UserError(f"cannot read '{path}': {error.strerror}") from error
    except msgspec.DecodeError as error:
        raise UserError(f"'{path}': {error}") from error


def convert(data: Any, kind: type[T], *, source: str, hint: str = "see the README of its folder for the keys") -> T:
    """Plain containers as a `kind`, a path being text; `source` names them in the error, `hint` says what to do."""
    try:
        return msgspec.convert(data, kind, dec_hook=_path)
    except msgspec.ValidationError as error:
        raise UserError(f"'{source}': {error}", hint=hint) from error


def _path(kind: type, value: Any) -> Path:
    if kind is not Path or not isinstance(value, str):
        raise TypeError(f"Expected `{kind.__name__}`, got `{type(value).__name__}`")
    return Path(value)


def to_plain(value: Any) -> Any:
    """Records as plain dicts and lists, ready for JSON."""
    return msgspec.to_builtins(value, str_keys=True)


def to_json(value: Any) -> bytes:
    """Records as UTF-8 JSON with a final newline; keys keep their declared order."""
    return msgspec.json.format(msgspec.json.encode(value), indent=2) + b"\n"
