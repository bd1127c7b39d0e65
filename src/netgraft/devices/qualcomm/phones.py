"""Phones with a Snapdragon, by short names, and what compilers and Qualcomm AI Hub call them and their chips."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType


@dataclass(frozen=True, slots=True, kw_only=True)
class Phone:
    """A phone by its chip."""

    hub_name: str
    """Its name at Qualcomm AI Hub."""
    chip: str
    """Its chip, and the version of the chip's Hexagon NPU."""
    soc_model: int
    """The chip's number in Qualcomm's SDK."""
    htp_arch: int
    """The version of the NPU."""


def _phone(hub_name: str, chip: str, soc_model: int, htp_arch: int) -> Phone:
    return Phone(hub_name=hub_name, chip=f"{chip}, HTP v{htp_arch}", soc_model=soc_model, htp_arch=htp_arch)


PHONES: Mapping[str, Phone] = MappingProxyType(
    {
        "s22-ultra": _phone("Samsung Galaxy S22 Ultra 5G", "Snapdragon 8 Gen 1 (SM8450)", 36, 69),
        "s23-ultra": _phone("Samsung Galaxy S23 Ultra", "Snapdragon 8 Gen 2 (SM8550)", 43, 73),
        "s24-ultra": _phone("Samsung Galaxy S24 Ultra", "Snapdragon 8 Gen 3 (SM8650)", 57, 75),
        "s25-ultra": _phone("Samsung Galaxy S25 Ultra", "Snapdragon 8 Elite (SM8750)", 69, 79),
    }
)
"""By the short names that devices go by."""
