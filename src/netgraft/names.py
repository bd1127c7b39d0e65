"""Looking a name up in a table, with a helpful answer when it is not there."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import TypeVar

from netgraft.errors import ConfigError

T = TypeVar("T")


def lookup(kind: str, name: str, table: Mapping[str, T]) -> T:
    """Return ``table[name]``.

    Raises:
        ConfigError: the name is not in the table; the message lists the choices and guesses the nearest.
    """
    try:
        return table[name]
    except KeyError:
        raise ConfigError(unknown(kind, name, table)) from None


def unknown(kind: str, name: str, choices: Mapping[str, object] | list[str] | tuple[str, ...]) -> str:
    """One line that says that ``name`` is no ``kind``, what would be, and which one was probably meant."""
    names = list(choices)
    near = difflib.get_close_matches(name, names, n=1)
    guess = f"did you mean {near[0]!r}? " if near else ""
    return f"unknown {kind} {name!r}: {guess}the choices are {', '.join(names)}"
