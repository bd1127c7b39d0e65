"""How quality figures come about: two are comparable only where all of it is equal."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from netgraft.errors import ConfigError

METRICS = {
    "psnr": "RGB, per image, then averaged",
    "ssim": "nafnet_3d: one 11x11x11 Gaussian (sigma 1.5) over height, width and channel",
    "ssim_matlab": "per channel, Gaussian 11x11 (sigma 1.5), valid region",
    "mae": "share of the value range, RGB",
}
"""What the figures are, in words."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Protocol:
    """On which images, in which pieces and by which comparison a network was judged."""

    dataset: str
    """Name of the layout, e.g. ``gopro``."""
    split: str
    """e.g. ``test``."""
    degradation: str
    """How the degraded images came about: ``as shipped``, or the synthetic one with its strength and seed."""
    images: int
    """How many."""
    published: int | None
    """How many the split has as published; None if nobody says."""
    names: str
    """Checksum of the images' names, in order."""
    views: str
    """``single``, or ``dual`` pixel."""
    inference: str
    """``whole``, ``tiles of N with an overlap of M`` or ``central crop of N``."""
    bits: int
    """Bits a channel of the network's input, its output and the comparison."""
    alignment: str
    """``none``, or the RealBlur authors' homography."""

    def as_dict(self) -> dict[str, Any]:
        """Plain data, for JSON."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    @staticmethod
    def from_dict(entries: Mapping[str, Any]) -> Protocol:
        """The inverse of :meth:`as_dict`.

        Raises:
            ConfigError: an entry is missing, or one is unknown.
        """
        expected = {field.name for field in fields(Protocol)}
        if expected != set(entries):
            wrong = ", ".join(sorted(expected ^ set(entries)))
            raise ConfigError(f"no protocol of this version of netgraft: missing or unknown: {wrong}; evaluate again")
        return Protocol(**entries)

    def differences(self, other: Protocol) -> dict[str, tuple[Any, Any]]:
        """What differs, by field: this one's value and the other's."""
        pairs = {field.name: (getattr(self, field.name), getattr(other, field.name)) for field in fields(self)}
        return {name: (a, b) for name, (a, b) in pairs.items() if a != b}

    def require_same(self, other: Protocol, what: str) -> None:
        """Refuse a comparison with figures of another protocol; ``what`` names where they come from.

        Raises:
            ConfigError: the two differ.
        """
        found = self.differences(other)
        if found:
            described = "; ".join(f"{name} {mine!r} here, {theirs!r} there" for name, (mine, theirs) in found.items())
            raise ConfigError(f"figures of {what} cannot be compared with these, their protocols differ: {described}")


def checksum(names: Sequence[str]) -> str:
    """Eight hexadecimal digits that tell sets of images apart."""
    return f"{zlib.crc32(chr(10).join(names).encode()):08x}"
