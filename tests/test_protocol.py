"""A protocol goes to JSON and back, and tells what differs from another."""

from __future__ import annotations

from dataclasses import replace

import pytest

from netgraft.errors import ConfigError
from netgraft.protocol import Protocol, checksum

HERE = Protocol(
    dataset="gopro",
    split="test",
    degradation="as shipped",
    images=1111,
    published=1111,
    names="00000000",
    views="single",
    inference="whole",
    bits=8,
    alignment="none",
)


def test_it_leads_back() -> None:
    assert Protocol.from_dict(HERE.as_dict()) == HERE
    with pytest.raises(ConfigError, match="missing or unknown: bits, depth"):
        Protocol.from_dict({("depth" if key == "bits" else key): value for key, value in HERE.as_dict().items()})


def test_every_difference_is_named() -> None:
    there = replace(HERE, alignment="RealBlur's homography", images=980)
    HERE.require_same(HERE, "itself")
    with pytest.raises(ConfigError, match=r"figures of x\.json .*images 1111 here, 980 there; alignment 'none' here"):
        HERE.require_same(there, "x.json")


def test_the_order_of_names_counts() -> None:
    assert checksum(["a", "b"]) != checksum(["b", "a"])
    assert checksum(["a", "b"]) == checksum(["a", "b"])
