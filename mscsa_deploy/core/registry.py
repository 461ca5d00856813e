"""Tables of names whose implementations are imported only when asked for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from importlib import import_module
from types import MappingProxyType
from typing import Generic, TypeVar, cast

from mscsa_deploy.errors import unknown_name

T = TypeVar("T")


class Registry(Generic[T]):
    """A written-out table ``{name: "module:attribute"}``; nothing registers itself by being imported.

    Args:
        kind: What the entries are, for error messages, e.g. ``"runtime"``.
        entries: Where each entry lives.
    """

    def __init__(self, kind: str, entries: Mapping[str, str]) -> None:
        self.kind = kind
        self.entries = MappingProxyType(dict(entries))

    def __iter__(self) -> Iterator[str]:
        return iter(self.entries)

    def __len__(self) -> int:
        return len(self.entries)

    def __contains__(self, name: object) -> bool:
        return name in self.entries

    def load(self, name: str) -> T:
        """The entry called `name`, imported now.

        Raises:
            UserError: No entry has that name; the nearest one is offered.
        """
        if name not in self.entries:
            raise unknown_name(self.kind, name, self.entries)
        module, attribute = self.entries[name].split(":")
        return cast("T", getattr(import_module(module), attribute))
