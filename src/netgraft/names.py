"""Looking a name up, in a table or in a user's own code, with a helpful answer when it is not there."""

from __future__ import annotations

import difflib
import importlib
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from netgraft.errors import ConfigError, first_line

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


def imported(kind: str, reference: str) -> Any:
    """What ``package.module:NAME`` leads to, in what is installed or in the current folder.

    Raises:
        ConfigError: it cannot be imported.
    """
    module, _, name = reference.partition(":")
    if str(Path.cwd()) not in sys.path:
        # A command's path begins with its own folder, not with the user's; last, so that nothing there hides a package.
        sys.path.append(str(Path.cwd()))
    try:
        return getattr(importlib.import_module(module), name)
    # Importing runs the user's code, which may fail in any way.
    except Exception as error:
        raise ConfigError(
            f"{kind} {reference!r} cannot be imported: {first_line(error)}; it must be package.module:NAME"
        ) from error
