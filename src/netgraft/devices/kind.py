"""What is known of a device before it is opened."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from netgraft.devices.compiler import Compiler
from netgraft.devices.device import Device


def nothing_lacking() -> str:
    """Of a device that needs nothing but its modules."""
    return ""


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceKind:
    """A device that netgraft can open."""

    name: str
    """What the user calls it: ``backend[:hardware][:precision]``."""
    open: Callable[[int], Device]
    """Makes the device, given the threads that one network may use."""
    modules: tuple[str, ...]
    """The Python modules that it needs, by the names that they are imported under."""
    install: str
    """How to get what it needs."""
    note: str
    """What it is, in a line."""
    lacking: Callable[[], str] = nothing_lacking
    """What this machine lacks although the modules are there; empty if nothing."""
    compiler: Callable[[], Compiler] | None = None
    """Makes the compiler, where compiling is all that can be done: then nothing can be timed."""
    timed_by: str = ""
    """Of one that only compiles: the device, by name, that gives latencies of the same hardware; empty if none does."""
    on_request: bool = False
    """Slow, or sent to another's machine: checked only where it is asked for by name."""

    @property
    def no_latency(self) -> str:
        """What to tell who wants a latency of a compiler."""
        real = f"{self.timed_by} for the real phone, or " if self.timed_by else ""
        return f"{self.name} gives no latency: use {real}another device that `netgraft devices` lists"


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceRow:
    """A device as this machine has it."""

    name: str
    available: bool
    """Whether what it needs is here."""
    version: str
    """The modules that it needs, as far as they are installed, with their versions."""
    lacking: str
    """What is missing; empty if it is available."""
    install: str
    """How to get that; empty if it needs nothing."""
    note: str
    on_request: bool
    """Whether it is checked only where it is asked for by name."""
